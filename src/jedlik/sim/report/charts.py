"""The plots of a run: over its requests, over time, and the heat map of its workers.

The heat map has a row per worker and a column per moment, darker where more is going on. Cells of one shade are one
path, neighbours in a row one stroke of it: 200 rows of 120 columns stay some 100 kB.
"""

from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from jedlik.sim.outcome import Action, SimulationRun, Staff
from jedlik.sim.report.attainment import MINUTE_S, attainable, by_minute
from jedlik.sim.report.columns import Floats, RequestColumns, Slo
from jedlik.sim.report.series import Bins, WorkerSeries, cdf, percentiles, rates, shares
from jedlik.sim.report.svg import (
    Axis,
    Tick,
    across,
    axes,
    band,
    figure,
    line,
    log_ticks,
    number_ticks,
    share_ticks,
    time_ticks,
    upright,
    upward,
)
from jedlik.sim.report.words import moment, number, seconds, share

MARK_PX = 3
MARKS_LISTED = 8
FLOOR_S = 1e-4
HEAT_WIDTH, HEAT_LEFT, HEAT_RIGHT, HEAT_TOP, HEAT_BOTTOM = 1160, 132, 12, 4, 40
SHADES = 9
TALLEST_ROW, MOST_HEIGHT = 22, 600
NAME_EVERY_PX = 13
ROLE_STYLES = {"both": "a", "prefill": "a", "decode": "b"}


class Timeline(NamedTuple):
    """The axis and the marks that all plots over time share."""

    bins: Bins
    actions: Sequence[Action]
    x: Axis

    @classmethod
    def of(cls, bins: Bins, actions: Sequence[Action]) -> "Timeline":
        return cls(bins, actions, across(0.0, bins.duration_s))

    @property
    def xs(self) -> Floats:
        return self.x.px(self.bins.middles_s)


def distribution(name: str, values: Floats, limit_s: float | None) -> str:
    """Plot the share of answers up to a latency, on a logarithmic axis."""
    values = np.maximum(values[~np.isnan(values)], FLOOR_S)
    title = f"{name} of answered requests"
    if not len(values):
        return figure(title, "nothing was answered", (), nothing())
    xs, ys = cdf(values)
    edges = [float(xs[0]), float(xs[-1])] + ([limit_s] if limit_s else [])
    x = across(min(edges) / 1.1, max(edges) * 1.1, log=True)
    y = upward(1.0)
    body = axes(x, y, log_ticks(x), share_ticks(y), f"{name} (logarithmic)")
    about = f"half within {seconds(float(np.median(values)))}, 99 % within {seconds(float(np.percentile(values, 99)))}"
    if limit_s is not None:
        within = share(float((values <= limit_s).mean()))
        about += f", {within} within the SLO of {seconds(limit_s)}"
        body += upright(x.at(limit_s), y, "slo", f"SLO {seconds(limit_s)}", f"SLO {seconds(limit_s)}: {within}")
    return figure(title, about, (), body + line(x.px(xs), y.px(ys), "a"))


def latency(time: Timeline, data: RequestColumns, limit_s: float | None) -> str:
    """Plot the TTFT of answers over the time at which their requests arrived."""
    p50, p90 = percentiles(time.bins, data.arrived_s[data.ok], data.ttft_s[data.ok], (50, 90))
    y = upward(most(p90) * 1.05)
    lines = line(time.xs, y.px(p90), "b") + line(time.xs, y.px(p50), "a")
    if limit_s is not None and limit_s < y.high:
        at = y.at(limit_s)
        name = f"<title>SLO {seconds(limit_s)}</title>"
        lines += f'<g class="mark slo">{name}<path d="M{time.x.start_px:.0f} {at:.1f}H{time.x.end_px:.0f}"/></g>'
    return over_time(time, "TTFT over time, seconds", "by arrival", (("a", "p50"), ("b", "p90")), y, lines)


def goodput(time: Timeline, data: RequestColumns, slo: Slo) -> str:
    """Plot the share of arrivals that ended well within the SLOs."""
    y = upward(1.0)
    values = shares(time.bins, data.arrived_s, data.good(slo))
    about = "share of the requests that arrived then and ended well within the SLOs"
    return over_time(time, "Goodput over time", about, (), y, line(time.xs, y.px(values), "a"))


