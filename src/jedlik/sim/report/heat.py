"""The heat map: a row per worker, a column per moment, darker where more is going on.

Cells of one shade are one path, neighbours in a row one stroke of it: 200 rows of 120 columns stay some 100 kB.
"""

from html import escape
from itertools import pairwise

import numpy as np

from jedlik.sim.report.charts import Timeline, marks
from jedlik.sim.report.columns import Floats
from jedlik.sim.report.series import Fleet
from jedlik.sim.report.svg import Scale, time_ticks
from jedlik.sim.report.words import number

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1160, 132, 12, 4, 40
SHADES = 9
TALLEST_ROW, MOST_HEIGHT = 22, 600
NAME_EVERY_PX = 13


def heat(time: Timeline, fleet: Fleet, title: str, unit: str) -> str:
    """One figure over the whole width."""
    rows = max(len(fleet.rows), 1)
    row_px = min(TALLEST_ROW, MOST_HEIGHT / rows)
    bottom = TOP + row_px * rows
    x = Scale(0.0, time.bins.duration_s, LEFT, WIDTH - RIGHT)
    seen = fleet.mean[np.isfinite(fleet.mean)]
    top = float(seen.max()) if len(seen) else 0.0
    body = f'<rect class="floor" x="{LEFT}" y="{TOP}" width="{WIDTH - RIGHT - LEFT}" height="{row_px * rows:.1f}"/>'
    body += cells(fleet.mean, top, (x.end_px - LEFT) / time.bins.number, row_px)
    body += _names(fleet, row_px, unit) + _time(x, bottom)
    body += marks(time._replace(x=x), Scale(0, 1, bottom, TOP))
    about = f"{rows} rows, from 0 to {number(top)} {unit}"
    legend = "".join(f'<i class="h{shade}"></i>' for shade in range(1, SHADES + 1))
    return (
        f'<figure class="wide"><figcaption><b>{escape(title)}</b>'
        f'<span class="scale">0 {legend} {number(top)} {escape(unit)}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {bottom + BOTTOM:.0f}" role="img" aria-label="{escape(title)}: {escape(about)}">'
        f"<title>{escape(about)}</title>{body}</svg></figure>\n"
    )


def cells(values: Floats, top: float, column_px: float, row_px: float) -> str:
    """Shades of the values, 0 and NaN left out."""
    if top <= 0:
        return ""
    shades = np.ceil(np.nan_to_num(values) / top * SHADES - 1e-9).astype(np.int64)
    strokes: dict[int, list[str]] = {shade: [] for shade in range(1, SHADES + 1)}
    for row, line in enumerate(shades):
        edges = np.concatenate(([0], np.flatnonzero(np.diff(line)) + 1, [len(line)])).tolist()
        y = TOP + row * row_px
        for start, end in pairwise(edges):
            if line[start]:
                left, right = LEFT + start * column_px, LEFT + end * column_px
                strokes[int(line[start])].append(f"M{left:.1f} {y:.1f}H{right:.1f}v{row_px:.1f}H{left:.1f}z")
    return "".join(f'<path class="h{shade}" d="{"".join(parts)}"/>' for shade, parts in strokes.items() if parts)


def _names(fleet: Fleet, row_px: float, unit: str) -> str:
    """Names where there is room, and for every row something to hover over."""
    every = max(1, round(NAME_EVERY_PX / row_px + 0.49))
    parts = []
    for row, name in enumerate(fleet.rows):
        y = TOP + row * row_px
        if row % every == 0:
            middle = y + row_px / 2 + 4
            parts.append(f'<text class="tick y" x="{LEFT - 6}" y="{middle:.1f}">{escape(_short(name))}</text>')
        line = fleet.mean[row][np.isfinite(fleet.mean[row])]
        told = f"{name}: {number(float(line.mean()))} {unit} on average" if len(line) else name
        area = f'x="{LEFT}" y="{y:.1f}" width="{WIDTH - RIGHT - LEFT}" height="{row_px:.1f}"'
        parts.append(f'<rect class="row" {area}><title>{escape(told)}</title></rect>')
    return "".join(parts)


def _short(name: str) -> str:
    name = name.partition(" to ")[0]
    return name if len(name) <= 20 else "…" + name[-19:]


def _time(x: Scale, bottom: float) -> str:
    ticks, unit = time_ticks(x)
    parts = [
        f'<text class="tick x" x="{x.at(tick.value):.1f}" y="{bottom + 15:.1f}">{escape(tick.text)}</text>'
        for tick in ticks
    ]
    middle = (x.start_px + x.end_px) / 2
    return "".join(parts) + f'<text class="label" x="{middle:.0f}" y="{bottom + 32:.1f}">simulated time, {unit}</text>'
