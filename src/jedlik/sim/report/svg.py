"""Draws plots as SVG text: axes with round ticks, lines, bands, marks. Colours are the page's, by class."""

from collections.abc import Iterable, Sequence
from html import escape
from math import ceil, floor, isfinite, log10
from typing import NamedTuple

import numpy as np

from jedlik.sim.report.columns import Floats
from jedlik.sim.report.words import seconds

WIDTH, HEIGHT = 560, 236
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 40


class Axis(NamedTuple):
    """The map from values to pixels."""

    low: float
    high: float
    start_px: float
    end_px: float
    log: bool = False

    def px(self, values: Floats) -> Floats:
        low, high = self.low, self.high
        if self.log:
            values, low, high = np.log10(np.maximum(values, self.low)), log10(low), log10(high)
        return self.start_px + (values - low) / (high - low) * (self.end_px - self.start_px)

    def at(self, value: float) -> float:
        return float(self.px(np.array([value]))[0])


class Tick(NamedTuple):
    value: float
    text: str


def across(low: float, high: float, log: bool = False) -> Axis:
    """Return the x axis of a plot."""
    return Axis(low, high, LEFT, WIDTH - RIGHT, log)


def upward(high: float, low: float = 0.0) -> Axis:
    """Return the y axis of a plot."""
    return Axis(low, high if high > low else low + 1, HEIGHT - BOTTOM, TOP)


def round_step(span: float, most: int) -> float:
    """Return 1, 2 or 5 times a power of ten, so that at most so many steps fit."""
    rough = span / most
    power = 10.0 ** floor(log10(rough))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))


def number_ticks(scale: Axis, most: int = 5) -> list[Tick]:
    step = round_step(scale.high - scale.low, most)
    digits = max(0, -floor(log10(step)))
    values = [i * step for i in range(ceil(scale.low / step - 1e-9), floor(scale.high / step + 1e-9) + 1)]
    return [Tick(value, f"{value:,.{digits}f}") for value in values]


def share_ticks(_: Axis) -> list[Tick]:
    return [Tick(value / 100, f"{value} %") for value in (0, 25, 50, 75, 100)]


def log_ticks(scale: Axis) -> list[Tick]:
    """Return the ticks of durations on a logarithmic axis."""
    decades = range(floor(log10(scale.low)), ceil(log10(scale.high)) + 1)
    fine = log10(scale.high / scale.low) < 3
    values = [m * 10.0**d for d in decades for m in ((1, 2, 5) if fine else (1,))]
    inside = [value for value in values if scale.low * 0.999 <= value <= scale.high * 1.001]
    return [Tick(value, seconds(value)) for value in inside]


def time_ticks(scale: Axis) -> tuple[list[Tick], str]:
    """Return the ticks of simulated time, and its unit."""
    unit, name = next((unit for unit in ((3600.0, "h"), (60.0, "min")) if scale.high >= 3 * unit[0]), (1.0, "s"))
    inner = Axis(scale.low / unit, scale.high / unit, 0, 1)
    return [Tick(value * unit, text) for value, text in number_ticks(inner, 9)], name


def path(xs: Floats, ys: Floats) -> str:
    """Return the `d` of a line through pixels; NaN breaks it, a point between gaps is a dot."""
    parts, fresh = [], True
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        if not (isfinite(x) and isfinite(y)):
            fresh = True
            continue
        parts.append(f"M{x:.1f} {y:.1f}h0" if fresh else f"L{x:.1f} {y:.1f}")
        fresh = False
    return "".join(parts)


def line(xs: Floats, ys: Floats, style: str) -> str:
    return f'<path class="line {style}" d="{path(xs, ys)}"/>'


def band(xs: Floats, low: Floats, high: Floats, style: str) -> str:
    """Fill the space between two lines; gaps stay empty."""
    seen = np.isfinite(low) & np.isfinite(high)
    xs, low, high = xs[seen], low[seen], high[seen]
    if not len(xs):
        return ""
    outline = path(np.concatenate((xs, xs[::-1])), np.concatenate((high, low[::-1])))
    return f'<path class="band {style}" d="{outline}Z"/>'


def axes(x: Axis, y: Axis, x_ticks: Sequence[Tick], y_ticks: Sequence[Tick], x_label: str) -> str:
    """Draw the grid, the numbers and the name of the x axis."""
    start, end, low, high = x.start_px, x.end_px, y.start_px, y.end_px
    parts = [f'<path class="axis" d="M{start:.0f} {low:.1f}H{end:.0f}"/>']
    for tick in y_ticks:
        at = y.at(tick.value)
        parts.append(f'<path class="grid" d="M{start:.0f} {at:.1f}H{end:.0f}"/>')
        parts.append(f'<text class="tick y" x="{start - 6:.0f}" y="{at + 4:.1f}">{escape(tick.text)}</text>')
    for tick in x_ticks:
        at = x.at(tick.value)
        parts.append(f'<path class="grid" d="M{at:.1f} {high:.1f}V{low:.1f}"/>')
        parts.append(f'<text class="tick x" x="{at:.1f}" y="{low + 15:.1f}">{escape(tick.text)}</text>')
    middle = (start + end) / 2
    parts.append(f'<text class="label" x="{middle:.0f}" y="{low + 32:.1f}">{escape(x_label)}</text>')
    return "".join(parts)


def upright(at_px: float, y: Axis, style: str, title: str, text: str = "") -> str:
    """Draw a vertical line with a name to hover over, and a text where a distribution has room for it."""
    on_the_left = at_px > WIDTH * 0.4
    at_x, at_y = (at_px - 4, y.end_px + 11) if on_the_left else (at_px + 4, y.start_px - 7)
    place = f'text-anchor="{"end" if on_the_left else "start"}" x="{at_x:.1f}" y="{at_y:.1f}"'
    shown = f'<text class="note" {place}>{escape(text)}</text>' if text else ""
    stroke = f'<path d="M{at_px:.1f} {y.end_px:.1f}V{y.start_px:.1f}"/>'
    return f'<g class="mark {style}"><title>{escape(title)}</title>{stroke}{shown}</g>'


def figure(title: str, about: str, keys: Iterable[tuple[str, str]], body: str) -> str:
    """Return a plot with its name above; `keys` are (class, name) of lines, `about` describes it for screen readers."""
    legend = "".join(f'<span class="key {style}">{escape(name)}</span>' for style, name in keys)
    return (
        f"<figure><figcaption><b>{escape(title)}</b>{legend}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}: {escape(about)}">'
        f"<title>{escape(about)}</title>{body}</svg></figure>\n"
    )