def hits(time: Timeline, data: RequestColumns) -> str:
    """Plot the cached share of prompt tokens."""
    y = upward(1.0)
    ok = data.ok
    values = shares(time.bins, data.arrived_s[ok], data.cached_tokens[ok], data.prompt_tokens[ok])
    about = "share of prompt tokens found in the cache, by arrival"
    return over_time(time, "Hit rate over time", about, (), y, line(time.xs, y.px(values), "a"))


def traffic(time: Timeline, data: RequestColumns) -> str:
    """Plot requests per second: offered, answered, missed."""
    offered = rates(time.bins, data.arrived_s)
    answered = rates(time.bins, data.ended_s[data.ok])
    missed = rates(time.bins, data.ended_s[~data.ok])
    y = upward(max(most(offered), most(answered)) * 1.05)
    keys = [("b", "arrived"), ("a", "answered")]
    lines = line(time.xs, y.px(offered), "b") + line(time.xs, y.px(answered), "a")
    if missed.any():
        keys.append(("c", "failed or shed"))
        lines += line(time.xs, y.px(missed), "c")
    return over_time(time, "Requests per second", "arrived and ended", keys, y, lines)


def batch(time: Timeline, running: WorkerSeries) -> str:
    """Plot the sequences in the workers' batches: mean, and from the emptiest to the fullest."""
    mean = running.total / max(running.workers, 1)
    y = upward(most(running.most) * 1.05)
    lines = band(time.xs, y.px(running.least), y.px(running.most), "a") + line(time.xs, y.px(mean), "a")
    keys = (("a", "mean"), ("a wide", "least to most"))
    return over_time(time, "Batch: sequences running per worker", "mean and range over workers", keys, y, lines)


def queue(time: Timeline, waiting: WorkerSeries) -> str:
    """Plot the sequences that wait in workers."""
    y = upward(max(most(waiting.total), most(waiting.most)) * 1.05)
    lines = line(time.xs, y.px(waiting.total), "a") + line(time.xs, y.px(waiting.most), "b")
    keys = (("a", "all workers"), ("b", "longest queue"))
    return over_time(time, "Queue: sequences waiting", "in all workers, and the longest queue", keys, y, lines)


def marks(time: Timeline, y: Axis) -> str:
    """Mark faults and other actions where they happened; those closer than a few pixels are one mark."""
    groups: dict[int, list[Action]] = {}
    for action in time.actions:
        groups.setdefault(round(time.x.at(action.at_s) / MARK_PX), []).append(action)
    return "".join(upright(time.x.at(group[0].at_s), y, "action", _listed(group)) for group in groups.values())


def nothing() -> str:
    """Return the text of an empty plot."""
    return '<text class="label" x="280" y="118">nothing to show</text>'


def _listed(group: list[Action]) -> str:
    listed = [f"{moment(a.at_s)}: {a.kind} {a.worker} {a.detail}".rstrip() for a in group[:MARKS_LISTED]]
    return "; ".join(listed) + (f"; and {number(len(group) - MARKS_LISTED)} more" if len(group) > MARKS_LISTED else "")


def over_time(time: Timeline, title: str, about: str, keys: Sequence[tuple[str, str]], y: Axis, lines: str) -> str:
    """Plot lines over the run, with the actions as marks."""
    ticks, unit = time_ticks(time.x)
    y_ticks: list[Tick] = share_ticks(y) if y.high == 1.0 and not keys else number_ticks(y)
    return figure(
        title, about, keys, axes(time.x, y, ticks, y_ticks, f"simulated time, {unit}") + marks(time, y) + lines
    )


def most(values: Floats) -> float:
    """Return the largest finite value; 0 where there is none."""
    seen = values[np.isfinite(values)]
    return float(seen.max()) if len(seen) else 0.0


def workers(time: Timeline, run: SimulationRun, data: RequestColumns) -> str:
    """Plot the workers that serve, by role, and those that start or drain, over the rate of arrivals."""
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


def attainment(time: Timeline, run: SimulationRun, data: RequestColumns, slo: Slo) -> str:
    """Plot attainment by whole minutes; a minute with too few requests is a gap."""
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
    """Return the pixels of values that hold until the next."""
    ends = np.append(at_s[1:], time.bins.duration_s)
    xs = np.column_stack((at_s, ends)).ravel()
    return time.x.px(xs), px(np.repeat(values, 2))


