"""Learns `StepCosts` from steps that ran: weighted least squares, non-negative, forgetting slowly.

Errors are relative to the prediction, so that steps of 1 ms and 1 s count alike; a stall of a hundred times the usual
weighs less than a common step. Sums are updated at every step, the 5 x 5 system is relaxed from the last answer only
now and then. What was not seen lately keeps its last value.
"""

from jedlik.core.protocol import StepCosts
from jedlik.perf.step import MeanShape, StepShape, shape_s

TERMS = 5
FORGET = 0.998
"""The weight that old steps keep at each new one: a half-life of about 350 steps."""
SOLVE_EVERY = 16
SWEEPS = 40
FIRST_SWEEPS = 400
ENOUGH_STEPS = 8
ENOUGH_PREFILL_TOKENS = 64
ONLY_PREFILL_STEPS = 32
SHORTEST_S = 1e-5
"""Below this a clock says nothing, and a relative error everything."""
SLOWEST = 3.0
"""A step slower than this many times its prediction counts less the slower it was."""
FAINT = 1e-9
"""A term whose weighted sum of squares is below this says nothing."""


class StepFit:
    """One engine's costs, as far as they are known."""

    def __init__(self) -> None:
        self._gram = [[0.0] * (row + 1) for row in range(TERMS)]
        """The lower half of the weighted sums of products of two terms."""
        self._target = [0.0] * TERMS
        self._solution = [0.0] * TERMS
        self._seen = self._decodes_seen = 0
        self._prefill_seen = 0.0
        self._costs: StepCosts | None = None

    @property
    def costs(self) -> StepCosts | None:
        """The costs; None until prefill and decode have both been seen often enough to tell them apart.

        Or until so much was prefilled without any decode that this seems to be all it does (a prefill worker): then
        decode terms are 0 until the first decodes.
        """
        return self._costs

    def observe(self, shape: MeanShape, elapsed_s: float, steps: int = 1) -> None:
        """A step of this shape took `elapsed_s`; or so many like it did, on average."""
        scale_s = max(elapsed_s, SHORTEST_S)
        if self._costs is not None:
            scale_s = max(scale_s / SLOWEST, shape_s(self._costs, shape), SHORTEST_S)
        tokens, pairs, sequences, context = shape
        row = (1.0 / scale_s, tokens / scale_s, pairs / scale_s, sequences / scale_s, context / scale_s)
        forget, weight = FORGET, 1.0
        if steps > 1:
            forget = FORGET**steps
            weight = (1 - forget) / (1 - FORGET)
        target, share = self._target, elapsed_s / scale_s * weight
        for i, x in enumerate(row):
            weighted = x * weight
            target[i] = target[i] * forget + x * share
            self._gram[i] = [g * forget + weighted * y for g, y in zip(self._gram[i], row, strict=False)]
        before = self._seen // SOLVE_EVERY
        self._seen += steps
        self._prefill_seen += tokens
        if sequences:
            self._decodes_seen += steps
        if self._seen // SOLVE_EVERY != before or (self._costs is None and self._enough()):
            self._solve()

    def _enough(self) -> bool:
        return (
            self._seen >= ENOUGH_STEPS
            and self._prefill_seen >= ENOUGH_PREFILL_TOKENS
            and self._decodes_seen >= ENOUGH_STEPS // 2
        ) or (self._seen >= ONLY_PREFILL_STEPS and not self._decodes_seen)

    def _solve(self) -> None:
        """Coordinate descent from the last solution, each term kept at zero or above."""
        gram, solution = self._gram, self._solution
        rows = [
            (i, [gram[i][j] if j <= i else gram[j][i] for j in range(TERMS)], gram[i][i], self._target[i])
            for i in range(TERMS)
            if gram[i][i] > FAINT
        ]
        for _ in range(SWEEPS if self._costs else FIRST_SWEEPS):
            before = solution.copy()
            for i, (g0, g1, g2, g3, g4), diagonal, target in rows:
                s0, s1, s2, s3, s4 = solution
                predicted = g0 * s0 + g1 * s1 + g2 * s2 + g3 * s3 + g4 * s4
                solution[i] = max(0.0, solution[i] + (target - predicted) / diagonal)
            if solution == before:
                break  # every further sweep would change nothing, too
        if self._enough():
            self._costs = StepCosts.of(solution)


DRIFT = 0.02
"""Weight of the newest step in the ratio of observed to predicted, by which a profile is corrected."""
REDRAW = 0.03
"""A correction is told when it has moved this much."""


class Corrected:
    """The costs of a profile, scaled by how much slower or faster this very engine is. Same calls as `StepFit`."""

    def __init__(self, profile: StepCosts) -> None:
        self._profile, self._ratio, self._published = profile, 1.0, 1.0
        self.costs: StepCosts | None = profile

    def observe(self, shape: StepShape, elapsed_s: float, steps: int = 1) -> None:
        """Learn from a step as `StepFit.observe` does. A stall counts as `SLOWEST` times the prediction at most."""
        ratio = min(SLOWEST, elapsed_s / max(SHORTEST_S, shape_s(self._profile, shape)) / self._ratio) * self._ratio
        weight = DRIFT if steps == 1 else 1 - (1 - DRIFT) ** steps
        self._ratio += weight * (ratio - self._ratio)
        if abs(self._ratio - self._published) > REDRAW * self._published:
            self._published = self._ratio
            self.costs = self._profile.scaled(self._ratio)
