"""The report for a browser: one file that opens offline, a megabyte or two however long the run was.

Nothing is fetched and nothing runs: plots are SVG text, colours follow the reader's light or dark setting.
"""

import re
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from jedlik.sim.outcome import Action, Run
from jedlik.sim.report import charts, staffing
from jedlik.sim.report.charts import Timeline
from jedlik.sim.report.columns import Slo, columns
from jedlik.sim.report.heat import heat
from jedlik.sim.report.moving import ROLE_HEADS, role_cells
from jedlik.sim.report.numbers import Summary
from jedlik.sim.report.series import bins_for, fleet, sample_bins
from jedlik.sim.report.style import CSS
from jedlik.sim.report.table import WORKER_HEADS, cells, limits, overview, worker_cells
from jedlik.sim.report.words import moment, number, seconds, share

LISTED = 500
ORDERED = ("start", "serve", "retire", "role")
Rows = Sequence[tuple[str, str]]


def page(run: Run, summary: Summary, title: str, settings: Rows) -> str:
    """The whole file. `settings` are shown as they come: name and value."""
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
    """The few figures one looks for first."""
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
    """Numbers and their units are not torn apart at the end of a line."""
    return re.sub(r"([≤\d]) (?=[\d%sm])", r"\1&nbsp;", escape(text))


def plots(run: Run, summary: Summary) -> str:
    data = columns(run.outcomes)
    slo = Slo(summary.slo_ttft_s, summary.slo_itl_s)
    marked = surprises(run)
    time = Timeline.of(bins_for(len(run.outcomes), run.duration_s), marked)
    samples = time._replace(bins=sample_bins(run))
    running = fleet(run, samples.bins, lambda sample: sample.running)
    waiting = fleet(run, samples.bins, lambda sample: sample.waiting)
    parts = [
        staffing.workers(time, run, data) if run.planning else "",
        staffing.attainment(time, run, data, slo) if run.planning and slo != Slo() else "",
        charts.distribution("TTFT", data.ttft_s[data.ok], slo.ttft_s),
        charts.distribution("ITL", data.itl_s[data.ok], slo.itl_s),
        charts.latency(time, data, slo.ttft_s),
        charts.traffic(time, data) if slo == Slo() else charts.goodput(time, data, slo),
        charts.hits(time, data),
        "" if slo == Slo() else charts.traffic(time, data),
        charts.batch(samples, running),
        charts.queue(samples, waiting),
        heat(samples, running, "Sequences running, by worker", "sequences"),
        heat(samples, waiting, "Sequences waiting, by worker", "sequences") if np.nansum(waiting.mean) > 0 else "",
    ]
    told = '<p class="told">Dotted lines are faults and other actions: hover for what, or see the list below.</p>\n'
    return f'{told if marked else ""}<div class="plots">\n{"".join(parts)}</div>\n'


def surprises(run: Run) -> list[Action]:
    """What happened, less what a planner ordered: its plot shows that."""
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
    """Cells are text; the first of a row names it."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    lines = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>\n'
        for row in rows
    )
    above = f"<thead><tr>{head}</tr></thead>" if heads else ""
    return f'<div class="panel"><table class="{style}">{above}<tbody>{lines}</tbody></table></div>'


def _first(count: int) -> str:
    return f" (the first {LISTED} of {number(count)})" if count > LISTED else ""
