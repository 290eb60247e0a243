"""Measures how well a run held its SLOs: goodput, attainment of what is attainable, the worst minute, goodput per GPU.

Requests that were shed, failed or had not ended count as missed. Those that no worker could have answered in time do
not count in attainment, but always in goodput.
"""

from typing import NamedTuple

import numpy as np

from jedlik.sim.outcome import SimulationRun
from jedlik.sim.report.columns import Flags, Floats, RequestColumns, Slo

MINUTE_S = 60.0
LEAST_REQUESTS = 10
"""A minute with fewer requests has no attainment."""


class Attainment(NamedTuple):
    """The figures of how well the SLOs were held; all None without SLOs."""

    goodput: float | None = None
    attainment: float | None = None
    attainable_share: float | None = None
    worst_minute: float | None = None
    per_gpu_s: float | None = None


class Attainable(NamedTuple):
    """The attainable requests, those that had not ended too."""

    arrived_s: Floats
    good: Flags


def attainment_of(run: SimulationRun, data: RequestColumns, slo: Slo) -> Attainment:
    """Return how well a run held its SLOs."""
    if slo == Slo():
        return Attainment()
    good = int(data.good(slo).sum())
    attained = attainable(run, data, slo)
    return Attainment(
        goodput=ratio(good, run.offered),
        attainment=ratio(int(attained.good.sum()), len(attained.good)),
        attainable_share=ratio(len(attained.good), run.offered),
        worst_minute=worst(attained, run.duration_s),
        per_gpu_s=ratio(good, run.gpu_s),
    )


def attainable(run: SimulationRun, data: RequestColumns, slo: Slo) -> Attainable:
    """Return the attainable requests of a run. One that was answered in time was attainable."""
    good = data.good(slo)
    can = np.array(run.attainable, dtype=np.bool_) | good if run.attainable else np.ones(len(good), dtype=np.bool_)
    unended = np.array([missed.arrived_s for missed in run.unended if missed.attainable], dtype=np.float64)
    none = np.zeros(len(unended), dtype=np.bool_)
    return Attainable(np.concatenate((data.arrived_s[can], unended)), np.concatenate((good[can], none)))


def by_minute(attained: Attainable, duration_s: float) -> Floats:
    """Return the attainment of whole minutes; NaN where too few requests came."""
    minutes = int(duration_s // MINUTE_S)
    where = (attained.arrived_s // MINUTE_S).astype(np.int64)
    within = where < minutes
    came = np.bincount(where[within], minlength=minutes).astype(np.float64)
    well = np.bincount(where[within], weights=attained.good[within].astype(np.float64), minlength=minutes)
    return well / np.where(came >= LEAST_REQUESTS, came, np.nan)


def worst(attained: Attainable, duration_s: float) -> float | None:
    """Return the lowest attainment of a minute."""
    values = by_minute(attained, duration_s)
    seen = values[~np.isnan(values)]
    return float(seen.min()) if len(seen) else None


def ratio(part: float, whole: float) -> float | None:
    """Return a part of a whole; None where there is no whole."""
    return part / whole if whole > 0 else None
