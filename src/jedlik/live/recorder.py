"""The event log: every event a node handled, when, and what it decided; and the log played back to a node.

A file is frames of `length (4 bytes, big endian) | msgpack [now, event, effects]`. Appended, flushed every frame to the
kernel, so a killed process loses nothing. A cut last frame is ignored in reading.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from jedlik.core.effects import GatewayEffect, PlannerEffect, WorkerEffect
from jedlik.core.events import GatewayEvent, PlannerEvent, WorkerEvent

Event = TypeVar("Event")
Effect = TypeVar("Effect")
LENGTH_BYTES = 4


class Recorded(msgspec.Struct, Generic[Event, Effect], frozen=True, array_like=True):
    """One turn of a node."""

    now: float
    event: Event
    effects: list[Effect]


GatewayTurn = Recorded[GatewayEvent, GatewayEffect]
WorkerTurn = Recorded[WorkerEvent, WorkerEffect]
PlannerTurn = Recorded[PlannerEvent, PlannerEffect]


class EventLog(Generic[Event, Effect]):
    """Writes one node's log. `redact` is applied to events and effects; identity keeps everything."""

    def __init__(self, path: Path, redact: Callable[[Event], Event], redact_effect: Callable[[Effect], Effect]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._redact = redact
        self._redact_effect = redact_effect
        self._encoder = msgspec.msgpack.Encoder()

    def record(self, event: Event, effects: Sequence[Effect], now: float) -> None:
        kept = Recorded(now, self._redact(event), [self._redact_effect(effect) for effect in effects])
        body = self._encoder.encode(kept)
        self._file.write(len(body).to_bytes(LENGTH_BYTES, "big") + body)

    def close(self) -> None:
        self._file.close()


def read(path: Path, turn: type[Recorded[Event, Effect]]) -> Iterator[Recorded[Event, Effect]]:
    """The turns of a log, oldest first. Raises msgspec.ValidationError for another node's or release's log."""
    decoder = msgspec.msgpack.Decoder(turn)
    data = path.read_bytes()
    at = 0
    while at + LENGTH_BYTES <= len(data):
        end = at + LENGTH_BYTES + int.from_bytes(data[at : at + LENGTH_BYTES], "big")
        if end > len(data):
            return
        yield decoder.decode(data[at + LENGTH_BYTES : end])
        at = end


class Difference(msgspec.Struct, frozen=True):
    """A turn that came out otherwise."""

    turn: int
    now: float
    event: object
    recorded: list[object]
    replayed: list[object]


def replay(
    turns: Iterator[Recorded[Event, Effect]], handle: Callable[[Event, float], list[Effect]]
) -> Iterator[Difference]:
    """Feed a log to a fresh node; every turn whose effects differ from the recorded ones."""
    for number, turn in enumerate(turns):
        effects = handle(turn.event, turn.now)
        if effects != turn.effects:
            yield Difference(number, turn.now, turn.event, list(turn.effects), list(effects))
