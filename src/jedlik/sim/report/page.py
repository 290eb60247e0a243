"""The report for a browser: one file that opens offline, a megabyte or two however long the run was.

Nothing is fetched and nothing runs: plots are SVG text, colours follow the reader's light or dark setting.
"""

import re
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from jedlik.sim.outcome import Action, SimulationRun
from jedlik.sim.report import charts
from jedlik.sim.report.charts import Timeline
from jedlik.sim.report.columns import Slo, columns
from jedlik.sim.report.numbers import Summary
from jedlik.sim.report.series import bins_for, fleet, sample_bins
from jedlik.sim.report.table import WORKER_HEADS, cells, limits, overview, worker_cells
from jedlik.sim.report.transfers import ROLE_HEADS, role_cells
from jedlik.sim.report.words import moment, number, seconds, share

LISTED = 500
ORDERED = ("start", "serve", "retire", "role")
Rows = Sequence[tuple[str, str]]


def page(run: SimulationRun, summary: Summary, title: str, settings: Rows) -> str:
    """Return the whole file. `settings` are shown as they come: name and value."""
    subtitle = (
        f"{number(summary.requests)} requests over {seconds(summary.duration_s)} of simulated time on "
        f"{number(len(run.workers))} workers "
        f"({number(summary.gpus)} GPUs); policy {summary.policy}, seed {summary.seed}"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="sub">{escape(subtitle)}</p>\n'
        f"{tiles(summary)}{plots(run, summary)}{tables(summary, settings)}</main>\n</body>\n</html>\n"
    )


def tiles(summary: Summary) -> str:
    """Return the few figures that one looks for first."""
    missed = f"{number(summary.failed)} failed, {number(summary.shed)} shed"
    shown = [
        (share(summary.hit_rate), "hit rate"),
        (seconds(summary.ttft_s.p50), f"TTFT p50; p99 {seconds(summary.ttft_s.p99)}"),
        (seconds(summary.itl_s.p50), f"ITL p50; p99 {seconds(summary.itl_s.p99)}"),
        (number(summary.output_tokens_per_s), "output tokens per second"),
        (number(summary.answered), f"answered; {missed}"),
        (number(summary.gpu_hours), "GPU hours"),
    ]
    if summary.goodput is not None:
        shown.insert(0, (share(summary.goodput), f"goodput: {limits(summary)}"))
    if summary.planner is not None:
        shown.append((number(summary.planner_actions), f"actions of planner {summary.planner}"))
        if summary.slo_attainment is not None:
            worst = share(summary.worst_minute_attainment)
            shown.insert(1, (share(summary.slo_attainment), f"attainment; worst minute {worst}"))
    body = "".join(f'<div class="tile"><b>{escape(b)}</b><span>{together(what)}</span></div>' for b, what in shown)
    return f'<div class="tiles">{body}</div>\n'


def together(text: str) -> str:
    """Escape a text, with no line break between numbers and their units."""
    return re.sub(r"([≤\d]) (?=[\d%sm])", r"\1&nbsp;", escape(text))


def plots(run: SimulationRun, summary: Summary) -> str:
    data = columns(run.outcomes)
    slo = Slo(summary.slo_ttft_s, summary.slo_itl_s)
    marked = surprises(run)
    time = Timeline.of(bins_for(len(run.outcomes), run.duration_s), marked)
    samples = time._replace(bins=sample_bins(run))
    running = fleet(run, samples.bins, lambda sample: sample.running)
    waiting = fleet(run, samples.bins, lambda sample: sample.waiting)
    queued = np.nansum(waiting.mean) > 0
    parts = [
        charts.workers(time, run, data) if run.planning else "",
        charts.attainment(time, run, data, slo) if run.planning and slo != Slo() else "",
        charts.distribution("TTFT", data.ttft_s[data.ok], slo.ttft_s),
        charts.distribution("ITL", data.itl_s[data.ok], slo.itl_s),
        charts.latency(time, data, slo.ttft_s),
        charts.traffic(time, data) if slo == Slo() else charts.goodput(time, data, slo),
        charts.hits(time, data),
        "" if slo == Slo() else charts.traffic(time, data),
        charts.batch(samples, running),
        charts.queue(samples, waiting),
        charts.heat(samples, running, "Sequences running, by worker", "sequences"),
        charts.heat(samples, waiting, "Sequences waiting, by worker", "sequences") if queued else "",
    ]
    note = '<p class="marks">Dotted lines are faults and other actions: hover for what, or see the list below.</p>\n'
    return f'{note if marked else ""}<div class="plots">\n{"".join(parts)}</div>\n'


def surprises(run: SimulationRun) -> list[Action]:
    """Return the actions that no planner ordered: those are in its own plot."""
    if run.planning is None:
        return run.actions
    return [a for a in run.actions if a.kind not in ORDERED and a.detail not in ("drained", "ended")]


