"""The search for a fleet: many shapes on pieces of the trace, the best of them on all of it, each with as few workers
as will do.

A race knows the cheapest fleet that holds so far; whoever cannot be cheaper is not simulated any more, and one that
fails with as many workers as cost a little less has lost. More workers are taken to serve no worse. Pure: it says what
is to be simulated next, in rounds, and is told what came of it; the same answers lead to the same rounds.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from math import ceil

import msgspec

from jedlik.sim.sizing import Figures, Part, Shape, SizedFleet, Trial

SAMPLE_ROUND, TRACE_ROUND = 4, 2
"""Simulations that are asked for at once."""
HOPELESS = 1.35
"""A shape that is estimated to need so many times the budget is not tried."""
COLD = 1.4
"""A sample begins with cold caches: it may miss so many times as often, to go on to the trace."""
FINALISTS, NEARLY = 6, 1.35
"""Simulated on the whole trace: so many shapes, and none that cost so many times the best sample."""
Results = Mapping[Trial, Figures]
Rounds = Generator[list[Trial], Results, None]
"""Yields what to simulate; a result that does not come means that there is no time left."""


class Choice(msgspec.Struct, frozen=True):
    """A shape, and what was estimated for it."""

    shape: Shape
    start: int
    """Workers that should do."""
    estimated: bool = True
    """False: the estimate finds no number within the budget that would do; `start` is all there is."""


class SearchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The task of a search."""

    choices: tuple[Choice, ...]
    budget: float
    """The budget in GPUs."""
    attainment: float
    judge: Callable[[Trial, Figures], float]
    """Attainment of a trial."""
    sample_trials: int
    trace_trials: int
    sampled: bool
    """There is a sample: the trace is too long to try everything on it."""


