"""How the clairvoyant planner finds its schedule: guesses by the thousand requests, checked by a few simulations.

Guesses (`oracle_quick`) tell what fleets that keep one size miss when. Dynamic programming makes the cheapest schedule
at any price of a miss, start-up and draining counted; what that one misses corrects what was learnt, again and again.
Then edges and levels are moved where that saves. A schedule counts only once the nodes have been simulated with it:
what prompts found cached there, and how much more it missed, is where the next guesses begin. In a fleet of two roles
each role's misses are taken to add up. Where even the largest fleet misses the goal, what it reaches is the goal.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from oracle_curves import Curves, attainable, binned, missed, smooth
from oracle_load import Came, busy, came_in, largest, least_of, rooms
from oracle_moves import moved
from oracle_quick import Quick
from oracle_schedule import Counts, Floats, Rules, cheapest, cost_s

from jedlik.core.config import Role
from jedlik.core.plans import Promise
from jedlik.core.sums import float_sum
from jedlik.sim.outcome import SimulationRun
from jedlik.sim.setup import Setup

BIN_S, MOST_BINS = 5.0, 2000
SMOOTH_S = 15.0
GUESSED, MOST_GUESSES = 3_000_000, 500
"""Requests in all guesses together, about; and guesses, at most."""
ANEW = 12
"""Schedules made anew, each from what the one before has told, for every simulation."""
AIM, CLOSE = 0.97, 0.9
"""Of the misses allowed: what is aimed at, and what is near enough."""
EASY = 0.4
"""Of the misses allowed: the largest fleet that is thought of has no more, if there is room for such a one."""
WORTH, PATIENCE = 0.995, 3
"""What a simulation should save, and how many in a row may save less."""
HALVINGS = 10
PRICES = (1e-2, 1e5)
"""Worker-seconds a miss."""

Simulates = Callable[[Mapping[Role, Counts], float], SimulationRun]
"""With a schedule, in bins of so many seconds."""
Schedule = dict[Role, Counts]


class Trial(NamedTuple):
    """A schedule that was simulated."""

    schedule: Schedule
    gpu_s: float
    could: int
    """Requests that could have kept the promise."""
    missed: int


class Guess(NamedTuple):
    """A schedule that was guessed at."""

    schedule: Schedule
    cost_s: float
    missed: int
    late: Floats
    """Per bin, spread."""


class Search:
    """One search."""

    def __init__(
        self, setup: Setup, simulates: Simulates, requests: Sequence[Came], attainment: float, simulations: int
    ) -> None:
        self._setup, self._simulates, self._requests = setup, simulates, requests
        self._goal, self._left = attainment, max(simulations, 1)
        split = any(pool.role != "both" for pool in setup.pools)
        self.roles: tuple[Role, ...] = ("prefill", "decode") if split else ("both",)
        last_s = max((came.at_s for came in requests), default=0.0)
        self.bin_s = max(BIN_S, last_s / MOST_BINS)
        self._bins = int(last_s / self.bin_s) + 1
        self._rules: dict[Role, Rules] = {}
        self._curves: dict[Role, Curves] = {}
        self._came = sorted(requests)
        self._quick = Quick(setup, requests)
        self._guesses = max(4 * ANEW, min(MOST_GUESSES, GUESSED // max(1, len(requests))))
        self._price = 1.0
        self.trials: list[Trial] = []

    def found(self) -> Trial:
        """The best schedule."""
        high, run = self._widest()
        self._level(high)
        self._learn(high, run)
        aim, idle = float(self.allowed), 0
        for number in range(self._left):
            guess = self._polished(self._descended(aim), aim, number)
            if self._known(guess.schedule):
                break
            before = self.best.gpu_s
            trial, run = self._try(guess.schedule)
            idle = 0 if self.best.gpu_s < WORTH * before or self.best is self.trials[0] else idle + 1
            if CLOSE * self.allowed <= trial.missed <= self.allowed or idle == PATIENCE:
                break
            self._learn(high, run)
            aim = AIM * self.allowed * max(1, self._late(trial.schedule)[0]) / max(1, trial.missed)
        return self.best

    @property
    def allowed(self) -> int:
        """Misses that leave the goal reached, or as many as the largest fleet has."""
        widest = self.trials[0]
        return max(widest.missed, int((1 - self._goal) * widest.could + 1e-9))

    @property
    def best(self) -> Trial:
        return min((trial for trial in self.trials if trial.missed <= self.allowed), key=lambda trial: trial.gpu_s)

    # --- what is known beforehand ---

    def _learn(self, high: Mapping[Role, int], run: SimulationRun) -> None:
        """What is found cached, as that run had it; then every smaller fleet, guessed; the curves of each role."""
        self._came = came_in(run, self._came)
        self._quick = Quick(self._setup, self._came)
        drain_s = float(np.mean([o.ended_s - o.arrived_s for o in run.outcomes if o.ok] or [0.0]))
        arrived = binned([one.at_s for one in self._came if one.counts], self.bin_s, self._bins)
        base = self._late(_constant(high, self._bins))[1]
        for role in self.roles:
            own = base if role == self.roles[0] else np.zeros(self._bins)
            measured = {high[role]: own}
            for count in range(1, high[role]):
                late = self._late(_constant({**high, role: count}, self._bins))[1]
                measured[count] = np.maximum(late - (base - own), 0.0)
            self._curves[role] = Curves(measured, arrived)
            pools = [pool for pool in self._setup.pools if pool.role == role]
            start_s, initial = max(pool.start_s for pool in pools), sum(pool.count for pool in pools)
            least, gpus = least_of(self._setup, role), pools[0].gpus or 1.0
            self._rules[role] = Rules(self.bin_s, start_s, drain_s, initial, least, gpus)

    def _widest(self) -> tuple[dict[Role, int], SimulationRun]:
        """A fleet that is large enough at nearly all times; all places if none is."""
        room = {role: rooms(self._setup, role) for role in self.roles}
        high = {
            role: largest(busy(self._setup, role, self._requests), least_of(self._setup, role), room[role])
            for role in self.roles
        }
        trial, run = self._try(_constant(high, self._bins))
        while trial.missed > EASY * (1 - self._goal) * trial.could and high != room and self._left > 2:
            self.trials.clear()
            high = {role: min(count + (count + 1) // 2, room[role]) for role, count in high.items()}
            trial, run = self._try(_constant(high, self._bins))
        return high, run

    def _level(self, high: Mapping[Role, int]) -> None:
        """The smallest fleet of one size that is large enough, by bisection: no schedule need cost more. These few
        simulations are beside those that were granted. Fleets of two roles are left out: there are too many."""
        if len(self.roles) > 1:
            return
        (role,) = self.roles
        low, top = least_of(self._setup, role), high[role]
        while low < top:
            middle = (low + top) // 2
            self._left += 1
            trial, _ = self._try(_constant({role: middle}, self._bins))
            low, top = (low, middle) if trial.missed <= self.allowed else (middle + 1, top)

    def _try(self, schedule: Schedule) -> tuple[Trial, SimulationRun]:
        self._left -= 1
        run = self._simulates(schedule, self.bin_s)
        promise = Promise(self._setup.gateway.slo_ttft_s, self._setup.gateway.slo_itl_s)
        trial = Trial(schedule, run.gpu_s, attainable(run), len(missed(run, promise)))
        self.trials.append(trial)
        return trial, run

    # --- guesses ---

    def _guess(self, schedule: Schedule) -> Guess:
        self._guesses -= 1
        missed, late = self._late(schedule)
        return Guess(
            schedule, float_sum(cost_s(schedule[role], self._rules[role]) for role in self.roles), missed, late
        )

    def _late(self, schedule: Schedule) -> tuple[int, Floats]:
        late = self._quick.late(schedule, self.bin_s)
        return len(late), smooth(binned(late, self.bin_s, self._bins), self.bin_s, SMOOTH_S)

    def _descended(self, aim: float) -> Guess:
        """Schedules made from what is known, each time better; the cheapest that misses no more than that."""
        factor, found = 1.0, []
        for _ in range(ANEW):
            guess = self._guess(self._scheduled(aim * factor))
            found.append(guess)
            for role in self.roles:
                expected = {other: self._curves[other].expected(guess.schedule[other]) for other in self.roles}
                differs = (guess.late - sum(expected.values(), np.zeros(self._bins))) / len(self.roles)
                self._curves[role].correct(guess.schedule[role], expected[role] + differs)
            factor *= min(max((aim + 1) / (guess.missed + 1), 0.5), 2.0) ** 0.5
        kept = [guess for guess in found if guess.missed <= aim]
        return min(kept, key=lambda one: one.cost_s) if kept else min(found, key=lambda one: one.missed)

    def _scheduled(self, aim: float) -> Schedule:
        """The cheapest of which no more misses than that are expected."""
        low, high = PRICES
        best = self._at(high)
        for _ in range(HALVINGS):
            price = (low * high) ** 0.5
            schedule = self._at(price)
            if float_sum(float(self._curves[role].expected(schedule[role]).sum()) for role in self.roles) <= aim:
                best, high, self._price = schedule, price, price
            else:
                low = price
        return best

    def _at(self, price: float) -> Schedule:
        return {role: cheapest(self._curves[role].missed, price, self._rules[role]) for role in self.roles}

    def _polished(self, guess: Guess, aim: float, seed: int) -> Guess:
        """Edges and levels moved, one at a time, while that is worth it at a miss's price."""
        chance, price, best = Random(f"oracle {seed}"), self._price, guess
        for turn in range(max(0, self._guesses // max(1, min(self._left, 4)))):
            role = self.roles[turn % len(self.roles)]
            chosen = moved(guess.schedule[role], chance, self._rules[role])
            if chosen is None:
                continue
            other = self._guess({**guess.schedule, role: chosen})
            over, before = (max(0.0, one.missed - aim) for one in (other, guess))
            gain = guess.cost_s - other.cost_s + price * (guess.missed - other.missed) + 9 * price * (before - over)
            if gain > 0:
                guess = other
                if guess.missed <= aim and (guess.cost_s < best.cost_s or best.missed > aim):
                    best = guess
        return best

    def _known(self, schedule: Schedule) -> bool:
        return any(
            all(np.array_equal(schedule[role], trial.schedule[role]) for role in self.roles) for trial in self.trials
        )


def _constant(counts: Mapping[Role, int], bins: int) -> Schedule:
    return {role: np.full(bins, count) for role, count in counts.items()}