def tables(summary: Summary, settings: Rows) -> str:
    spreads = [("TTFT", *cells(summary.ttft_s)), ("ITL", *cells(summary.itl_s))]
    latencies = table(("", "mean", "p50", "p90", "p99"), spreads)
    parts = [
        '<div class="halves">',
        f"<section><h2>Summary</h2>{table((), overview(summary), 'words')}</section>",
        f"<section><h2>Latencies</h2>{latencies}</section></div>",
    ]
    if summary.actions:
        rows = [(moment(a.at_s), a.kind, a.worker, a.detail) for a in summary.action_list[:LISTED]]
        parts.append(f"<h2>Faults and actions{_first(summary.actions)}</h2>")
        parts.append(table(("at", "what", "worker", "detail"), rows, "words"))
    if summary.roles:
        parts.append(f"<h2>Roles</h2>{table(ROLE_HEADS, [role_cells(row) for row in summary.roles])}")
    parts.append(f"<h2>Workers{_first(len(summary.workers))}</h2>")
    parts.append(table(WORKER_HEADS, [worker_cells(row) for row in summary.workers[:LISTED]]))
    parts.append(f"<h2>Settings</h2>{table((), settings, 'words')}")
    return "\n".join(parts) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], style: str = "") -> str:
    """Return a table. Cells are text; the first of a row names it."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    lines = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>\n'
        for row in rows
    )
    above = f"<thead><tr>{head}</tr></thead>" if heads else ""
    return f'<div class="panel"><table class="{style}">{above}<tbody>{lines}</tbody></table></div>'


def _first(count: int) -> str:
    return f" (the first {LISTED} of {number(count)})" if count > LISTED else ""


CSS = (
    """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --text: #1c2430; --soft: #5b6675; --rule: #e3e7ec;
  --a: #1f6feb; --b: #d9730d; --c: #c62a47; --slo: #16803c; --act: #8250df; }
@media (prefers-color-scheme: dark) { :root { --page: #101418; --card: #181d23; --text: #e8ebef; --soft: #9aa5b1;
  --rule: #2a323b; --a: #6cb0ff; --b: #f2a65a; --c: #ff7b8f; --slo: #5bd68a; --act: #c09bff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 48px; }
h1 { font-size: 22px; margin: 0; } h2 { font-size: 16px; margin: 28px 0 10px; }
.sub { color: var(--soft); margin: 2px 0 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(136px, 1fr)); gap: 12px; margin-bottom: 16px; }
.tile, figure, .panel { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
.tile { padding: 10px 12px; } .tile b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.marks { color: var(--act); font-size: 13px; margin: 0 0 10px; } .tile span { color: var(--soft); font-size: 13px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 14px; }
figure { margin: 0; padding: 12px 14px 4px; min-width: 0; } figure.wide { grid-column: 1 / -1; }
figcaption { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: baseline; margin-bottom: 4px; }
figcaption b { margin-right: auto; } .key, .scale { color: var(--soft); font-size: 13px; }
.key::before { content: ""; display: inline-block; width: 16px; height: 3px; margin-right: 6px; vertical-align: middle;
  background: currentColor; }
.key.a::before { background: var(--a); } .key.b::before { background: var(--b); }
.key.c::before { background: var(--c); }
.key.demand::before { background: var(--soft); } .key.starting::before { background: var(--slo); }
.key.draining::before { background: var(--c); } .key.wide::before { height: 10px; opacity: .25; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
text { fill: var(--text); font-size: 12px; font-variant-numeric: tabular-nums; }
.tick, .label { fill: var(--soft); } .tick.x, .label { text-anchor: middle; } .tick.y { text-anchor: end; }
.grid { stroke: var(--rule); fill: none; } .axis { stroke: var(--soft); fill: none; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.line.a { stroke: var(--a); } .line.b { stroke: var(--b); } .line.c { stroke: var(--c); }
.line.starting { stroke: var(--slo); stroke-dasharray: 5 3; }
.line.draining { stroke: var(--c); stroke-dasharray: 2 3; } .band.demand { fill: var(--soft); }
.band { opacity: .2; } .band.a { fill: var(--a); }
.mark path { fill: none; stroke-width: 1.5; } .mark.slo path { stroke: var(--slo); stroke-dasharray: 5 3; }
.mark.slo text { fill: var(--slo); } .mark.action path { stroke: var(--act); stroke-dasharray: 2 3; }
.floor { fill: var(--page); } .row { fill: transparent; }
[class^=h] { shape-rendering: crispEdges; }
"""
    + "".join(
        f".h{shade} {{ fill: var(--a); background: var(--a); opacity: {0.08 + 0.92 * shade / 9:.2f}; }}\n"
        for shade in range(1, 10)
    )
    + """
.scale i { display: inline-block; width: 12px; height: 10px; }
.panel { padding: 4px 14px; overflow-x: auto; max-height: 480px; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child, .words th, .words td { text-align: left; }
.words td:last-child { white-space: normal; overflow-wrap: anywhere; } tr:last-child > * { border-bottom: 0; }
thead th { color: var(--soft); font-weight: 600; position: sticky; top: 0; background: var(--card); }
tbody th { font-weight: 500; } .halves { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
@media print { body { background: none; } .panel { max-height: none; } }
"""
)
"""The style sheet, light and dark by the reader's setting: no fonts, no scripts, no addresses."""
