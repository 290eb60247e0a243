"""Whether a run kept its promises: goodput, attainment of what can be attained, the worst minute, and all that per GPU.

What was shed, failed or had not ended is missed. Requests that nobody could have answered in time are left out of
attainment, never of goodput.
"""

from typing import NamedTuple

import numpy as np

from jedlik.sim.outcome import Run
from jedlik.sim.report.columns import Columns, Flags, Floats, Slo

MINUTE_S = 60.0
LEAST_REQUESTS = 10
"""Of a minute, to say something of it."""


class Kept(NamedTuple):
    """All None without SLOs."""

    goodput: float | None = None
    attainment: float | None = None
    attainable_share: float | None = None
    worst_minute: float | None = None
    per_gpu_s: float | None = None


class Attained(NamedTuple):
    """Attainable requests, those that had not ended too."""

    arrived_s: Floats
    good: Flags


def promises(run: Run, data: Columns, slo: Slo) -> Kept:
    """The figures."""
    if slo == Slo():
        return Kept()
    good = int(data.good(slo).sum())
    attained = attainable(run, data, slo)
    return Kept(
        goodput=ratio(good, run.offered),
        attainment=ratio(int(attained.good.sum()), len(attained.good)),
        attainable_share=ratio(len(attained.good), run.offered),
        worst_minute=worst(attained, run.duration_s),
        per_gpu_s=ratio(good, run.gpu_s),
    )


def attainable(run: Run, data: Columns, slo: Slo) -> Attained:
    """Of all that were offered. One that was answered in time after all could be."""
    good = data.good(slo)
    can = np.array(run.attainable, dtype=np.bool_) | good if run.attainable else np.ones(len(good), dtype=np.bool_)
    unended = np.array([missed.arrived_s for missed in run.unended if missed.attainable], dtype=np.float64)
    none = np.zeros(len(unended), dtype=np.bool_)
    return Attained(np.concatenate((data.arrived_s[can], unended)), np.concatenate((good[can], none)))


def by_minute(attained: Attained, duration_s: float) -> Floats:
    """Attainment of whole minutes; NaN where too few requests came."""
    minutes = int(duration_s // MINUTE_S)
    where = (attained.arrived_s // MINUTE_S).astype(np.int64)
    within = where < minutes
    came = np.bincount(where[within], minlength=minutes).astype(np.float64)
    well = np.bincount(where[within], weights=attained.good[within].astype(np.float64), minlength=minutes)
    return well / np.where(came >= LEAST_REQUESTS, came, np.nan)


def worst(attained: Attained, duration_s: float) -> float | None:
    values = by_minute(attained, duration_s)
    seen = values[~np.isnan(values)]
    return float(seen.min()) if len(seen) else None


def ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
