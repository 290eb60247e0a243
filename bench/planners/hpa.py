"""hpa: Kubernetes' HorizontalPodAutoscaler (autoscaling/v2) at its defaults, on mean concurrency per worker.

Source: kubernetes.io "Horizontal Pod Autoscaling"; pkg/controller/podautoscaler and pkg/apis/autoscaling/v2/defaults.
desired = ceil(ready * metric / target), no change within 10 %; while workers start, they count as idle for growing.
Up at once by at most 100 % or 4 a period of 15 s, whichever is more; down to the highest recommendation of 300 s. The
metric is requests running and waiting per ready worker, those waiting at gateways included; a split fleet has one HPA
a role. The target is documented in `targets`.
"""

from collections import deque
from math import ceil

from baseline import Lengths, fitted, in_flight, roles_of, target, wish

from jedlik.core.config import Role
from jedlik.core.plans import Counts, Reason, Wish
from jedlik.planning.policy import Situation, Terms

SYNC_S = 15.0
TOLERANCE = 0.1
STABLE_S = 300.0
UP_RATIO, UP_WORKERS = 2.0, 4


class Hpa:
    """Fulfils `policy.Planner`."""

    name = "hpa"
    tick_s = SYNC_S

    def __init__(self, initial: Counts, terms: Terms) -> None:
        self._terms = terms
        self._wanted: dict[Role, int] = dict(initial)
        self._lengths = Lengths()
        self._synced_s: float | None = None
        self._recommended: dict[Role, deque[tuple[float, int]]] = {}

    def decide(self, situation: Situation) -> Wish:
        self._lengths.add(situation.demand)
        if situation.stale or not situation.period_s:
            return wish(self._wanted, "no metrics: hold")
        if self._synced_s is not None and situation.now - self._synced_s < SYNC_S - 1e-6:
            return wish(self._wanted, "between two syncs")
        self._synced_s = situation.now
        reasons: list[Reason] = []
        counts = {role: self._settled(role, situation, reasons) for role in roles_of(situation)}
        self._wanted = fitted(counts, self._terms.limits)
        return wish(self._wanted, "ready x metric / target", *reasons)

    def _settled(self, role: Role, situation: Situation, reasons: list[Reason]) -> int:
        """The count after tolerance, stabilisation and the limit on growth."""
        current = self._wanted.get(role, 0)
        aim = target(role, situation, self._terms, self._lengths)
        ready = situation.pools[role].serving if role in situation.pools else 0
        if aim is None or not ready or not current:
            return current
        total = in_flight(situation, role)
        desired = recommended(total / aim, ready, current)
        reasons += [Reason(f"{role} concurrency", total / ready), Reason(f"{role} target", float(aim))]
        past = self._recommended.setdefault(role, deque([(situation.now, current)]))
        past.append((situation.now, desired))
        while past[0][0] < situation.now - STABLE_S:
            past.popleft()
        if desired > current:
            return min(desired, max(ceil(UP_RATIO * current), current + UP_WORKERS))
        return min(current, max(count for _, count in past))


def recommended(needed: float, ready: int, current: int) -> int:
    """What the metric says; `needed` workers would be at their target. Of `current` wanted, `ready` serve."""
    ratio = needed / ready
    if ratio > 1 and current > ready:  # those that start count as idle, and direction must not change by that
        ratio = needed / current
        return current if ratio <= 1 + TOLERANCE else ceil(needed - 1e-9)
    if abs(ratio - 1) <= TOLERANCE:
        return current
    return ceil(needed - 1e-9)
