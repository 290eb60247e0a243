"""One step being made, then in flight: what goes to the engine, and whose each part of its answer is."""

from collections.abc import Sequence as Columns

import msgspec

from jedlik.core.ids import BlockIndex, Lane
from jedlik.core.protocol import RUN_AHEAD_TOKENS
from jedlik.core.step import Chunk, Open, Step
from jedlik.perf.step import StepShape
from jedlik.scheduling.sequence import Sequence


class StepPlan:
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
            step_id=self.step_id,
            closed=self.closed,
            opened=self.opened,
            tables=self.tables,
            prefills=self.prefills,
            decodes=self.decodes,
            decode_context=self.context,
            predicted_s=self.predicted_s,
            repeat=self.repeat,
        )

    def sampled_lanes(self) -> list[Lane]:
        """The lanes of the answer, in its order."""
        return [chunk.lane for chunk in self.prefills if chunk.sample] + self.decodes


def chunk_length(start: int, remaining: int, budget: int, block_size: int) -> int:
    """Tokens to prefill now from position `start`, of `remaining` left in the history, within `budget`; 0 is none.

    Falls back to an unaligned chunk where the budget ends before the first border: slow progress beats none.
    """
    if remaining <= budget:
        return remaining
    if budget <= 0:
        return 0
    aligned = (start + budget) // block_size * block_size - start
    return aligned if aligned > 0 else budget


class Leaps(msgspec.Struct, frozen=True):
    """The limits of the steps that a worker node may take together."""

    longest: int = 1
    """Steps in one leap, at most."""
    window_tokens: int = RUN_AHEAD_TOKENS
    """Simulated clients take tokens at once: a window that never closes stands for acknowledgements in time."""


LIVE = Leaps()


def leap_steps(decoded: Columns[Sequence], longest: int, block_size: int, available_blocks: int) -> int:
    """Return how many steps in a row these sequences can decode from here; their next step is planned (counted)
    already."""
    steps = longest
    for s in decoded:
        if s.stops:
            return 1
        remaining = s.stop_at - s.expected + 1
        if remaining < steps:
            steps = remaining
    if len(decoded) * (steps // block_size + 1) > available_blocks:
        while steps > 1 and _missing(decoded, steps, block_size) > available_blocks:
            steps //= 2
    return max(1, steps)


def _missing(decoded: Columns[Sequence], steps: int, block_size: int) -> int:
    return sum(-(-(s.scheduled + steps - 1) // block_size) - len(s.blocks) for s in decoded)
