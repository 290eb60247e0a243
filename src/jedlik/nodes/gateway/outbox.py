"""What one event makes a gateway say: at most one `Deliver`, then the other effects in order."""

from jedlik.core.effects import Deliver, GatewayEffect, Note, StreamEnded, StreamStarted, ToWorkerEffect
from jedlik.core.facts import Fact
from jedlik.core.ids import StreamId, WorkerId
from jedlik.core.protocol import Ack, AssumeRole, Cancel, Resync, Submit
from jedlik.core.step import TokenLogprobs


class Outbox:
    """Columns for the frontend and a list of effects, filled while an event is handled."""

    __slots__ = ("effects", "ended", "logprobs", "started", "streams", "tokens")

    def __init__(self) -> None:
        self.streams: list[StreamId] = []
        self.tokens: list[int] = []
        self.started: list[StreamStarted] = []
        self.ended: list[StreamEnded] = []
        self.logprobs: list[tuple[StreamId, TokenLogprobs]] = []
        self.effects: list[GatewayEffect] = []

    def send(self, worker: WorkerId, message: Submit | Cancel | Ack | Resync | AssumeRole) -> None:
        """To a worker."""
        self.effects.append(ToWorkerEffect(worker, message))

    def note(self, fact: Fact) -> None:
        """To telemetry."""
        self.effects.append(Note(fact))

    def close(self) -> list[GatewayEffect]:
        """Everything, the delivery first."""
        if not (self.streams or self.started or self.ended):
            return self.effects
        deliver = Deliver(
            streams=self.streams, tokens=self.tokens, started=self.started, ended=self.ended, logprobs=self.logprobs
        )
        return [deliver, *self.effects]
