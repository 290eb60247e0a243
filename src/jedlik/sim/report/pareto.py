"""The plot of a sizing: tokens/s per GPU against tokens/s per user, for a browser and for a terminal; and its page.

The line is the front. A fleet that misses the SLOs is crossed, one that was simulated on a sample only is hollow.
"""

from collections.abc import Sequence
from html import escape

import numpy as np

from jedlik.sim.report.page import CSS, Rows, table, together
from jedlik.sim.report.svg import WIDTH, Axis, across, axes, figure, line, number_ticks, upward
from jedlik.sim.report.words import number, share
from jedlik.sim.sizing_points import FleetPoint

COLUMNS, LINES = 66, 15
"""The size of the terminal's plot, without its axes."""
MARGIN = 0.06
RADIUS = 4.5
LABEL_PX, LETTER_PX = 14, 6.0
MARKS = """
.dot { stroke-width: 1.8; stroke: var(--a); fill: var(--a); } .dot.apart { stroke: var(--b); fill: var(--b); }
.dot.part { fill: var(--card); } .dot.miss { stroke: var(--soft); fill: none; opacity: .8; }
.dot.best { stroke: var(--slo); fill: none; stroke-width: 2.4; } .note { font-size: 11px; fill: var(--text); }
.front { opacity: .45; } .key.best::before { background: var(--slo); } .key.miss::before { background: var(--soft); }
"""


def plot(points: Sequence[FleetPoint], front: Sequence[FleetPoint], best: FleetPoint | None) -> str:
    """Return the figure as SVG in HTML."""
    x, y = _scales(points)
    body = axes(x, y, number_ticks(x, 9), number_ticks(y), "tokens/s per user (of the median answer)")
    if front:
        steps = np.array([[point.tokens_per_s_user, point.tokens_per_s_gpu] for point in front])
        body += f'<g class="front">{line(x.px(steps[:, 0]), y.px(steps[:, 1]), "a")}</g>'
    ordered = sorted(points, key=lambda point: point.holds)
    body += "".join(_dot(point, x, y) for point in ordered)
    if best is not None:
        body += f'<circle class="dot best" {_at(best, x, y)} r="{RADIUS + 4}"/>'
    body += _labels([*([best] if best else []), *front], x, y)
    about = f"{len(points)} fleets, {len(front)} on the front"
    keys = [("a", "all workers do both"), ("b", "prefill apart"), ("miss", "misses the SLOs"), ("best", "recommended")]
    return figure("Output tokens/s per GPU", about, keys, body).replace("<figure>", '<figure class="wide">', 1)


def page(title: str, subtitle: str, figure_html: str, tiles: Rows, tables: Sequence[tuple[str, str]]) -> str:
    """Return the whole file; `tables` are headings and tables as HTML."""
    shown = "".join(f'<div class="tile"><b>{escape(b)}</b><span>{together(what)}</span></div>' for b, what in tiles)
    below = "".join(f"<h2>{escape(head)}</h2>{body}\n" for head, body in tables)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}{MARKS}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="sub">{escape(subtitle)}</p>\n'
        f'<div class="tiles">{shown}</div>\n<div class="plots">\n{figure_html}</div>\n'
        f"{below}</main>\n</body>\n</html>\n"
    )


def rows_table(heads: Sequence[str], rows: Sequence[Sequence[str]], words: bool = False) -> str:
    return table(heads, rows, "words" if words else "")


