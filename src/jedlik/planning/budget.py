"""The lessons of misses: how much more a fleet takes than the model says, and how many misses to plan for.

Both are compared where the fleet really is. The model says what share of requests should miss at this load on these
workers; where it says more than came, a worker takes more than it says (no evidence where it says none and none came).
And provisioning errs by whole workers and late starts: the level at which headroom is taken follows what was missed
(adaptive conformal inference: Gibbs and Candes, 2021), so that in the long run misses are as many as wanted.
"""

from collections.abc import Sequence
from math import exp, log

from jedlik.core.errors import Bug

CAUTION = 0.6
"""The share of the allowed misses that is aimed at, for what comes cannot be corrected afterwards."""
LEVELS = (0.3, 3.0)
"""Bounds of the level, in units of the misses wanted."""
FACTORS = (1 / 3, 3.0)
"""Bounds of what a worker takes over what the model says."""
LEARN_REQUESTS = 500.0
"""After so many that the model was wrong about by as much as is wanted, the factor has moved by `STEP`."""
STEP = 0.2
RECENT_REQUESTS = 200.0
"""Requests that one look at misses averages over."""
OVERLOADED = 0.5
"""The share of predicted misses beyond which the number of misses says nothing: many miss, however many workers
lack."""
MEMORY_S = 900.0
"""Misses wholly absent for so long raise the level by a factor of e."""


class MissBudget:
    """The factor and the level of one fleet, learnt from misses."""

    def __init__(self, attainment: float) -> None:
        self.wanted = CAUTION * (1 - attainment)
        self.level = self.wanted
        """Share of requests that the planner may plan to miss."""
        self.factor = 1.0
        """A worker takes so many times what the model says."""
        self._rate = 0.0
        self._seen = self._predicted = 0.0
        """Misses, and predicted misses, of the last few hundred requests."""

    def learn(self, offered: float, missed: float, predicted: Sequence[float], period_s: float) -> None:
        """Learn from the requests of a period that could meet the SLOs at all. `predicted`: shares that the model says
        would miss (with the factor as it is), of the last periods: answers end later than their requests come, so the
        nearest of them counts."""
        if offered <= 0 or period_s <= 0:
            return
        share = missed / offered
        if predicted and (max(predicted) <= OVERLOADED or share <= 3 * self.wanted):
            self._compare(min(max(predicted), max(min(predicted), share)), share, offered)
        weight = min(1.0, period_s / MEMORY_S)
        rate = offered / period_s
        self._rate = rate if not self._rate else self._rate + weight * (rate - self._rate)
        step = weight * rate / self._rate * (1 - share / self.wanted)
        least, most = (bound * self.wanted for bound in LEVELS)
        self.level = min(most, max(least, self.level * exp(max(-2.0, step))))

    def _compare(self, predicted: float, share: float, offered: float) -> None:
        """Move the factor where one of both, lately, is more than is wanted: below that, chance and bursts rule."""
        weight = min(1.0, offered / RECENT_REQUESTS)
        self._seen += weight * (min(share, 3 * self.wanted) - self._seen)
        self._predicted += weight * (min(predicted, 3 * self.wanted) - self._predicted)
        low, high = sorted((self._seen, self._predicted))
        wrong = max(0.0, high - max(low, self.wanted)) / self.wanted
        step = STEP * min(1.0, offered / LEARN_REQUESTS) * (wrong if self._predicted > self._seen else -wrong)
        self.factor = exp(max(log(FACTORS[0]), min(log(FACTORS[1]), log(self.factor) + step)))

    def check(self) -> None:
        """Check that both are within their bounds."""
        least, most = LEVELS
        if not least - 1e-9 <= self.level / self.wanted <= most + 1e-9:
            raise Bug(f"learnt: level {self.level} for {self.wanted} wanted")
        if not FACTORS[0] - 1e-9 <= self.factor <= FACTORS[1] + 1e-9:
            raise Bug(f"learnt: a worker takes {self.factor} times what the model says")
