"""The event log: every event a node handled, when, and what it decided; and the log played back to a node.

A file is `MAGIC`, then frames of `length | CRC-32 of the body | msgpack [now, event, effects]`, big-endian numbers of 4
bytes. Appended, flushed every frame to the kernel, so a killed process loses nothing but the frame it was
writing. Reading tells such a cut last frame from damage. Only this user can read it.
"""

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from jedlik.core.effects import GatewayEffect, PlannerEffect, WorkerEffect
from jedlik.core.errors import ConfigError
from jedlik.core.events import GatewayEvent, PlannerEvent, WorkerEvent
from jedlik.transfer.private import close_folder, open_private

Event = TypeVar("Event")
Effect = TypeVar("Effect")
MAGIC = b"jedlik event log 1\n"
NUMBER_BYTES = 4
HEAD_BYTES = 2 * NUMBER_BYTES


class LogRecord(msgspec.Struct, Generic[Event, Effect], frozen=True, array_like=True):
    """One turn of a node."""

    now: float
    event: Event
    effects: list[Effect]


GatewayTurn = LogRecord[GatewayEvent, GatewayEffect]
WorkerTurn = LogRecord[WorkerEvent, WorkerEffect]
PlannerTurn = LogRecord[PlannerEvent, PlannerEffect]


def is_log(name: str) -> bool:
    """Whether a file of this name is a log of ours, or what is written beside one."""
    return "@" in name and name.endswith((".log", ".json"))


class EventLog(Generic[Event, Effect]):
    """Writes one node's log. `redact` is applied to events and effects; identity keeps everything."""

    def __init__(self, path: Path, redact: Callable[[Event], Event], redact_effect: Callable[[Effect], Effect]) -> None:
        close_folder(path.parent, is_log)
        self._file = open(open_private(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab", buffering=0)  # noqa: SIM115
        if not os.fstat(self._file.fileno()).st_size:
            self._file.write(MAGIC)
        self._redact = redact
        self._redact_effect = redact_effect
        self._encoder = msgspec.msgpack.Encoder()

    def record(self, event: Event, effects: Sequence[Effect], now: float) -> None:
        record = LogRecord(now, self._redact(event), [self._redact_effect(effect) for effect in effects])
        body = self._encoder.encode(record)
        head = len(body).to_bytes(NUMBER_BYTES, "big") + zlib.crc32(body).to_bytes(NUMBER_BYTES, "big")
        self._file.write(head + body)

    def close(self) -> None:
        self._file.close()


class Recording(Generic[Event, Effect]):
    """The turns of a log, oldest first."""

    def __init__(self, path: Path, turn: type[LogRecord[Event, Effect]]) -> None:
        self._path, self._decoder = path, msgspec.msgpack.Decoder(turn)
        self.cut_bytes = 0
        """At the end, of a frame whose writer was killed; known once all turns have been read."""

    def __iter__(self) -> Iterator[LogRecord[Event, Effect]]:
        """Raises ConfigError for what is no log, is damaged, or is of another kind of node or another release."""
        data = self._path.read_bytes()
        if not data:
            raise ConfigError(f"{self._path} is empty: nothing was recorded there")
        if not data.startswith(MAGIC):
            raise ConfigError(
                f"{self._path} is no event log of this release: it does not begin with {MAGIC.decode()!r}"
            )
        at, turn = len(MAGIC), 0
        while at < len(data):
            head, at = data[at : at + HEAD_BYTES], at + HEAD_BYTES
            end = at + int.from_bytes(head[:NUMBER_BYTES], "big")
            body = data[at:end]
            if (len(head) < HEAD_BYTES or end > len(data)) and _begins(body):
                self.cut_bytes = len(head) + len(body)
                return
            if zlib.crc32(body) != int.from_bytes(head[NUMBER_BYTES:], "big"):
                raise ConfigError(f"{self._path} is damaged in turn {turn}, near byte {at}: copy it again")
            try:
                yield self._decoder.decode(body)
            except msgspec.MsgspecError as error:
                raise ConfigError(
                    f"{self._path}: turn {turn} is none that this release knows from such a node ({error}): "
                    "is it another node's log, or another release's?"
                ) from None
            at, turn = end, turn + 1


def read(path: Path, turn: type[LogRecord[Event, Effect]]) -> Recording[Event, Effect]:
    """The turns of a log."""
    return Recording(path, turn)


def _begins(body: bytes) -> bool:
    """Whether this is the beginning of a turn and nothing else: what a writer leaves that was killed in mid-frame."""
    try:
        msgspec.msgpack.decode(body)
    except msgspec.DecodeError as error:
        return "truncated" in str(error)
    return False


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that came out otherwise."""

    turn: int
    now: float
    event: object
    recorded: list[object]
    replayed: list[object]
    failure: str = ""
    """The exception that the node raised; nothing can be compared after that."""


class LogReplay(Generic[Event, Effect]):
    """Feeds a log to a fresh node. Iterating gives every turn whose effects differ from the recorded ones."""

    def __init__(
        self, turns: Iterable[LogRecord[Event, Effect]], handle: Callable[[Event, float], list[Effect]]
    ) -> None:
        self._turns, self._handle = turns, handle
        self.events = self.decisions = 0
        """Compared so far; decisions are effects."""

    def __iter__(self) -> Iterator[Difference]:
        for number, turn in enumerate(self._turns):
            self.events += 1
            self.decisions += len(turn.effects)
            try:
                effects = self._handle(turn.event, turn.now)
            except Exception as error:  # another release's node, put through what it never saw
                failure = f"{type(error).__name__}: {error}"
                yield Difference(
                    turn=number,
                    now=turn.now,
                    event=turn.event,
                    recorded=list(turn.effects),
                    replayed=[],
                    failure=failure,
                )
                return
            if effects != turn.effects:
                yield Difference(
                    turn=number, now=turn.now, event=turn.event, recorded=list(turn.effects), replayed=list(effects)
                )
