"""One step being made, then in flight: what goes to the engine, and whose each part of its answer is."""

from jedlik.core.ids import BlockIndex, Lane
from jedlik.core.step import Chunk, Open, Step
from jedlik.perf.step import StepShape
from jedlik.scheduling.sequence import Sequence


class Plan:
    """Filled by `Batch.plan`, read when the step has ended."""

    __slots__ = (
        "chunked",
        "closed",
        "context",
        "decoded",
        "decodes",
        "head",
        "interrupted",
        "opened",
        "pairs",
        "predicted_s",
        "preempted",
        "prefill_sampled",
        "prefill_tokens",
        "prefills",
        "repeat",
        "step_id",
        "tables",
    )

    def __init__(self, step_id: int, closed: list[Lane]) -> None:
        self.step_id, self.closed = step_id, closed
        self.opened: list[Open] = []
        self.tables: list[tuple[Lane, list[BlockIndex]]] = []
        self.prefills: list[Chunk] = []
        self.decodes: list[Lane] = []
        self.chunked: list[Sequence] = []
        """Of `prefills`, in order."""
        self.prefill_sampled: list[Sequence] = []
        self.decoded: list[Sequence] = []
        """Of `decodes`, in order."""
        self.context = self.prefill_tokens = self.pairs = self.preempted = 0
        self.predicted_s: float | None = None
        self.repeat = 1
        """Steps of a leap."""
        self.interrupted = False
        """The engine was told to end it early."""
        self.head: Sequence | None = None
        """Of a leap: who was first in line, and could not be admitted."""

    @property
    def shape(self) -> StepShape:
        return StepShape(self.prefill_tokens, self.pairs, len(self.decodes), self.context)

    def step(self) -> Step:
        return Step(
            self.step_id,
            self.closed,
            self.opened,
            self.tables,
            self.prefills,
            self.decodes,
            self.context,
            self.predicted_s,
            self.repeat,
        )

    def sampled_lanes(self) -> list[Lane]:
        """The lanes of the answer, in its order."""
        return [chunk.lane for chunk in self.prefills if chunk.sample] + self.decodes
