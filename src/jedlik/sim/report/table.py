"""The summary of a run for the terminal."""

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from jedlik.sim.report.numbers import Failures, Spread, Summary, WorkerRow
from jedlik.sim.report.transfers import ROLE_HEADS, RoleRow, role_cells, rows_of
from jedlik.sim.report.words import moment, number, seconds, share

WORKERS_SHOWN = 16
ACTIONS_SHOWN = 12
CAUSES_SHOWN = 3
Row = tuple[str, str]


def rendered(summary: Summary) -> RenderableType:
    """Return the tables; fleets and lists of actions too long for it are in --json."""
    parts: list[RenderableType] = [_pairs(overview(summary)), _latencies(summary)]
    if summary.roles:
        parts.append(_roles(summary.roles))
    workers = [row for row in summary.workers if summary.planner is None or row.busy_share]
    if len(workers) <= WORKERS_SHOWN:
        parts.append(_workers(workers))
    if summary.actions:
        parts.append(_actions(summary))
    return Group(*parts)


def overview(summary: Summary) -> list[Row]:
    """Return the figures that are one number each, with their names."""
    offered = f"{number(summary.requests)} offered, {number(summary.answered)} answered"
    missed = ((summary.failed, "failed"), (summary.shed, "shed"), (summary.unfinished, "unfinished"))
    offered += "".join(f", {number(count)} {what}" for count, what in missed if count)
    rows = [("requests", offered)]
    if summary.goodput is not None:
        rows.append((f"goodput ({limits(summary)})", share(summary.goodput)))
        rows += _attained(summary)
    return [
        *rows,
        ("hit rate", share(summary.hit_rate)),
        *rows_of(summary.handoffs, summary.tiers),
        ("throughput", f"{number(summary.requests_per_s)} req/s, {number(summary.output_tokens_per_s)} tokens/s"),
        (
            "simulated",
            f"{seconds(summary.duration_s)}, {number(summary.gpus)} GPUs, {number(summary.gpu_hours)} GPU hours",
        ),
        *_planned(summary),
        ("policy, seed", f"{summary.policy}, {summary.seed}"),
        *_failed("policy", summary.policy_failures),
        *_failed("shadow policy", summary.shadow_failures),
        ("simulator", _simulator(summary)),
    ]


def _attained(summary: Summary) -> list[Row]:
    """Return attainment, where it differs from goodput."""
    share_alone = summary.attainable_share
    rows = []
    if summary.planner is not None or (share_alone is not None and share_alone < 1):
        worst = f", {share(summary.worst_minute_attainment)} in the worst minute"
        rows.append(("attainment", share(summary.slo_attainment) + worst))
    if share_alone is not None and share_alone < 1:
        rows.append(("attainable", f"{share(share_alone)} of the requests; the others are too long for any worker"))
    return rows


def _planned(summary: Summary) -> list[Row]:
    if summary.planner is None:
        return []
    text = f"{summary.planner}, {number(summary.planner_actions)} actions"
    if summary.goodput_per_gpu_s is not None:
        text += f", {number(summary.goodput_per_gpu_s)} good requests per GPU second"
    return [("planner", text)] + ([] if summary.cost is None else [("cost", number(summary.cost))])


def _failed(which: str, failures: Failures | None) -> list[Row]:
    if failures is None:
        return []
    text = f"in {number(failures.failures)} of {number(failures.choices)} choices"
    causes = sorted(failures.causes.items(), key=lambda cause: (-cause[1], cause[0]))[:CAUSES_SHOWN]
    text += "".join(f"; {number(count)} × {cause}" for cause, count in causes)
    more = len(failures.causes) - len(causes)
    text += f"; {more} other causes (--json)" if more else ""
    return [(f"{which} failed", text)]


def limits(summary: Summary) -> str:
    """Return the SLOs for people, such as TTFT ≤ 2 s, ITL ≤ 25 ms."""
    pairs = (("TTFT", summary.slo_ttft_s), ("ITL", summary.slo_itl_s))
    return ", ".join(f"{name} ≤ {seconds(value)}" for name, value in pairs if value is not None)


def _simulator(summary: Summary) -> str:
    rate = f"{number(summary.simulated_requests_per_cpu_s)} req per CPU second"
    return f"{rate}, {number(summary.times_real_time)} × real time, {number(summary.events)} events"


def _pairs(rows: list[Row]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(f"[bold]{name}[/]", escape(value))
    return table


def _latencies(summary: Summary) -> Table:
    table = _table("", "mean", "p50", "p90", "p99")
    for name, spread in (("TTFT", summary.ttft_s), ("ITL", summary.itl_s)):
        table.add_row(name, *cells(spread))
    return table


def cells(spread: Spread) -> list[str]:
    return [seconds(value) for value in (spread.mean, spread.p50, spread.p90, spread.p99)]


def worker_cells(row: WorkerRow) -> list[str]:
    """Return the cells of a worker, in the order of `WORKER_HEADS`."""
    return [
        row.worker,
        number(row.answered),
        share(row.hit_rate),
        seconds(row.ttft_p90_s),
        number(row.running_mean),
        number(row.waiting_mean),
        share(row.busy_share),
    ]


WORKER_HEADS = ("worker", "answered", "hit rate", "TTFT p90", "batch", "queue", "busy")


def _workers(rows: list[WorkerRow]) -> Table:
    table = _table(*WORKER_HEADS)
    for row in rows:
        table.add_row(*worker_cells(row))
    return table


def _roles(rows: list[RoleRow]) -> Table:
    table = _table(*ROLE_HEADS)
    for row in rows:
        table.add_row(*role_cells(row))
    return table


def _actions(summary: Summary) -> Table:
    table = Table("at", "what", "worker", "detail", box=None, header_style="bold", pad_edge=False)
    for action in summary.action_list[:ACTIONS_SHOWN]:
        table.add_row(moment(action.at_s), action.kind, action.worker, escape(action.detail))
    if summary.actions > ACTIONS_SHOWN:
        table.add_row("", f"and {summary.actions - ACTIONS_SHOWN} more (--json)", "", "")
    return table


def _table(*heads: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left")
    return table
