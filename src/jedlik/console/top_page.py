"""The page of `jedlik top`, from values to text: the header, the fleet, the planner. It does no input or output.

In a narrow terminal columns go, the least important first; nothing wraps but sentences. Unknown is a dash.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jedlik.console.plan_seen import gap
from jedlik.console.view import ALARMING, TIERS, AgedDecision, Header, PlannerView, RoleCounts, TopRow, View
from jedlik.core.plans import Reason
from jedlik.sim.report.words import NOTHING, number, seconds

BAR = 6
TROUBLES = 5
STATE_STYLES = {"serving": "green", "starting": "cyan", "draining": "yellow", "ending": "yellow", ALARMING: "bold red"}
WELL = "ok"


class Detail(NamedTuple):
    """The amount of a page that fits in the terminal. None means all."""

    rows: int | None = None
    """The number of workers that are shown."""
    decisions: int = 3
    """The number of last decisions that are shown."""
    reasons: int = 1
    """The number of last decisions that are shown with their numbers."""


class Column(NamedTuple):
    """A column of the fleet's table. Rank 0 always stays; the highest rank is dropped first."""

    head: str
    rank: int
    cell: Callable[[TopRow], Text]
    right: bool = True


def render(view: View, width: int, detail: Detail | None = None, first: int = 0) -> RenderableType:
    """Return a page of this width. Its fleet begins at the worker with index `first`."""
    detail = detail or Detail()
    parts: list[RenderableType] = [header(view.header), Text(), fleet(view.rows, width, detail.rows, first)]
    parts += [_indented(Text(trouble, style="red")) for trouble in view.troubles[:TROUBLES]]
    if len(view.troubles) > TROUBLES:
        parts.append(Text(f" and {len(view.troubles) - TROUBLES} more that are not well", style="red"))
    parts.append(Text())
    if view.planning is not None:
        parts += planning(view.planning, detail)
    parts += [_indented(Text(note, style="dim")) for note in view.notes]
    return Group(*parts)


# --- the header -----------------------------------------------------------------------------------------------------


def header(head: Header) -> RenderableType:
    """Return the four lines of the header."""
    up = f"up {span(head.uptime_s)}"
    status = Text(head.status or NOTHING, style="green" if head.status == WELL else "bold red")
    first = Text.assemble((f" {head.model or NOTHING}", "bold"), "  ", status, "  ", (up, ""))
    refused = f" ({rate(head.refused_s)} refused)" if head.refused_s else ""
    second = f" {rate(head.requests_s)} requests/s{refused}   {rate(head.tokens_s)} tokens/s"
    second += f"   in flight {number(head.in_flight)}   waiting {number(head.waiting)}"
    third = Text(" TTFT p50 ").append(limited(head.ttft_p50_s, head.slo_ttft_s))
    third.append("  p99 ").append(limited(head.ttft_p99_s, head.slo_ttft_s)).append(_limit(head.slo_ttft_s))
    third.append("   ITL p50 ").append(limited(head.itl_p50_s, head.slo_itl_s)).append(_limit(head.slo_itl_s))
    return Group(first, Text(second), third, _slo_line(head))


def _slo_line(head: Header) -> Text:
    """Return the line of the SLO, with the span that it and the line above it cover."""
    over = "since the start" if head.window_s is None else f"of the last {span(head.window_s)}"
    if head.slo_ttft_s is None and head.slo_itl_s is None:
        return Text(f" no SLO is set   {over}", style="dim")
    missed = head.slo_share is not None and head.target is not None and head.slo_share < head.target
    style = "" if head.slo_share is None else "bold red" if missed else "green"
    target = "" if head.target is None else f", target {percent(head.target)}"
    text = f" SLO kept by {exact(head.slo_share)} of {number(head.offered)} requests{target}"
    return Text.assemble((text, style), (f"   {over}", "dim"))


def limited(value_s: float | None, limit_s: float | None) -> Text:
    """Return a time, red where it is above its limit."""
    return Text(
        seconds(value_s), style="red" if value_s is not None and limit_s is not None and value_s > limit_s else ""
    )