class Bracket:
    """One shape in a race: what was tried, and what is to be tried next."""

    def __init__(self, choice: Choice, most: int) -> None:
        self.choice, self.shape = choice, choice.shape
        self._most = most
        self.tried: dict[int, float] = {}
        """Workers to attainment."""

    def fails(self, attainment: float) -> int:
        """Most workers that did not do."""
        return max((n for n, got in self.tried.items() if got < attainment), default=self.shape.least - 1)

    def holds(self, attainment: float) -> int | None:
        """Fewest workers, above all that failed, that did."""
        low = self.fails(attainment)
        return min((n for n, got in self.tried.items() if got >= attainment and n > low), default=None)

    def next(self, attainment: float, below_usd: float | None) -> int | None:
        """Workers to try, cheaper than `below_usd`; None: nothing is left to try."""
        low, high = self.fails(attainment), self.holds(attainment)
        top = self._most if high is None else high - 1
        if below_usd is not None:
            affordable = ceil(below_usd / self.shape.engine.hour_usd - 1e-9) - 1
            if not self.tried and self.choice.start > HOPELESS * affordable:
                return None
            top = min(top, affordable)
        if top <= low:
            return None
        if not self.tried:
            return max(min(self.choice.start, top), self.shape.least)
        if high is None:
            short = attainment - self.tried.get(low, 0.0)
            return min(low + max(1, ceil(low * min(short * 2, 0.5))), top)
        if low >= self.shape.least:
            return min((low + high) // 2, top)
        spare = (self.tried[high] - attainment) / (1 - attainment + 1e-9)
        return max(min(high - max(1, round(high * 0.15 * spare)), top), self.shape.least)


class Race:
    """Shapes against each other on one part of the trace."""

    def __init__(self, plan: SearchPlan, choices: Sequence[Choice], part: Part, wanted: float) -> None:
        self._plan, self.part, self.wanted = plan, part, wanted
        self._width = SAMPLE_ROUND if part == "sample" or not plan.sampled else TRACE_ROUND
        self.brackets = [Bracket(choice, choice.shape.most(plan.budget)) for choice in choices]

    @property
    def best(self) -> SizedFleet | None:
        """The cheapest fleet that holds."""
        return min(self.holding(), key=lambda fleet: fleet.order, default=None)

    def holding(self) -> list[SizedFleet]:
        """Return the smallest fleet that holds of each shape that has one; cheapest first."""
        found = [(b.shape, b.holds(self.wanted)) for b in self.brackets]
        return sorted((SizedFleet(shape, n) for shape, n in found if n is not None), key=lambda fleet: fleet.order)

    def run(self, trials: int) -> Generator[list[Trial], Results, bool]:
        """Run until nothing can be cheaper, or after so many trials; False: there is no time left."""
        while trials > 0 and (proposed := self._proposed(min(self._width, trials))):
            trials -= len(proposed)
            results = yield [Trial(fleet, self.part) for _, fleet in proposed]
            for bracket, fleet in proposed:
                figures = results.get(Trial(fleet, self.part))
                if figures is None:
                    return False
                bracket.tried[fleet.workers] = self._plan.judge(Trial(fleet, self.part), figures)
        return True

    def _proposed(self, most: int) -> list[tuple[Bracket, SizedFleet]]:
        best = self.best
        found = []
        for bracket in self.brackets:
            workers = bracket.next(self.wanted, best.hour_usd if best else None)
            if workers is not None:
                found.append((bracket, SizedFleet(bracket.shape, workers)))
        # the cheapest first; while nothing holds, what lacks least before what lacks more
        return sorted(found, key=lambda pair: (self._lacking(pair[0]) if best is None else 0.0, pair[1].order))[:most]

    def _lacking(self, bracket: Bracket) -> float:
        """0: not tried yet."""
        return max(0.0, self.wanted - max(bracket.tried.values())) if bracket.tried else 0.0


def search(plan: SearchPlan) -> Rounds:
    """All of it: the sample, the finalists, then fleets that are faster or cheaper for who would rather have those."""
    finalists = list(plan.choices)
    sample = Race(plan, finalists, "sample", 1 - COLD * (1 - plan.attainment))
    if plan.sampled:
        yield from sample.run(plan.sample_trials)  # out of time or not: what is known decides who goes on
        finalists = _finalists(plan, sample)
    race = Race(plan, finalists, "trace", plan.attainment)
    if not (yield from race.run(plan.trace_trials)) and plan.sampled and race.best is None:
        sample.wanted = plan.attainment  # the trace takes too long: what holds on the sample must do
        yield from sample.run(plan.sample_trials)
    yield from _others(plan, race, sample if plan.sampled else race)


def _finalists(plan: SearchPlan, sample: Race) -> list[Choice]:
    """The shapes that came cheapest on the sample, each with the workers it needed there."""
    holding = sample.holding()
    if holding:
        enough = [fleet for fleet in holding if fleet.hour_usd <= NEARLY * holding[0].hour_usd]
        return [Choice(fleet.shape, fleet.workers) for fleet in enough[:FINALISTS]]
    tried = [bracket for bracket in sample.brackets if bracket.tried]
    tried.sort(key=lambda bracket: -max(bracket.tried.values()))
    return [Choice(b.shape, b.shape.most(plan.budget), False) for b in tried[:2]]


def _others(plan: SearchPlan, race: Race, tries: Race) -> Rounds:
    """For the front: more workers of what won, and the shapes that nobody tried, as estimated; cheapest first."""
    best = race.best or tries.best
    wanted: list[SizedFleet] = []
    if best is not None:
        grown = (ceil(best.workers * factor) for factor in (1.25, 1.5, 2.0))
        wanted = [SizedFleet(best.shape, n) for n in grown if n <= best.shape.most(plan.budget)]
    for bracket in tries.brackets:
        if not bracket.tried and bracket.choice.estimated:
            wanted.append(SizedFleet(bracket.shape, bracket.choice.start))
    trials = [Trial(fleet, tries.part) for fleet in sorted(wanted, key=lambda fleet: fleet.order)]
    for first in range(0, min(len(trials), plan.sample_trials), SAMPLE_ROUND):
        results = yield trials[first : first + SAMPLE_ROUND]
        if len(results) < len(trials[first : first + SAMPLE_ROUND]):
            return
