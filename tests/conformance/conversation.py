"""A gateway's side of one connection to a worker, as docs/protocol.md describes it.

`Conversation` knows a worker by its socket alone: it imports the protocol and nothing of a worker. It checks the rules
that hold for every message, and records the messages for the tests' own assertions.
"""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from jedlik.core.ids import GatewayId, Handle
from jedlik.core.protocol import (
    SCHEMA_VERSION,
    Ack,
    Cancel,
    Card,
    Counters,
    Facts,
    Finished,
    Goodbye,
    Granted,
    Hello,
    Load,
    Pushed,
    Released,
    Resync,
    Snapshot,
    Started,
    State,
    Submit,
    ToGateway,
    Tokens,
)
from jedlik.core.wire import HEADER_BYTES, body_length, decode_to_gateway, encode, frame
from worker_world import CacheView

PATIENCE_S = 30.0


class Conversation:
    """What one gateway says to a worker, and what it hears. Made by `connected`; `close` at the end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.messages: list[ToGateway] = []
        self.tokens: dict[int, list[int]] = {}
        self.started: dict[int, Started] = {}
        self.finished: dict[int, Finished] = {}
        self.view = CacheView()
        self.auto_ack = True
        self.ended = False
        """The worker closed the connection."""
        self._reader, self._writer = reader, writer
        self._submits = 0
        self._changed = asyncio.Event()
        self._wrong: BaseException | None = None
        self._reading = asyncio.create_task(self._read())

    @property
    def card(self) -> Card:
        first = self.messages[0]
        assert isinstance(first, Card)
        return first

    def of(self, *kinds: type) -> list[ToGateway]:
        """The messages of some kinds, in order."""
        return [message for message in self.messages if isinstance(message, kinds)]

    @property
    def load(self) -> Load:
        """The last load report."""
        last = self.of(Load)[-1]
        assert isinstance(last, Load)
        return last

    @property
    def largest_batch(self) -> int:
        """The largest number of attempts that one step gave a token."""
        return max(len(message.handles) for message in self.messages if isinstance(message, Tokens))

    def say(self, message: Hello | Submit | Cancel | Ack | Resync | Goodbye) -> None:
        if isinstance(message, Submit):
            self._submits += 1
            message = msgspec.structs.replace(message, number=self._submits)
        self._writer.write(encode(message))

    def say_as_an_older_release(self, submit: Submit) -> None:
        """Send a submit without the fields that have been appended to the first version."""
        self._submits += 1
        fields = msgspec.msgpack.decode(msgspec.msgpack.encode(msgspec.structs.replace(submit, number=self._submits)))
        known = 1 + Submit.__struct_fields__.index("number") + 1  # the tag comes first
        self._writer.write(frame(msgspec.msgpack.encode(fields[:known])))

    async def until(self, met: Callable[[], bool]) -> None:
        """Wait for a condition on what was heard."""
        async with asyncio.timeout(PATIENCE_S):
            while not met():
                if self._wrong is not None:
                    raise self._wrong
                self._changed.clear()
                await self._changed.wait()

    async def answer(self, submit: Submit) -> list[int]:
        """The whole answer to one request."""
        self.say(submit)
        await self.until(lambda: submit.handle in self.finished)
        return self.tokens.get(submit.handle, [])

    async def close(self) -> None:
        """End the connection without a word. Raises what was wrong with the worker's messages."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        if self._wrong is not None:
            raise self._wrong

    async def _read(self) -> None:
        try:
            while True:
                header = await self._reader.readexactly(HEADER_BYTES)
                self._hear(decode_to_gateway(await self._reader.readexactly(body_length(header))))
                self._changed.set()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended = True
        except (Exception, AssertionError) as error:  # handed to whoever waits, who would wait for ever otherwise
            self._wrong = error
        self._changed.set()

    def _hear(self, message: ToGateway) -> None:
        assert not isinstance(message, Granted | Pushed | Released), "no hand-off was asked for"
        assert isinstance(message, Card) == (not self.messages), "the card comes first, and once"
        self.messages.append(message)
        if isinstance(message, (Facts, Snapshot)):
            if message.tier == 0:
                self.view.take(message)
        elif isinstance(message, Tokens):
            self._take(message)
            if self.auto_ack and (alive := [Handle(h) for h in self.tokens if h not in self.finished]):
                self.say(Ack(alive, [len(self.tokens[h]) for h in alive]))

    def _take(self, message: Tokens) -> None:
        for started in message.started:
            self.started[started.handle] = started
        for handle, token in zip(message.handles, message.tokens, strict=True):
            assert handle in self.started
            assert handle not in self.finished
            self.tokens.setdefault(handle, []).append(token)
        for finished in message.finished:
            assert finished.handle not in self.finished
            self.finished[finished.handle] = finished


async def connected(address: str, gateway: str) -> Conversation:
    """Connect to a worker at `unix:PATH` and say hello; returns when the worker has said what it holds."""
    reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    conversation = Conversation(reader, writer)
    conversation.say(Hello(SCHEMA_VERSION, GatewayId(gateway)))
    await conversation.until(lambda: conversation.view.complete)
    opening = [type(message) for message in conversation.messages if not isinstance(message, Counters)]
    assert opening[:4] == [Card, State, Load, Snapshot]
    return conversation
