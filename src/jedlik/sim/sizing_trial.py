"""One simulation while a fleet is sized, and the few figures that are kept of it."""

from collections.abc import Sequence

import numpy as np

from jedlik.sim.outcome import SimulationRun
from jedlik.sim.report.columns import Flags, Floats, Slo, columns
from jedlik.sim.report.numbers import summarise
from jedlik.sim.setup import Setup
from jedlik.sim.sizing import Figures
from jedlik.sim.sizing_load import WARM_SHARE, Pieces
from jedlik.sim.workload.offered import Workload
from jedlik.sim.world import simulate


def whole(setup: Setup, workload: Workload) -> Figures:
    """All of a workload, every request judged: what `jedlik simulate` says too."""
    run = simulate(setup, workload)
    return _figures(run, setup, np.ones(len(run.outcomes), dtype=np.bool_))


def sample(setup: Setup, workload: Workload) -> Figures:
    """Pieces, or the beginning of a workload whose requests wait for answers: the first of each are not judged."""
    run = simulate(setup, workload)
    arrived_s = np.array([outcome.arrived_s for outcome in run.outcomes])
    if isinstance(workload, Pieces):
        judged = within(arrived_s, workload.judged_s)
    else:
        judged = arrived_s >= np.sort(arrived_s)[int(WARM_SHARE * len(arrived_s))]
    return _figures(run, setup, judged)


def within(arrived_s: Floats, spans: Sequence[tuple[float, float]]) -> Flags:
    flags = np.zeros(len(arrived_s), dtype=np.bool_)
    for start_s, stop_s in spans:
        flags |= (arrived_s >= start_s) & (arrived_s <= stop_s)
    return flags


def _figures(run: SimulationRun, setup: Setup, judged: Flags) -> Figures:
    asked = run.choices.serving
    slo = Slo(setup.gateway.slo_ttft_s, setup.gateway.slo_itl_s)
    data = columns([outcome for outcome, counts in zip(run.outcomes, judged, strict=True) if counts])
    summary = summarise(run, slo, setup.gateway.policy, setup.seed)
    ok = data.ok
    return Figures(
        requests=len(data.ok),
        good=int(data.good(slo).sum()),
        slo_attainment=getattr(summary, "slo_attainment", None),
        ttft_p50_s=percentile(data.ttft_s[ok], 50),
        ttft_p99_s=percentile(data.ttft_s[ok], 99),
        itl_p50_s=percentile(data.itl_s[ok], 50),
        itl_p99_s=percentile(data.itl_s[ok], 99),
        hit_rate=summary.hit_rate,
        output_tokens=float(data.output_tokens.sum()),
        duration_s=max(run.duration_s, 1e-3),
        choices=asked.choices,
        failures=asked.failures,
        cause=asked.usual_cause,
    )


def percentile(values: Floats, rank: float) -> float | None:
    values = values[~np.isnan(values)]
    return float(np.percentile(values, rank)) if len(values) else None
