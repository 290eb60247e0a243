"""The plots of a planned run: workers by what they do, over the demand they are for; promises kept, by the minute."""

from collections.abc import Callable
from functools import partial

import numpy as np

from jedlik.sim.outcome import Run, Staff
from jedlik.sim.report.charts import Timeline, most, over_time
from jedlik.sim.report.columns import Columns, Floats, Slo
from jedlik.sim.report.kept import MINUTE_S, attainable, by_minute
from jedlik.sim.report.series import rates
from jedlik.sim.report.svg import band, line, upward
from jedlik.sim.report.words import number

ROLE_STYLES = {"both": "a", "prefill": "a", "decode": "b"}


def workers(time: Timeline, run: Run, data: Columns) -> str:
    """Steps of workers serving, by role, and of those that start or drain, over the rate of arrivals."""
    at_s = np.array([staff.at_s for staff in run.staff])
    starting = counts(run.staff, lambda staff: sum(staff.starting.values()))
    draining = counts(run.staff, lambda staff: sum(staff.draining.values()))
    serving = {
        role: counts(run.staff, partial(_serving, role))
        for role in ROLE_STYLES
        if any(role in staff.serving for staff in run.staff)
    }
    every = sum(serving.values(), starting + draining)
    y = upward(max(1.0, float(every.max())) * 1.08)
    demand = rates(time.bins, data.arrived_s)
    peak = most(demand)
    scaled = demand / peak * y.high / 1.08 if peak else demand
    lines = band(time.xs, y.px(np.zeros(len(scaled))), y.px(scaled), "demand")
    keys = [("demand wide", f"arrivals, {number(peak)} per s at most")]
    for values, style, name in ((draining, "draining", "draining"), (starting, "starting", "starting")):
        if values.any():
            keys.append((style, name))
            lines += line(*stairs(time, at_s, values, y.px), style)
    for role, values in serving.items():
        keys.append((ROLE_STYLES[role], "serving" if role == "both" else f"serving, {role}"))
        lines += line(*stairs(time, at_s, values, y.px), ROLE_STYLES[role])
    return over_time(time, "Workers over time", "how many serve, start and drain", keys, y, lines)


def attainment(time: Timeline, run: Run, data: Columns, slo: Slo) -> str:
    """By whole minutes; a minute with too few requests is a gap."""
    values = by_minute(attainable(run, data, slo), run.duration_s)
    y = upward(1.0)
    middles = np.arange(len(values), dtype=np.float64) * MINUTE_S + MINUTE_S / 2
    about = "share of the attainable requests that arrived in that minute and were answered within the SLOs"
    return over_time(time, "Attainment by the minute", about, (), y, line(time.x.px(middles), y.px(values), "a"))


def counts(staff: list[Staff], of: Callable[[Staff], int]) -> Floats:
    return np.array([of(one) for one in staff], dtype=np.float64)


def _serving(role: str, staff: Staff) -> int:
    return staff.serving.get(role, 0)


def stairs(time: Timeline, at_s: Floats, values: Floats, px: Callable[[Floats], Floats]) -> tuple[Floats, Floats]:
    """Pixels of values that hold until the next."""
    ends = np.append(at_s[1:], time.bins.duration_s)
    xs = np.column_stack((at_s, ends)).ravel()
    return time.x.px(xs), px(np.repeat(values, 2))
