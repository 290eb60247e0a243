"""Workers alike: of one kind, so that the same work takes them the same time, as far as anybody can tell.

What each has learnt of its steps differs by noise of some per cent, and whoever seems the quickest would get every
request of an idle fleet. So workers of one kind share the mean of what all have learnt, weighted by how many steps that
is. Whoever's own steps, as they were lately, take clearly longer than they would at the others is slow, not unlucky: it
counts by its own figures and is left out of the mean, until it has rested for so long that it is worth another try. The
corrections of times to first token are shared where nothing but noise can tell them apart: at idle workers.
"""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import astuple

from jedlik.core.config import Role
from jedlik.core.protocol import Card, Layout, StepCosts

SLOWER = 1.3
"""Times what the others take: more is no noise."""
REST_S = 10.0
"""A slow worker that has run no step for so long may be slow no more: nobody would learn it without a request."""
MOST_STEPS = 500
"""Older steps are forgotten (`perf/fit`): more add nothing to what a worker knows."""
COSTS = len(StepCosts.__struct_fields__)


class Kind(NamedTuple):
    """What workers alike have in common, as far as their cards tell."""

    model: str
    revision: str
    layout: Layout
    total_blocks: int
    max_sequences: int
    max_step_tokens: int
    role: Role
    """Whoever only prefills learns nothing of decoding, and its times to first token are of hand-offs."""


def kind_of(card: Card, role: Role) -> Kind:
    """The kind of a worker."""
    blocks, sequences, tokens = card.total_blocks, card.max_sequences, card.max_step_tokens
    return Kind(card.model, card.revision, card.layout, blocks, sequences, tokens, role)


class Row(NamedTuple):
    """What one worker adds to a mean."""

    weight: float
    values: tuple[float, ...]


class Mean:
    """A weighted mean of rows that come and go."""

    def __init__(self, width: int) -> None:
        self._rows = 0
        self._weight = 0.0
        self._totals = [0.0] * width

    def add(self, row: Row, sign: int = 1) -> None:
        """A row comes; with a sign of -1 it goes."""
        self._rows += sign
        self._weight += sign * row.weight
        for at, value in enumerate(row.values):
            self._totals[at] += sign * row.weight * value
        if not self._rows:  # what rounding left behind goes too
            self._weight, self._totals = 0.0, [0.0] * len(self._totals)

    def values(self, without: Row | None = None) -> Sequence[float] | None:
        """The mean, perhaps without one of its rows; None where no other is left."""
        if self._rows <= (without is not None):
            return None
        if without is None:
            return [total / self._weight for total in self._totals]
        weight = self._weight - without.weight
        pairs = zip(self._totals, without.values, strict=True)
        return [max(0.0, total - without.weight * value) / weight for total, value in pairs]


class Alike:
    """What workers of one kind share."""

    def __init__(self) -> None:
        self._costs = Mean(COSTS)
        self._shared: StepCosts | None = None
        self._corrections = Mean(1)

    @property
    def costs(self) -> StepCosts | None:
        """What a step takes, by the mean of all that count."""
        if self._shared is None and (values := self._costs.values()) is not None:
            self._shared = StepCosts.of(values)
        return self._shared

    def learn(self, before: Row | None, costs: StepCosts, shape: Sequence[float], steps: int) -> Row | None:
        """Take a worker's costs, learnt from so many steps, in place of its row `before`; None: it is a slow one.

        `shape` is what its steps were like lately, on average.
        """
        values, others = astuple(costs), self._costs.values(before)
        if others is not None and _step_s(values, shape) > SLOWER * _step_s(others, shape):
            self.forget(before)
            return None
        if before is not None and before.values == values:
            return before
        row = Row(float(min(max(1, steps), MOST_STEPS)), values)
        self.forget(before)
        self._costs.add(row)
        self._shared = None
        return row

    def forget(self, row: Row | None) -> None:
        """A worker's costs count no more."""
        if row is not None:
            self._costs.add(row, -1)
            self._shared = None

    def corrected(self, before: float | None, now: float | None) -> None:
        """A worker's correction has changed; None: it has none (yet, or any more)."""
        if before is not None:
            self._corrections.add(Row(1.0, (before,)), -1)
        if now is not None:
            self._corrections.add(Row(1.0, (now,)))

    @property
    def correction(self) -> float:
        """What times to first token are multiplied by, by the mean of all that have a correction."""
        mean = self._corrections.values()
        return 1.0 if mean is None else mean[0]


def _step_s(costs: Sequence[float], shape: Sequence[float]) -> float:
    base_s, token_s, pair_s, sequence_s, context_s = costs
    tokens, pairs, sequences, context = shape
    return base_s + token_s * tokens + pair_s * pairs + sequence_s * sequences + context_s * context
