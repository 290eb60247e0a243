"""Learns `StepCosts` from steps that ran: weighted least squares, non-negative, forgetting slowly.

Errors are relative to the prediction, so that steps of 1 ms and 1 s count alike; a stall of a hundred times the usual
weighs less than a common step. Sums are updated at every step, the 5 x 5 system is relaxed from the last answer only
now and then. What was not seen lately keeps its last value.
"""

from jedlik.core.protocol import StepCosts
from jedlik.perf.step import StepShape, shape_s

TERMS = 5
FORGET = 0.998
"""Per step: a half-life of about 350 steps."""
SOLVE_EVERY = 16
SWEEPS = 40
FIRST_SWEEPS = 400
ENOUGH_STEPS = 8
ENOUGH_PREFILL_TOKENS = 64
SHORTEST_S = 1e-5
"""Below this a clock says nothing, and a relative error everything."""
SLOWEST = 3.0
"""A step slower than this many times its prediction counts less the slower it was."""
FAINT = 1e-9
"""A term whose weighted sum of squares is below this says nothing."""


class StepFit:
    """One engine's costs, as far as they are known."""

    def __init__(self) -> None:
        self._gram = [[0.0] * TERMS for _ in range(TERMS)]
        self._target = [0.0] * TERMS
        self._solution = [0.0] * TERMS
        self._seen = self._prefill_seen = self._decodes_seen = 0
        self._costs: StepCosts | None = None

    @property
    def costs(self) -> StepCosts | None:
        """None until prefill and decode have both been seen often enough to tell them apart."""
        return self._costs

    def observe(self, shape: StepShape, elapsed_s: float) -> None:
        """A step of this shape took `elapsed_s`."""
        scale_s = max(elapsed_s, SHORTEST_S)
        if self._costs is not None:
            scale_s = max(scale_s / SLOWEST, shape_s(self._costs, shape), SHORTEST_S)
        row = (1.0 / scale_s, *(x / scale_s for x in shape))
        target, share = self._target, elapsed_s / scale_s
        for i, x in enumerate(row):
            gram = self._gram[i]
            target[i] = target[i] * FORGET + x * share
            for j in range(i + 1):
                gram[j] = gram[j] * FORGET + x * row[j]
        self._seen += 1
        self._prefill_seen += shape.prefill_tokens
        self._decodes_seen += shape.decode_sequences > 0
        if self._seen % SOLVE_EVERY == 0 or (self._costs is None and self._enough()):
            self._solve()

    def _enough(self) -> bool:
        return (
            self._seen >= ENOUGH_STEPS
            and self._prefill_seen >= ENOUGH_PREFILL_TOKENS
            and self._decodes_seen >= ENOUGH_STEPS // 2
        )

    def _solve(self) -> None:
        """Coordinate descent from the last solution, each term kept at zero or above."""
        gram, solution = self._gram, self._solution
        for _ in range(SWEEPS if self._costs else FIRST_SWEEPS):
            for i in range(TERMS):
                if gram[i][i] <= FAINT:
                    continue
                predicted = sum((gram[i][j] if j <= i else gram[j][i]) * solution[j] for j in range(TERMS))
                solution[i] = max(0.0, solution[i] + (self._target[i] - predicted) / gram[i][i])
        if self._enough():
            self._costs = StepCosts(*solution)