def _limit(limit_s: float | None) -> str:
    return "" if limit_s is None else f" (limit {seconds(limit_s)})"


# --- the fleet ------------------------------------------------------------------------------------------------------


def columns(rows: Sequence[TopRow], health: bool) -> list[Column]:
    """Return all columns in their order; a tier has one where a worker has it. Without `health`, `state` marks bad
    health."""
    tiers = [tier for tier in TIERS if any(tier in row.tiers for row in rows)]
    return [
        Column("worker", 0, lambda row: Text(row.worker), right=False),
        Column("role", 1, lambda row: Text(row.role or NOTHING), right=False),
        Column("state", 0, state if health else marked_state, right=False),
        *([Column("health", 1, _health, right=False)] if health else []),
        Column("run", 1, lambda row: Text(number(row.running))),
        Column("wait", 2, lambda row: Text(number(row.waiting))),
        Column("queued", 5, lambda row: Text(number(row.queued_tokens))),
        Column("tokens/s", 3, lambda row: Text(rate(row.tokens_s))),
        Column("hits", 4, lambda row: Text(percent(row.hits))),
        Column("KV used cached", 4, memory, right=False),
        *(Column(tier, 6, _tier_cell(tier)) for tier in tiers),
    ]


def _tier_cell(tier: str) -> Callable[[TopRow], Text]:
    return lambda row: Text(percent(row.tiers.get(tier)))


def fitting(wanted: Sequence[Column], rows: Sequence[TopRow], width: int) -> list[Column]:
    """Return the columns that fit: the highest ranks are dropped first, among equals the rightmost."""
    fitted = list(wanted)
    widths = {
        column.head: max([len(column.head), *(column.cell(row).cell_len for row in rows)]) for column in wanted
    }  # fmt: skip
    while sum(widths[one.head] for one in fitted) + 2 * len(fitted) > width and any(one.rank for one in fitted):
        least = max(range(len(fitted)), key=lambda at: (fitted[at].rank, at))
        del fitted[least]
    return fitted


def fleet(rows: Sequence[TopRow], width: int, most: int | None, first: int) -> RenderableType:
    """Return the table of workers, one line each."""
    if not rows:
        return Text(" no worker is connected", style="yellow")
    most = len(rows) if most is None else max(1, most)
    first = max(0, min(first, len(rows) - most))
    shown = rows[first : first + most]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    chosen = columns(rows, health=True)
    if len(fitting(chosen, rows, width - 1)) < len(chosen):
        chosen = fitting(columns(rows, health=False), rows, width - 1)
    for column in chosen:
        table.add_column(column.head, justify="right" if column.right else "left", no_wrap=True)
    for row in shown:
        table.add_row(*(column.cell(row) for column in chosen), style="red" if row.state == ALARMING else "")
    parts: list[RenderableType] = [_indented(table)]
    if len(shown) < len(rows):
        parts.append(Text(f" {first + 1} to {first + len(shown)} of {len(rows)} workers", style="dim"))
    return Group(*parts)


def state(row: TopRow) -> Text:
    """Return the state, and the seconds that it has lasted."""
    text = Text(row.state, style=STATE_STYLES.get(row.state, ""))
    if row.since_s is not None:
        text.append(f" {span(row.since_s)}{'' if row.expected_s is None else f'/{span(row.expected_s)}'}")
    return text


def marked_state(row: TopRow) -> Text:
    """Return the state, with a mark where health is bad; the reason is written below the table."""
    return state(row) if row.health in (None, WELL) else state(row).append(" !", style="bold red")


def _health(row: TopRow) -> Text:
    return Text(
        row.health or NOTHING, style="" if row.health is None else "green" if row.health == WELL else "bold red"
    )


def memory(row: TopRow) -> Text:
    """Return a bar of the KV blocks (held by sequences, kept for re-use, free) and both shares as figures."""
    if row.used is None:
        return Text(NOTHING)
    used = min(BAR, round(row.used * BAR))
    cached = min(BAR - used, round((row.cached or 0.0) * BAR))
    style = "red" if row.used > 0.9 else "green"
    bar = Text.assemble(("█" * used, style), ("▒" * cached, "blue"), ("·" * (BAR - used - cached), "dim"))
    return bar.append(f" {percent(row.used):>4} {percent(row.cached):>4}")