def heat(time: Timeline, fleet: WorkerSeries, title: str, unit: str) -> str:
    """Plot a heat map over the whole width."""
    rows = max(len(fleet.rows), 1)
    row_px = min(TALLEST_ROW, MOST_HEIGHT / rows)
    bottom = HEAT_TOP + row_px * rows
    x = Axis(0.0, time.bins.duration_s, HEAT_LEFT, HEAT_WIDTH - HEAT_RIGHT)
    wide, high = HEAT_WIDTH - HEAT_RIGHT - HEAT_LEFT, bottom + HEAT_BOTTOM
    seen = fleet.mean[np.isfinite(fleet.mean)]
    top = float(seen.max()) if len(seen) else 0.0
    body = f'<rect class="floor" x="{HEAT_LEFT}" y="{HEAT_TOP}" width="{wide}" height="{row_px * rows:.1f}"/>'
    body += cells(fleet.mean, top, (x.end_px - HEAT_LEFT) / time.bins.number, row_px)
    body += _names(fleet, row_px, unit) + _time(x, bottom)
    body += marks(time._replace(x=x), Axis(0, 1, bottom, HEAT_TOP))
    about = f"{rows} rows, from 0 to {number(top)} {unit}"
    legend = "".join(f'<i class="h{shade}"></i>' for shade in range(1, SHADES + 1))
    return (
        f'<figure class="wide"><figcaption><b>{escape(title)}</b>'
        f'<span class="scale">0 {legend} {number(top)} {escape(unit)}</span></figcaption>'
        f'<svg viewBox="0 0 {HEAT_WIDTH} {high:.0f}" role="img" '
        f'aria-label="{escape(title)}: {escape(about)}">'
        f"<title>{escape(about)}</title>{body}</svg></figure>\n"
    )


def cells(values: Floats, top: float, column_px: float, row_px: float) -> str:
    """Return the strokes of the values' shades, 0 and NaN omitted."""
    if top <= 0:
        return ""
    shades = np.ceil(np.nan_to_num(values) / top * SHADES - 1e-9).astype(np.int64)
    strokes: dict[int, list[str]] = {shade: [] for shade in range(1, SHADES + 1)}
    for row, shaded in enumerate(shades):
        edges = np.concatenate(([0], np.flatnonzero(np.diff(shaded)) + 1, [len(shaded)])).tolist()
        y = HEAT_TOP + row * row_px
        for start, end in pairwise(edges):
            if shaded[start]:
                begins, ends = HEAT_LEFT + start * column_px, HEAT_LEFT + end * column_px
                strokes[int(shaded[start])].append(f"M{begins:.1f} {y:.1f}H{ends:.1f}v{row_px:.1f}H{begins:.1f}z")
    return "".join(f'<path class="h{shade}" d="{"".join(parts)}"/>' for shade, parts in strokes.items() if parts)


def _names(fleet: WorkerSeries, row_px: float, unit: str) -> str:
    """Return names where there is room, and for every row something to hover over."""
    every = max(1, round(NAME_EVERY_PX / row_px + 0.49))
    parts = []
    for row, name in enumerate(fleet.rows):
        y = HEAT_TOP + row * row_px
        if row % every == 0:
            middle = y + row_px / 2 + 4
            parts.append(f'<text class="tick y" x="{HEAT_LEFT - 6}" y="{middle:.1f}">{escape(_short(name))}</text>')
        means = fleet.mean[row][np.isfinite(fleet.mean[row])]
        text = f"{name}: {number(float(means.mean()))} {unit} on average" if len(means) else name
        area = f'x="{HEAT_LEFT}" y="{y:.1f}" width="{HEAT_WIDTH - HEAT_RIGHT - HEAT_LEFT}" height="{row_px:.1f}"'
        parts.append(f'<rect class="row" {area}><title>{escape(text)}</title></rect>')
    return "".join(parts)


def _short(name: str) -> str:
    name = name.partition(" to ")[0]
    return name if len(name) <= 20 else "…" + name[-19:]


def _time(x: Axis, bottom: float) -> str:
    ticks, unit = time_ticks(x)
    parts = [
        f'<text class="tick x" x="{x.at(tick.value):.1f}" y="{bottom + 15:.1f}">{escape(tick.text)}</text>'
        for tick in ticks
    ]
    middle = (x.start_px + x.end_px) / 2
    return "".join(parts) + f'<text class="label" x="{middle:.0f}" y="{bottom + 32:.1f}">simulated time, {unit}</text>'
