"""A run over time in bins, as many as a plot can show, however long the run and however large the fleet."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jedlik.sim.outcome import FleetSample, SimulationRun
from jedlik.sim.report.columns import Flags, Floats, Indices

MOST_BINS, FEWEST_BINS, REQUESTS_PER_BIN = 120, 12, 40
MOST_ROWS = 200
CDF_POINTS = 240


class Bins(NamedTuple):
    """Equal parts of the simulated time."""

    number: int
    duration_s: float

    @property
    def width_s(self) -> float:
        return self.duration_s / self.number

    @property
    def middles_s(self) -> Floats:
        return np.linspace(self.width_s / 2, self.duration_s - self.width_s / 2, self.number)

    def of(self, at_s: Floats) -> Indices:
        """Return the bin that each time falls into."""
        return np.clip((at_s / self.width_s).astype(np.int64), 0, self.number - 1)


class WorkerSeries(NamedTuple):
    """Samples in bins: rows are workers (or groups of neighbours, in large fleets), columns bins. NaN: no sample."""

    mean: Floats
    least: Floats
    """The least of any worker, by bin."""
    most: Floats
    total: Floats
    """The mean over the bin's samples, of all workers together."""
    rows: list[str]
    workers: int


def bins_for(requests: int, duration_s: float) -> Bins:
    return Bins(min(max(requests // REQUESTS_PER_BIN, FEWEST_BINS), MOST_BINS), max(duration_s, 1e-9))


def sample_bins(run: SimulationRun) -> Bins:
    """Return bins of one sample each, where they are few."""
    return Bins(min(max(len(run.samples), 1), MOST_BINS), max(run.duration_s, 1e-9))


def shares(bins: Bins, at_s: Floats, part: Floats | Flags, whole: Floats | None = None) -> Floats:
    """Return the sum of `part` / sum of `whole` (default: the count), by bin; NaN where that is nothing."""
    where = bins.of(at_s)
    above = np.bincount(where, weights=part.astype(np.float64), minlength=bins.number)
    below = np.bincount(where, weights=whole, minlength=bins.number).astype(np.float64)
    return above / np.where(below > 0, below, np.nan)


def rates(bins: Bins, at_s: Floats) -> Floats:
    """Return the events per second, by bin."""
    return np.bincount(bins.of(at_s), minlength=bins.number).astype(np.float64) / bins.width_s


def percentiles(bins: Bins, at_s: Floats, values: Floats, ranks: Sequence[float]) -> list[Floats]:
    """Return percentiles by bin, one array per rank; NaN where there are no values."""
    where = bins.of(at_s)
    order = np.argsort(where, kind="stable")
    bounds = np.searchsorted(where[order], np.arange(bins.number + 1))
    table = np.full((len(ranks), bins.number), np.nan)
    for number in range(bins.number):
        here = values[order[bounds[number] : bounds[number + 1]]]
        if len(here):
            table[:, number] = np.percentile(here, ranks)
    return list(table)


def cdf(values: Floats) -> tuple[Floats, Floats]:
    """Return values and the share of values up to each, denser towards the tail."""
    ranks = np.concatenate((np.linspace(0, 0.9, CDF_POINTS // 2), 1 - np.geomspace(0.1, 0.0005, CDF_POINTS // 2), [1]))
    return np.quantile(values, ranks), ranks


def fleet(run: SimulationRun, bins: Bins, of: Callable[[FleetSample], list[int]]) -> WorkerSeries:
    """Return one quantity of all workers over time; `of` takes it from a sample (running, waiting)."""
    workers = len(run.workers)
    group = -(-workers // MOST_ROWS) if workers else 1
    starts = np.arange(0, workers, group)
    sizes = np.minimum(group, workers - starts)
    sums = np.zeros((len(starts), bins.number))
    least, most = np.full(bins.number, np.inf), np.full(bins.number, -np.inf)
    taken = np.zeros(bins.number)
    for sample, where in zip(run.samples, bins.of(np.array([s.at_s for s in run.samples])), strict=True):
        values = np.array(of(sample), dtype=np.float64)
        sums[:, where] += np.add.reduceat(values, starts)
        least[where] = min(least[where], values.min())
        most[where] = max(most[where], values.max())
        taken[where] += 1
    unseen = taken == 0
    taken[unseen], least[unseen], most[unseen] = np.nan, np.nan, np.nan
    rows = [_row(run.workers, int(start), int(size)) for start, size in zip(starts, sizes, strict=True)]
    return WorkerSeries(sums / taken / sizes[:, None], least, most, sums.sum(axis=0) / taken, rows, workers)


def _row(workers: list[str], start: int, size: int) -> str:
    return workers[start] if size == 1 else f"{workers[start]} to {workers[start + size - 1]}"
