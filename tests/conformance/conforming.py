"""A worker that schedules itself, over any engine, spoken to in messages as they travel.

`Conforming` joins a `WorkerNode` and an engine on a loop, as live/ does, and passes every message through the wire's
encoding. To run the suite against another engine, add a maker to `MAKERS` in test_worker_protocol.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from jedlik.core.config import WorkerConfig
from jedlik.core.effects import Drained, RunStep, ToGatewayEffect
from jedlik.core.events import Drain, FromGateway, GatewayJoined, GatewayLost, StepEnded, Woken
from jedlik.core.ids import GatewayId, Handle
from jedlik.core.protocol import (
    Ack,
    Cancel,
    Card,
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
    Tokens,
)
from jedlik.core.step import Step, StepDone
from jedlik.core.wire import HEADER_BYTES, body_length, decode_to_gateway, decode_to_worker, encode
from jedlik.kv.hashing import BlockHasher
from jedlik.nodes.worker.node import WorkerNode
from worker_world import KEY, CacheView

GATEWAY = GatewayId("g@1")
PATIENCE_S = 30.0


class Engine(Protocol):
    def start(self, on_done: Callable[[StepDone], None]) -> None: ...

    def submit(self, step: Step) -> None: ...

    def close(self) -> None: ...


Maker = Callable[[], tuple[Engine, Card]]


class Conforming:
    """One worker and what one gateway hears of it. Use inside a running loop; `close` at the end."""

    def __init__(self, maker: Maker, run_ahead: bool = True) -> None:
        self.engine, self.card = maker()
        config = WorkerConfig(
            load_period_s=0.001,
            block_size=self.card.layout.block_size,
            max_sequences=self.card.max_sequences,
            max_step_tokens=32,
            run_ahead=run_ahead,
        )
        self.node = WorkerNode(self.card, config, BlockHasher(KEY, self.card.revision, config.block_size))
        self.loop = asyncio.get_running_loop()
        self.heard: list[State | Load | Facts | Snapshot | Tokens] = []
        self.tokens: dict[int, list[int]] = {}
        self.started: dict[int, Started] = {}
        self.finished: dict[int, Finished] = {}
        self.view = CacheView()
        self.steps: list[Step] = []
        self.drained = False
        self.auto_ack = True
        self._changed = asyncio.Event()
        self._wrong: BaseException | None = None
        self.engine.start(self._done)
        self.event(GatewayJoined(GATEWAY))

    def say(self, message: Submit | Cancel | Ack | Resync | Goodbye) -> None:
        frame = encode(message)
        decoded = decode_to_worker(frame[HEADER_BYTES:])
        assert not isinstance(decoded, Hello)
        assert body_length(frame[:HEADER_BYTES]) == len(frame) - HEADER_BYTES
        self.event(FromGateway(GATEWAY, decoded))

    def event(self, event: GatewayJoined | GatewayLost | FromGateway | StepEnded | Woken | Drain) -> None:
        for effect in self.node.handle(event, self.loop.time()):
            if isinstance(effect, ToGatewayEffect):
                self._hear(effect)
            elif isinstance(effect, RunStep):
                self.steps.append(effect.step)
                self.engine.submit(effect.step)
            elif isinstance(effect, Drained):
                self.drained = True
        self._changed.set()

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

    def close(self) -> None:
        self.engine.close()
        self.node.check()

    def _done(self, done: StepDone) -> None:
        self.loop.call_soon_threadsafe(self._ended, done)  # an engine may call from a thread of its own

    def _ended(self, done: StepDone) -> None:
        try:
            self.event(StepEnded(done))
            if self.auto_ack and (alive := [Handle(h) for h in self.tokens if h not in self.finished]):
                self.say(Ack(alive, [len(self.tokens[h]) for h in alive]))
        except BaseException as error:  # handed to whoever waits, who would wait for ever otherwise
            self._wrong = error
            self._changed.set()

    def _hear(self, effect: ToGatewayEffect) -> None:
        message = decode_to_gateway(encode(effect.message)[HEADER_BYTES:])
        assert not isinstance(message, Card | Granted | Pushed | Released)
        assert message == effect.message
        self.heard.append(message)
        if isinstance(message, (Facts, Snapshot)):
            self.view.take(message)
        elif isinstance(message, Tokens):
            for started in message.started:
                self.started[started.handle] = started
            for handle, token in zip(message.handles, message.tokens, strict=True):
                assert handle in self.started
                assert handle not in self.finished
                self.tokens.setdefault(handle, []).append(token)
            for finished in message.finished:
                assert finished.handle not in self.finished
                self.finished[finished.handle] = finished