# --- the planner ----------------------------------------------------------------------------------------------------


def planning(planner: PlannerView, detail: Detail) -> list[RenderableType]:
    """Return the planner's headline, the counts by role, and the last decisions."""
    head = Text.assemble(
        (" planner ", "dim"), (planner.planner or NOTHING, "bold"), f", mode {planner.mode or NOTHING}"
    )
    if planner.budget is not None:
        head.append(f", budget {number(planner.budget)}")
    if planner.by_hand:
        head.append("  counts set by hand", style="yellow")
    if planner.stale:
        head.append("  reports are missing", style="yellow")
    parts: list[RenderableType] = [head, *(_indented(counted(role)) for role in planner.roles)]
    if planner.why:
        parts.append(_indented(Text(planner.why)))
    if planner.trouble:
        parts.append(_indented(Text(planner.trouble, style="red")))
    for at, one in enumerate(planner.decisions[: detail.decisions]):
        parts += decision(one, numbers=at < detail.reasons)
    return parts


def counted(role: RoleCounts) -> Text:
    """Return the counts of one role: both: 2 serving, 1 starting; 3 wanted."""
    parts = [f"{role.serving} serving"]
    parts += [f"{count} {what}" for count, what in ((role.starting, "starting"), (role.draining, "draining")) if count]
    met = role.wanted is None or role.wanted == role.serving
    return Text.assemble(
        (f"{role.role}: ", "dim"),
        ", ".join(parts),
        (f"; {number(role.wanted)} wanted", "" if met else "cyan"),
        ("" if role.advised is None else f"; {role.advised} advised", "" if role.advised == role.wanted else "cyan"),
    )


def decision(aged: AgedDecision, numbers: bool) -> list[RenderableType]:
    """Return a decision: when and what, the sentence that explains it, and its numbers."""
    one, when = aged.decision, "" if aged.ago_s is None else f"{span(aged.ago_s)} ago  "
    what = f"would do: {gap(one)}" if one.advice else ", ".join(one.done) or "nothing to do"
    text = Text.assemble((when, "dim"), (what, "bold"), f": {one.why}" if one.why else "")
    if not numbers or not one.reasons:
        return [_indented(text, 3)]
    return [_indented(text, 3), _indented(Text(", ".join(map(reason, one.reasons)), style="dim"), 5)]


def reason(one: Reason) -> str:
    """Return a number with its name: forecast 12.3 requests/s."""
    return f"{one.name} {figure(one)}"


def figure(one: Reason) -> str:
    """Return a value with its unit; seconds and shares are written for people."""
    if one.value is None:
        return "unknown"
    if one.unit == "share":
        return exact(one.value)
    return seconds(one.value) if one.unit == "s" else f"{number(one.value)} {one.unit}".rstrip()


def _indented(part: RenderableType, columns: int = 1) -> RenderableType:
    return Padding(part, (0, 0, 0, columns), expand=False)


# --- figures --------------------------------------------------------------------------------------------------------


def span(value_s: float | None) -> str:
    """Return a duration in few characters: 12s, 4m10s, 2h05m, 3d04h."""
    if value_s is None:
        return NOTHING
    whole = round(value_s)
    for size, unit, small, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // small:02}{smaller}"
    return f"{whole}s"


def rate(value: float | None) -> str:
    """Return a rate with three digits; small rates have one decimal."""
    return NOTHING if value is None else f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.1f}"


def percent(value: float | None) -> str:
    """Return a share in whole percents."""
    return NOTHING if value is None else f"{100 * value:.0f}%"


def exact(value: float | None) -> str:
    """Return a share in tenths of a percent. 100% appears only where nothing is missing."""
    if value is None:
        return NOTHING
    return f"{value:.0%}" if value in (0, 1) else f"{max(0.1, min(99.9, 100 * value)):.1f}%"
