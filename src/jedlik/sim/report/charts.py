"""The plots of a run over its requests and over time."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jedlik.sim.outcome import Action
from jedlik.sim.report.columns import Columns, Floats, Slo
from jedlik.sim.report.series import Bins, Fleet, cdf, percentiles, rates, shares
from jedlik.sim.report.svg import (
    Scale,
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
MARKS_TOLD = 8
FLOOR_S = 1e-4


class Timeline(NamedTuple):
    """What all plots over time share."""

    bins: Bins
    actions: Sequence[Action]
    x: Scale

    @classmethod
    def of(cls, bins: Bins, actions: Sequence[Action]) -> "Timeline":
        return cls(bins, actions, across(0.0, bins.duration_s))

    @property
    def xs(self) -> Floats:
        return self.x.px(self.bins.middles_s)


def distribution(name: str, values: Floats, limit_s: float | None) -> str:
    """Share of answers up to a latency, on a logarithmic axis."""
    values = np.maximum(values[~np.isnan(values)], FLOOR_S)
    title = f"{name} of answered requests"
    if not len(values):
        return figure(title, "nothing was answered", (), nothing())
    xs, ys = cdf(values)
    edges = [float(xs[0]), float(xs[-1])] + ([limit_s] if limit_s else [])
    x = across(min(edges) / 1.1, max(edges) * 1.1, log=True)
    y = upward(1.0)
    body = axes(x, y, log_ticks(x), share_ticks(y), f"{name} (logarithmic)")
    told = f"half within {seconds(float(np.median(values)))}, 99 % within {seconds(float(np.percentile(values, 99)))}"
    if limit_s is not None:
        kept = share(float((values <= limit_s).mean()))
        told += f", {kept} within the SLO of {seconds(limit_s)}"
        body += upright(x.at(limit_s), y, "slo", f"SLO {seconds(limit_s)}", f"SLO {seconds(limit_s)}: {kept}")
    return figure(title, told, (), body + line(x.px(xs), y.px(ys), "a"))


def latency(time: Timeline, data: Columns, limit_s: float | None) -> str:
    """TTFT of answers over the time their requests arrived."""
    p50, p90 = percentiles(time.bins, data.arrived_s[data.ok], data.ttft_s[data.ok], (50, 90))
    y = upward(most(p90) * 1.05)
    lines = line(time.xs, y.px(p90), "b") + line(time.xs, y.px(p50), "a")
    if limit_s is not None and limit_s < y.high:
        at = y.at(limit_s)
        name = f"<title>SLO {seconds(limit_s)}</title>"
        lines += f'<g class="mark slo">{name}<path d="M{time.x.start_px:.0f} {at:.1f}H{time.x.end_px:.0f}"/></g>'
    return over_time(time, "TTFT over time, seconds", "by arrival", (("a", "p50"), ("b", "p90")), y, lines)


def goodput(time: Timeline, data: Columns, slo: Slo) -> str:
    """Share of arrivals that ended well within the SLOs."""
    y = upward(1.0)
    values = shares(time.bins, data.arrived_s, data.good(slo))
    about = "share of the requests that arrived then and ended well within the SLOs"
    return over_time(time, "Goodput over time", about, (), y, line(time.xs, y.px(values), "a"))


def hits(time: Timeline, data: Columns) -> str:
    """Cached share of prompt tokens."""
    y = upward(1.0)
    ok = data.ok
    values = shares(time.bins, data.arrived_s[ok], data.cached_tokens[ok], data.prompt_tokens[ok])
    about = "share of prompt tokens found in the cache, by arrival"
    return over_time(time, "Hit rate over time", about, (), y, line(time.xs, y.px(values), "a"))


def traffic(time: Timeline, data: Columns) -> str:
    """Requests per second: offered, answered, missed."""
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


def batch(time: Timeline, running: Fleet) -> str:
    """Sequences in the workers' batches: mean, and from the emptiest to the fullest."""
    mean = running.total / max(running.workers, 1)
    y = upward(most(running.most) * 1.05)
    lines = band(time.xs, y.px(running.least), y.px(running.most), "a") + line(time.xs, y.px(mean), "a")
    keys = (("a", "mean"), ("a wide", "least to most"))
    return over_time(time, "Batch: sequences running per worker", "mean and range over workers", keys, y, lines)


def queue(time: Timeline, waiting: Fleet) -> str:
    """Sequences waiting in workers."""
    y = upward(max(most(waiting.total), most(waiting.most)) * 1.05)
    lines = line(time.xs, y.px(waiting.total), "a") + line(time.xs, y.px(waiting.most), "b")
    keys = (("a", "all workers"), ("b", "longest queue"))
    return over_time(time, "Queue: sequences waiting", "in all workers, and the longest queue", keys, y, lines)


def marks(time: Timeline, y: Scale) -> str:
    """Faults and other actions, where they happened; those closer than a few pixels are one mark."""
    groups: dict[int, list[Action]] = {}
    for action in time.actions:
        groups.setdefault(round(time.x.at(action.at_s) / MARK_PX), []).append(action)
    return "".join(upright(time.x.at(group[0].at_s), y, "action", _told(group)) for group in groups.values())


def nothing() -> str:
    return '<text class="label" x="280" y="118">nothing to show</text>'


def _told(group: list[Action]) -> str:
    told = [f"{moment(a.at_s)}: {a.kind} {a.worker} {a.detail}".rstrip() for a in group[:MARKS_TOLD]]
    return "; ".join(told) + (f"; and {number(len(group) - MARKS_TOLD)} more" if len(group) > MARKS_TOLD else "")


def over_time(time: Timeline, title: str, about: str, keys: Sequence[tuple[str, str]], y: Scale, lines: str) -> str:
    """A plot over the run, with what happened as marks."""
    ticks, unit = time_ticks(time.x)
    y_ticks: list[Tick] = share_ticks(y) if y.high == 1.0 and not keys else number_ticks(y)
    return figure(
        title, about, keys, axes(time.x, y, ticks, y_ticks, f"simulated time, {unit}") + marks(time, y) + lines
    )


def most(values: Floats) -> float:
    """Of those that are numbers; 0: none is."""
    seen = values[np.isfinite(values)]
    return float(seen.max()) if len(seen) else 0.0
