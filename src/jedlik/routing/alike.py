"""Workers alike: of one kind, so that the same work takes them the same time, as far as anybody can tell.

What each has learnt of its steps differs by noise of some per cent, and whoever seems the quickest would get every
request of an idle fleet. So workers of one kind share the mean of what all have learnt, weighted by how many steps that
is. A worker whose recent steps take clearly longer than they would at the others is slow, not unlucky: it counts by its
own figures and is excluded from the mean, until it has rested for so long that another try is due. The
corrections of times to first token are shared where nothing but noise can tell them apart: at idle workers.
"""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import astuple

from jedlik.core.config import Role
from jedlik.core.protocol import Card, Layout, StepCosts
from jedlik.routing.fitted import FittedCosts

SLOWER = 1.3
"""A worker that takes this many times what the others take is slow: more is no noise."""
REST_S = 10.0
"""A slow worker that has run no step for so long may be slow no more: nobody would learn it without a request."""
MOST_STEPS = 500
"""Older steps are forgotten (`perf/fit`): more add nothing to what a worker knows."""
COSTS = len(StepCosts.__struct_fields__)


class WorkerKind(NamedTuple):
    """The properties that workers alike have in common, as far as their cards say."""

    model: str
    revision: str
    layout: Layout
    total_blocks: int
    max_sequences: int
    max_step_tokens: int
    reports_costs: bool
    role: Role
    """A worker that only prefills learns nothing of decoding, and its times to first token are of hand-offs."""


def kind_of(card: Card, role: Role) -> WorkerKind:
    """Return the kind of a worker."""
    return WorkerKind(
        model=card.model,
        revision=card.revision,
        layout=card.layout,
        total_blocks=card.total_blocks,
        max_sequences=card.max_sequences,
        max_step_tokens=card.max_step_tokens,
        reports_costs=card.capabilities.step_costs,
        role=role,
    )


class Addend(NamedTuple):
    """One worker's part of a mean."""

    weight: float
    values: tuple[float, ...]


class Mean:
    """A weighted mean of parts that come and go."""

    def __init__(self, width: int) -> None:
        self._parts = 0
        self._weight = 0.0
        self._totals = [0.0] * width

    def add(self, part: Addend, sign: int = 1) -> None:
        """Add a worker's part; with a sign of -1 take it away."""
        self._parts += sign
        self._weight += sign * part.weight
        for at, value in enumerate(part.values):
            self._totals[at] += sign * part.weight * value
        if not self._parts:  # rounding errors go too
            self._weight, self._totals = 0.0, [0.0] * len(self._totals)

    def values(self, without: Addend | None = None) -> Sequence[float] | None:
        """Return the mean, perhaps without one of its parts; None if no other remains."""
        if self._parts <= (without is not None):
            return None
        if without is None:
            return [total / self._weight for total in self._totals]
        weight = self._weight - without.weight
        pairs = zip(self._totals, without.values, strict=True)
        return [max(0.0, total - without.weight * value) / weight for total, value in pairs]


class Alike:
    """The step costs and corrections that workers of one kind share."""

    def __init__(self, fitted: FittedCosts | None = None) -> None:
        self.fitted = fitted
        """The costs that the gateway fits, if workers of this kind report none."""
        self._costs = Mean(COSTS)
        self._shared: StepCosts | None = None
        self._corrections = Mean(1)

    @property
    def costs(self) -> StepCosts | None:
        """The step costs by the mean of all workers that count."""
        if self._shared is None and (values := self._costs.values()) is not None:
            self._shared = StepCosts.of(values)
        return self._shared

    def learn(self, before: Addend | None, costs: StepCosts, shape: Sequence[float], steps: int) -> Addend | None:
        """Take a worker's costs, learnt from so many steps, in place of its part `before`; None: it is a slow one.

        `shape` is what its recent steps were like, on average.
        """
        values, others = astuple(costs), self._costs.values(before)
        if others is not None and _step_s(values, shape) > SLOWER * _step_s(others, shape):
            self.forget(before)
            return None
        if before is not None and before.values == values:
            return before
        part = Addend(float(min(max(1, steps), MOST_STEPS)), values)
        self.forget(before)
        self._costs.add(part)
        self._shared = None
        return part

    def forget(self, part: Addend | None) -> None:
        """Take a worker's costs out of the mean."""
        if part is not None:
            self._costs.add(part, -1)
            self._shared = None

    def corrected(self, before: float | None, after: float | None) -> None:
        """Take a worker's changed correction; None: it has none (yet, or any more)."""
        if before is not None:
            self._corrections.add(Addend(1.0, (before,)), -1)
        if after is not None:
            self._corrections.add(Addend(1.0, (after,)))

    @property
    def correction(self) -> float:
        """The factor for times to first token, by the mean of all workers that have a correction."""
        mean = self._corrections.values()
        return 1.0 if mean is None else mean[0]


def _step_s(costs: Sequence[float], shape: Sequence[float]) -> float:
    base_s, token_s, pair_s, sequence_s, context_s = costs
    tokens, pairs, sequences, context = shape
    return base_s + token_s * tokens + pair_s * pairs + sequence_s * sequences + context_s * context
