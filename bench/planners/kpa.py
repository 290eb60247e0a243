"""kpa: Knative's pod autoscaler at its defaults, on concurrency; AIBrix has it for LLMs.

Source: knative.dev "KPA-specific configuration"; knative/serving pkg/autoscaler/scaling/autoscaler.go and
config-autoscaler. Every 2 s: desired = ceil(mean concurrency / (0.7 target)) over 60 s (stable) and 6 s (panic), kept
within [ready / 2, 1000 ready]; panic begins when the panic window wants twice what is ready, ends 60 s after it last
did, and never shrinks. With more than one worker it starts in panic, for want of history. Concurrency counts requests
running and waiting, at gateways too; a split fleet has one KPA a role. The target is documented in `targets`.
"""

from collections import deque
from math import ceil, floor

from baseline import Lengths, fitted, in_flight, roles_of, target, wish

from jedlik.core.config import Role
from jedlik.core.plans import Counts, Reason, Wish
from jedlik.core.sums import float_sum
from jedlik.planning.policy import Situation, Terms

TICK_S = 2.0
STABLE_S, PANIC_S = 60.0, 6.0
PANIC_THRESHOLD = 2.0
UP_RATE, DOWN_RATE = 1000.0, 2.0
UTILISATION = 0.7


class Window:
    """Means of a signal that is looked at now and then: each value stands for the time since the one before."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float, float]] = deque()

    def add(self, now: float, value: float) -> None:
        since_s = now - self._seen[-1][0] if self._seen else TICK_S
        if since_s > 0:
            self._seen.append((now, since_s, value))
        while self._seen and self._seen[0][0] <= now - STABLE_S:
            self._seen.popleft()

    def mean(self, now: float, window_s: float) -> float:
        """Over what is known of the window."""
        parts = [(min(for_s, at_s - now + window_s), value) for at_s, for_s, value in self._seen]
        parts = [(for_s, value) for for_s, value in parts if for_s > 1e-9]
        whole_s = float_sum(for_s for for_s, _ in parts)
        return float_sum(for_s * value for for_s, value in parts) / whole_s if whole_s else 0.0


class Scaler:
    """One role's state: its windows and its panic."""

    def __init__(self, ready: int, now: float) -> None:
        self.window = Window()
        self.panic_since_s: float | None = now if ready > 1 else None
        self.most_in_panic = ready if ready > 1 else 0

    def desired(self, now: float, ready: int, aim: float) -> int:
        """`aim` is the concurrency wanted per worker."""
        ready = max(1, ready)
        stable = ceil(self.window.mean(now, STABLE_S) / aim - 1e-9)
        panic = ceil(self.window.mean(now, PANIC_S) / aim - 1e-9)
        self._panics(now, panic / ready >= PANIC_THRESHOLD)
        low, high = floor(ready / DOWN_RATE), ceil(ready * UP_RATE)
        bounded = min(max(stable, low), high)
        if self.panic_since_s is None:
            return bounded
        self.most_in_panic = max(self.most_in_panic, bounded, min(max(panic, low), high))
        return self.most_in_panic

    def _panics(self, now: float, over: bool) -> None:
        if over:
            self.panic_since_s = now
        elif self.panic_since_s is not None and self.panic_since_s + STABLE_S < now:
            self.panic_since_s, self.most_in_panic = None, 0


class Kpa:
    """Fulfils `policy.Planner`."""

    name = "kpa"
    tick_s = TICK_S

    def __init__(self, initial: Counts, terms: Terms) -> None:
        self._terms = terms
        self._wanted: dict[Role, int] = dict(initial)
        self._lengths = Lengths()
        self._scalers: dict[Role, Scaler] = {}
        self._ticked_s: float | None = None

    def decide(self, situation: Situation) -> Wish:
        self._lengths.add(situation.demand)
        if situation.stale:
            return wish(self._wanted, "no metrics: hold")
        if self._ticked_s is not None and situation.now - self._ticked_s < TICK_S - 1e-6:
            return wish(self._wanted, "between two ticks")
        self._ticked_s = situation.now
        reasons: list[Reason] = []
        counts = {role: self._scaled(role, situation, reasons) for role in roles_of(situation)}
        self._wanted = fitted(counts, self._terms.limits)
        return wish(self._wanted, "concurrency / (0.7 target)", *reasons)

    def _scaled(self, role: Role, situation: Situation, reasons: list[Reason]) -> int:
        ready = situation.pools[role].serving if role in situation.pools else 0
        scaler = self._scalers.setdefault(role, Scaler(ready, situation.now))
        scaler.window.add(situation.now, in_flight(situation, role))
        goal = target(role, situation, self._terms, self._lengths)
        if goal is None:
            return self._wanted.get(role, 0)
        reasons += [
            Reason(f"{role} concurrency, {window_s:g} s", scaler.window.mean(situation.now, window_s))
            for window_s in (STABLE_S, PANIC_S)
        ]
        reasons += [Reason(f"{role} target", UTILISATION * goal)]
        return scaler.desired(situation.now, ready, UTILISATION * goal)
