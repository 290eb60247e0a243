"""The load to provide for, some time ahead: a quantile by what was missed, not a point.

Several simple experts say what the load will be; each is judged by what providing for it would have cost, were it
scaled (or raised) just so far that no more than a given share of the work so far had come on top, and kept for a while,
as workers are. The cheapest is believed. So headroom follows from how well the load could be foretold at that distance,
and from nothing else. What chance alone explains of an expert's errors (arrivals are random) is taken out: the queue
in `requirement` has it.
"""

from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
HISTORY = 1024
"""Bins that are remembered."""
HALF_LIFE = 360
"""Bins after which an error counts half."""
WINDOWS = (1, 3, 6, 12, 36, 120)
"""Bins over which a mean or a trend is taken."""
TRENDS = (6, 12, 24)
GROWTH = 2.0
"""A trend promises at most so many times the most there has been."""
PRIOR_BINS = 24.0
PRIOR_RATIOS = (0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
"""Before much has been seen: as if so many bins had come to these parts of their forecast, equally often."""
RISE_LEAST, RISE_MOST = 0.3, 1.0
"""A rise is taken to be possible by so much of the load at least, and by so many times the steepest there was."""
MISSED = 20.0
"""Work that could not be provided for beyond what is bearable counts so many times what providing costs."""
LOYALTY = 0.97
"""Another expert is believed when it is cheaper by more than this factor: who changes its mind orders in vain."""
JUDGED_LEAST = 24
"""Bins on which an expert that needs a past must have been tried."""
RIDGE_LEAST, RIDGE = 12, 3.0
"""Bins before a regression's first row; its penalty, in rows of the mean load."""
FEW = 6
"""Bins before anything is said."""
CALM, SMOOTH, TROUGH = 3.0, 3, 0.3
SEASON_LEAST, SEASON_CORRELATION, CLEARER = 12, 0.5, 0.2
"""A period is at least so many bins, and so clear; clearer by that where it has not been seen twice."""


class Provision(NamedTuple):
    """A load to provide for."""

    load: float
    expected: float
    """The load that the expert which is believed expects."""
    expert: str
    missed: float
    """Share of past work beyond what it would have provided for."""


class Expert(NamedTuple):
    """One way to look ahead: at each past bin, and now (the last)."""

    name: str
    level: Floats
    slope: Floats
    """The slope, per bin."""
    since: int = 0
    """The bin from which on it can be judged."""

    def ahead(self, bins: int, most: float) -> Floats:
        predicted: Floats = np.clip(self.level + self.slope * bins, 0.0, most)
        return predicted


class Forecast:
    """The forecast of one load: engine seconds needed per second, bin by bin."""

    def __init__(self) -> None:
        self._loads: list[float] = []
        self._chance: list[float] = []
        self._pushed = 0
        self._period: int | None = None
        self._believed: dict[int, str] = {}
        """By distance."""
        self._arrays: tuple[Floats, Floats] | None = None
        """What is remembered, as arrays; None: a bin has come since."""

    def push(self, load: float, chance: float) -> None:
        """One bin is over. `chance`: variance that random arrivals of independent requests give such a bin."""
        self._loads.append(load)
        self._chance.append(chance)
        self._pushed += 1
        self._arrays = None
        if len(self._loads) > HISTORY + HISTORY // 4:
            del self._loads[: HISTORY // 4], self._chance[: HISTORY // 4]

    def __len__(self) -> int:
        return self._pushed

    @property
    def last(self) -> float | None:
        """Return the load of the last bin."""
        return self._loads[-1] if self._loads else None

    @property
    def period(self) -> int | None:
        """Bins after which the load repeats itself, where that is clear."""
        return self._period

    def provide(self, bins: int, bearable: float, kept_bins: int = 1) -> Provision | None:
        """Return what to provide for the load that many bins ahead, with at most this share of the work on top;
        `kept_bins`: what is provided stays so long. None: too little is known."""
        if self._pushed < FEW:
            return None
        loads, chance = self._remembered()
        task = Task(loads, chance, bins, bearable, kept_bins)
        best: tuple[float, Provision] | None = None
        for expert in experts(loads, self._period, bins):
            if expert.since and len(loads) - bins - expert.since < JUDGED_LEAST + bins // 2:
                continue
            cost, provision = judged(expert, task)
            if expert.name == self._believed.get(bins):
                cost *= LOYALTY
            if best is None or cost < best[0]:
                best = cost, provision
        if best is None:
            return None
        self._believed[bins] = best[1].expert
        return best[1]._replace(load=min(best[1].load, steepest(loads, bins)))

    def _remembered(self) -> tuple[Floats, Floats]:
        """(loads, chance); the period with them: several distances are asked for between two bins."""
        if self._arrays is None:
            self._arrays = np.array(self._loads[-HISTORY:]), np.array(self._chance[-HISTORY:])
            self._period = season(self._arrays[0])
        return self._arrays


def steepest(loads: Floats, bins: int) -> float:
    """Return the highest that the load may be that many bins ahead: risen as it never rose before in that time, but not
    by more."""
    level = means(np.concatenate([[0.0], np.cumsum(loads)]), 3)
    rise = float((level[bins:] - level[:-bins]).max()) if len(level) > bins else 0.0
    most = max(rise, RISE_LEAST * float(level[-1]))
    return float(level[-1]) + RISE_MOST * most


class Task(NamedTuple):
    """The past by which experts are judged."""

    loads: Floats
    chance: Floats
    bins: int
    bearable: float
    kept_bins: int


def experts(loads: Floats, period: int | None, bins: int) -> Iterator[Expert]:
    """All that can be said from these loads."""
    sums = np.concatenate([[0.0], np.cumsum(loads)])
    flat = np.zeros(len(loads))
    for window in WINDOWS:
        if window <= len(loads):
            yield Expert(f"mean of {window}", means(sums, window), flat)
    for window in TRENDS:
        if 2 * window <= len(loads):
            late = means(sums, window)
            early = np.concatenate([late[:1].repeat(window), late[:-window]])
            slope = (late - early) / window
            yield Expert(f"trend of {2 * window}", late + slope * (window - 1) / 2, slope)
    if len(loads) - bins > 4 * RIDGE_LEAST:
        yield _regressed(loads, sums, bins)
    if period is not None:
        yield _seasonal(loads, sums, period, bins)


def means(sums: Floats, window: int) -> Floats:
    """Return the mean of the last `window` bins, at each bin; of fewer at the beginning."""
    ends = np.arange(1, len(sums))
    begins = np.maximum(0, ends - window)
    mean: Floats = (sums[ends] - sums[begins]) / (ends - begins)
    return mean


def _regressed(loads: Floats, sums: Floats, bins: int) -> Expert:
    """Return the ridge regression of the load that many bins later on means of several lengths and ages.

    A row is a bin t; its columns, in units of the mean load, are

        1 | mean of 3 to t | mean of 12 to t | the same, 12 bins before | 24 before | mean of 36 to t

    and its target is load[t + bins] less the mean of 3. Drift, damping and turning points are in the weights, which are
    shrunk towards 0, that is towards the mean of 3. A past bin is judged as if its own row had not been seen.
    """
    mean = max(float(loads.mean()), 1e-12)
    recent, longer, longest = means(sums, 3), means(sums, 12), means(sums, 36)
    before = np.concatenate([longer[:1].repeat(12), longer[:-12]])
    earlier = np.concatenate([longer[:1].repeat(24), longer[:-24]])
    columns = np.stack([np.full(len(loads), mean), recent, longer, before, earlier, longest], axis=1) / mean
    rows = columns[RIDGE_LEAST:-bins]
    target = (loads[RIDGE_LEAST + bins :] - recent[RIDGE_LEAST:-bins]) / mean
    square = rows.T @ rows + RIDGE * np.eye(columns.shape[1])
    weights = np.linalg.solve(square, rows.T @ target)
    level = recent + mean * (columns @ weights)
    predicted = rows @ weights
    leverage = np.einsum("ij,ji->i", rows, np.linalg.solve(square, rows.T))
    left_out = target - (target - predicted) / np.maximum(1e-3, 1 - leverage)  # as if each row had not been seen
    level[RIDGE_LEAST:-bins] = recent[RIDGE_LEAST:-bins] + mean * left_out
    return Expert("regression", level, np.zeros(len(loads)), RIDGE_LEAST)


def _seasonal(loads: Floats, sums: Floats, period: int, bins: int) -> Expert:
    """As whole periods before, times how the load now compares with then. Where there is no such time: the mean."""
    window = max(1, period // 20)
    now = means(sums, 2 * window + 1)
    at = np.arange(len(loads))
    centred = now[np.minimum(at + window, len(loads) - 1)]
    then = at - period * -(-(bins + window + 1) // period)
    ahead = then + bins
    known = then >= window
    level = now.copy()
    ratio = np.clip(now[known] / np.maximum(now[then[known]], 1e-12), 0.5, 2.0)
    level[known] = centred[ahead[known]] * ratio
    return Expert(f"season of {period}", level, np.zeros(len(loads)), int(at[known][0]) if known.any() else len(loads))


def season(loads: Floats) -> int | None:
    """The period at which these loads repeat, by their autocorrelation; None where none is clear."""
    if len(loads) < 3 * SEASON_LEAST:
        return None
    calm = np.minimum(loads, CALM * loads.mean())  # two bursts are no period
    smooth = np.convolve(calm, np.ones(SMOOTH) / SMOOTH, "valid")
    longest = int(len(smooth) / 1.25)
    lags = np.arange(SEASON_LEAST, longest)
    if len(lags) < 3 or not smooth.any():
        return None
    correlation = correlations(smooth - smooth.mean())[lags]
    correlation = np.where(lags > len(smooth) / 2, correlation - CLEARER, correlation)
    inner, before = correlation[1:-1], np.minimum.accumulate(correlation)[:-2]
    peaks = np.flatnonzero(
        (inner > correlation[:-2])
        & (inner >= correlation[2:])
        & (inner > SEASON_CORRELATION)
        & (inner - before > TROUGH)  # a ramp resembles itself at every distance
    )
    if not len(peaks):
        return None
    best = peaks[np.argmax(inner[peaks])]
    return int(lags[1 + best])


def correlations(values: Floats) -> Floats:
    """Pearson's, of the values with themselves so many bins later, by that many; the means of both parts taken off."""
    size = len(values)
    spectrum = np.fft.rfft(values, 1 << (2 * size - 1).bit_length())
    products = np.fft.irfft(spectrum * np.conj(spectrum))[:size]
    sums, squares = (np.concatenate([[0.0], np.cumsum(x)]) for x in (values, values * values))
    overlap = size - np.arange(size)
    early, late = sums[overlap], sums[size] - sums[size - overlap]
    early_var = squares[overlap] - early * early / overlap
    late_var = squares[size] - squares[size - overlap] - late * late / overlap
    together: Floats = (products - early * late / overlap) / np.sqrt(np.maximum(1e-18, early_var * late_var))
    return together


def judged(expert: Expert, task: Task) -> tuple[float, Provision]:
    """Return what providing for an expert would have cost over what came, and what to provide now."""
    predicted = expert.ahead(task.bins, GROWTH * float(task.loads.max()))
    now, past, came = float(predicted[-1]), predicted[expert.since : -task.bins], task.loads[expert.since + task.bins :]
    mean = max(float(task.loads.mean()), 1e-12)
    if not len(came):
        return 1.0, Provision(PRIOR_RATIOS[-1] * now, now, expert.name, 0.0)
    weights = np.exp2(np.arange(1 - len(came), 1) / HALF_LIFE)
    came = past + explained(came - past, task.chance[expert.since + task.bins :], weights)
    work = max(float(weights @ came), 1e-12)
    best: tuple[float, Provision] | None = None
    for scaled in (True, False):
        unit, base = (past, np.zeros(len(past))) if scaled else (np.full(len(past), mean), past)
        factor = least_factor(came - base, unit, weights, task.bearable, 1.0 if scaled else 0.0, mean)
        provided = base + factor * unit
        missed = float(weights @ np.maximum(0.0, came - provided)) / work
        cost = float(weights @ sustained(provided, task.kept_bins)) / work + MISSED * max(0.0, missed - task.bearable)
        load = factor * now if scaled else now + factor * mean
        if best is None or cost < best[0]:
            best = cost, Provision(max(0.0, load), now, expert.name, missed)
    assert best is not None
    return best


def explained(errors: Floats, chance: Floats, weights: Floats) -> Floats:
    """The errors without what chance makes of them."""
    whole = float(weights @ (errors * errors))
    remaining: Floats = errors * np.sqrt(max(0.0, 1 - float(weights @ chance) / whole)) if whole > 0 else errors
    return remaining


def sustained(provided: Floats, bins: int) -> Floats:
    """Return what is there when each bin's provision stays for so many bins."""
    if bins <= 1 or len(provided) < 2:
        return provided
    padded = np.concatenate([np.zeros(bins - 1), provided])
    most: Floats = np.lib.stride_tricks.sliding_window_view(padded, bins).max(axis=1)
    return most


def least_factor(beyond: Floats, unit: Floats, weights: Floats, bearable: float, plain: float, mean: float) -> float:
    """The least f >= 0 with which at most the bearable share of work comes on top of base + f * unit.

    `beyond`: work beyond the base, by bin. The prior's bins are counted in: there the base and `plain` times a unit of
    the mean load are the forecast, and the work is a ratio of that."""
    prior_each = PRIOR_BINS / len(PRIOR_RATIOS)
    ratios = np.array(PRIOR_RATIOS)
    values = np.concatenate([beyond, mean * (ratios - (1.0 - plain))])
    units = np.concatenate([unit, np.full(len(ratios), mean)])
    heavy = np.concatenate([weights, np.full(len(ratios), prior_each)])
    bound = bearable * float(heavy.sum()) * mean
    came = values > 0
    lost = came & (units <= 0)  # no factor provides for them
    bound = max(0.0, bound - float(heavy[lost] @ values[lost]))
    keep = came & (units > 0)
    values, units, heavy = values[keep], units[keep], heavy[keep]
    if not len(values):
        return 0.0
    by = values / units
    order = np.argsort(-by, kind="stable")
    over, slopes, by = np.cumsum((heavy * values)[order]), np.cumsum((heavy * units)[order]), by[order]
    excess = over - by * slopes  # on top at a factor equal to each ratio: ascending, from 0
    enough = max(1, int(np.searchsorted(excess, bound, side="right")))  # excess[0] is 0 but for rounding
    return float(max(0.0, (over[enough - 1] - bound) / slopes[enough - 1]))


def bins_of(seconds: float, bin_s: float) -> int:
    """Return the number of bins in a time, at least one."""
    return max(1, ceil(seconds / bin_s - 1e-9))
