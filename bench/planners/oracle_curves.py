"""What so many workers miss of what arrives when: learnt from fleets that keep one size, and corrected.

The gateway sheds what would be late, so a bin hardly depends on how many workers there were a minute ago: a fleet of
varying size misses in each bin about what a fleet that always had that size misses there. How far that holds is seen
when a schedule is tried, and corrects the curves for the next one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from oracle_schedule import Counts, Floats

from jedlik.core.plans import Promise
from jedlik.sim.outcome import Outcome, SimulationRun

FAR = 0.5
"""Of a correction, what holds for one worker more or fewer."""


def missed(run: SimulationRun, promise: Promise) -> list[float]:
    """When those arrived that could have kept it and did not."""
    late = [o.arrived_s for o, could in zip(run.outcomes, _could(run), strict=True) if could and not _kept(o, promise)]
    return late + [one.arrived_s for one in run.unended if one.attainable]


def attainable(run: SimulationRun) -> int:
    """How many could have kept their promise."""
    return sum(_could(run)) + sum(one.attainable for one in run.unended)


def _kept(outcome: Outcome, promise: Promise) -> bool:
    return outcome.ok and outcome.ttft_s is not None and promise.met(outcome.ttft_s, outcome.itl_s)


def _could(run: SimulationRun) -> list[bool]:
    return run.attainable or [True] * len(run.outcomes)


def binned(times_s: Sequence[float], bin_s: float, bins: int) -> Floats:
    """How many fall into each bin; what is later falls into the last."""
    places = np.minimum((np.asarray(times_s, np.float64) / bin_s).astype(np.int64), bins - 1)
    return np.bincount(places, minlength=bins).astype(np.float64)


class Curves:
    """`missed[b, n]` for every count up to the largest measured; never more with more workers."""

    def __init__(self, measured: Mapping[int, Floats], arrived: Floats) -> None:
        """`measured` is missed per bin, by count; no workers miss all that `arrived`."""
        known = {0: arrived, **measured}
        counts = sorted(known)
        rows = np.array([known[count] for count in counts])
        every = np.arange(counts[-1] + 1)
        self.missed: Floats = np.array([np.interp(every, counts, rows[:, at]) for at in range(rows.shape[1])])
        self._settle()

    def expected(self, chosen: Counts) -> Floats:
        """Per bin, of a schedule."""
        found: Floats = np.take_along_axis(self.missed, chosen[:, None], axis=1)[:, 0]
        return found

    def correct(self, chosen: Counts, seen: Floats) -> None:
        """A schedule was tried and missed so much: nearby counts will miss as much more or less, too."""
        differs = seen - self.expected(chosen)
        above = np.arange(self.missed.shape[1])[None, :] - chosen[:, None]
        missed = np.maximum(self.missed + differs[:, None] * FAR ** np.abs(above), 0.0)
        self.missed = np.where(above > 0, np.minimum(missed, seen[:, None]), missed)
        self._settle()

    def _settle(self) -> None:
        self.missed = np.maximum.accumulate(self.missed[:, ::-1], axis=1)[:, ::-1]


def smooth(late: Floats, bin_s: float, over_s: float) -> Floats:
    """The same sum, each spread evenly over so long around it: which very request is late is chance."""
    half = int(over_s / bin_s / 2 + 0.5)
    if not half or len(late) <= 2 * half:
        return late
    sums = np.concatenate([np.zeros(1), np.cumsum(late)])
    at = np.arange(len(late))
    first, last = np.maximum(at - half, 0), np.minimum(at + half + 1, len(late))
    spread = (sums[last] - sums[first]) / (2 * half + 1)
    whole = float(spread.sum())
    found: Floats = spread * (float(late.sum()) / whole) if whole else spread
    return found