def terminal(points: Sequence[FleetPoint], front: Sequence[FleetPoint], best: FleetPoint | None) -> list[str]:
    """Return the plot in text: lines of equal width, axes included."""
    x, y = _scales(points)
    grid = [[" "] * COLUMNS for _ in range(LINES)]
    on_front = {point.fleet for point in front}
    for point in sorted(points, key=lambda point: (point.fleet in on_front, point is best, point.holds)):
        column = round((point.tokens_per_s_user - x.low) / (x.high - x.low) * (COLUMNS - 1))
        row = LINES - 1 - round((point.tokens_per_s_gpu - y.low) / (y.high - y.low) * (LINES - 1))
        grid[row][column] = sign(point, point.fleet in on_front, best is not None and point.fleet == best.fleet)
    marks = {LINES - 1 - round((t.value - y.low) / (y.high - y.low) * (LINES - 1)): t.text for t in number_ticks(y)}
    wide = max(len(text) for text in marks.values())
    lines = [f"{marks.get(row, ''):>{wide}} {'┤' if row in marks else '│'}{''.join(grid[row])}" for row in range(LINES)]
    lines.append(" " * (wide + 1) + "└" + "─" * COLUMNS)
    under = [" "] * (COLUMNS + 6)
    for tick in number_ticks(x, 7):
        column = round((tick.value - x.low) / (x.high - x.low) * (COLUMNS - 1))
        under[column : column + len(tick.text)] = tick.text
    return [*lines, " " * (wide + 2) + "".join(under).rstrip()]


def sign(point: FleetPoint, on_front: bool, is_best: bool) -> str:
    """Return the character that stands for a fleet."""
    if is_best:
        return "★"
    if not point.holds:
        return "×"
    return "●" if on_front else "○"


def _scales(points: Sequence[FleetPoint]) -> tuple[Axis, Axis]:
    xs = [point.tokens_per_s_user for point in points] or [0.0, 1.0]
    ys = [point.tokens_per_s_gpu for point in points] or [0.0, 1.0]
    room = MARGIN * (max(xs) - min(xs)) or 0.1 * max(xs) or 1.0
    top = max(ys) * (1 + MARGIN) or 1.0
    return across(max(min(xs) - room, 0.0), max(xs) + room), upward(top)


def _at(point: FleetPoint, x: Axis, y: Axis) -> str:
    return f'cx="{x.at(point.tokens_per_s_user):.1f}" cy="{y.at(point.tokens_per_s_gpu):.1f}"'


def _dot(point: FleetPoint, x: Axis, y: Axis) -> str:
    """Return a circle, or a cross for a fleet that misses, with its name to hover over."""
    style = "apart" if point.fleet.shape.apart else ""
    part = "" if point.part == "trace" else ", on a sample"
    title = (
        f"{point.name}: {number(point.tokens_per_s_gpu)} tokens/s per GPU, {number(point.tokens_per_s_user)} per user, "
        f"attainment {share(point.attainment)}{part}"
    )
    if point.holds:
        style += "" if point.part == "trace" else " part"
        return f'<circle class="dot {style}" {_at(point, x, y)} r="{RADIUS}"><title>{escape(title)}</title></circle>'
    at_x, at_y, arm = x.at(point.tokens_per_s_user), y.at(point.tokens_per_s_gpu), RADIUS * 0.8
    stroke = (
        f"M{at_x - arm:.1f} {at_y - arm:.1f}l{2 * arm:.1f} {2 * arm:.1f}m0 {-2 * arm:.1f}l{-2 * arm:.1f} {2 * arm:.1f}"
    )
    return f'<path class="dot miss" d="{stroke}"><title>{escape(title)}</title></path>'


def _labels(points: Sequence[FleetPoint], x: Axis, y: Axis) -> str:
    """Return names, the first ones first, where there is room for them."""
    parts: list[str] = []
    taken: list[tuple[float, float, float]] = []
    for point in points:
        name = point.name.split(",")[0]
        at_x, at_y = x.at(point.tokens_per_s_user), y.at(point.tokens_per_s_gpu) - 7
        wide = LETTER_PX * len(name)
        start = at_x - 8 - wide if at_x > WIDTH * 0.6 else at_x + 8
        if any(
            abs(at_y - other) < LABEL_PX and start < stop and from_px < start + wide for other, from_px, stop in taken
        ):
            continue
        taken.append((at_y, start, start + wide))
        parts.append(f'<text class="note" x="{start:.1f}" y="{at_y:.1f}">{escape(name)}</text>')
    return "".join(parts)
