"""The page of `jedlik top`, from values to text: the header, the fleet, the planner. Pure.

In a narrow terminal columns go, the least important first; nothing wraps but sentences. Unknown is a dash.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jedlik.console.plan_seen import gap
from jedlik.console.view import ALARMING, TIERS, Counted, Header, Planning, Row, Told, View
from jedlik.core.plans import Reason
from jedlik.sim.report.words import NOTHING, number, seconds

BAR = 6
TROUBLES = 5
STATE_STYLES = {"serving": "green", "starting": "cyan", "draining": "yellow", "ending": "yellow", ALARMING: "bold red"}
WELL = "ok"


class Detail(NamedTuple):
    """How much of a page there is room for; None: all."""

    rows: int | None = None
    """Workers."""
    decisions: int = 3
    """The last so many,"""
    reasons: int = 1
    """and of these the numbers of the last so many."""


class Column(NamedTuple):
    """`rank`: 0 stays always, the highest goes first."""

    head: str
    rank: int
    cell: Callable[[Row], Text]
    right: bool = True


def render(view: View, width: int, detail: Detail | None = None, first: int = 0) -> RenderableType:
    """A page so wide; of the fleet, the workers from the `first` on."""
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
    """Four lines."""
    up = f"up {span(head.uptime_s)}"
    status = Text(head.status or NOTHING, style="green" if head.status == WELL else "bold red")
    first = Text.assemble((f" {head.model or NOTHING}", "bold"), "  ", status, "  ", (up, ""))
    refused = f" ({rate(head.refused_s)} refused)" if head.refused_s else ""
    second = f" {rate(head.requests_s)} requests/s{refused}   {rate(head.tokens_s)} tokens/s"
    second += f"   in flight {number(head.in_flight)}   waiting {number(head.waiting)}"
    third = Text.assemble(
        " TTFT p50 ",
        limited(head.ttft_p50_s, head.slo_ttft_s),
        "  p99 ",
        limited(head.ttft_p99_s, head.slo_ttft_s),
        f"{_limit(head.slo_ttft_s)}   ITL p50 ",
        limited(head.itl_p50_s, head.slo_itl_s),
        _limit(head.slo_itl_s),
    )
    return Group(first, Text(second), third, _kept(head))


def _kept(head: Header) -> Text:
    """And what this and the line above it are of."""
    over = "since the start" if head.window_s is None else f"of the last {span(head.window_s)}"
    if head.slo_ttft_s is None and head.slo_itl_s is None:
        return Text(f" no SLO is set   {over}", style="dim")
    missed = head.kept is not None and head.target is not None and head.kept < head.target
    style = "" if head.kept is None else "bold red" if missed else "green"
    target = "" if head.target is None else f", target {percent(head.target)}"
    told = f" SLO kept by {exact(head.kept)} of {number(head.offered)} requests{target}"
    return Text.assemble((told, style), (f"   {over}", "dim"))


def limited(value_s: float | None, limit_s: float | None) -> Text:
    """Red beyond its limit."""
    return Text(
        seconds(value_s), style="red" if value_s is not None and limit_s is not None and value_s > limit_s else ""
    )


def _limit(limit_s: float | None) -> str:
    return "" if limit_s is None else f" (limit {seconds(limit_s)})"


# --- the fleet ------------------------------------------------------------------------------------------------------


def columns(rows: Sequence[Row], health: bool) -> list[Column]:
    """In the order of the page; tiers only where somebody has them. Without `health`, `state` marks who is not well."""
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


def _tier_cell(tier: str) -> Callable[[Row], Text]:
    return lambda row: Text(percent(row.tiers.get(tier)))


def fitting(wanted: Sequence[Column], rows: Sequence[Row], width: int) -> list[Column]:
    """Those there is room for: the highest ranks go first, of equal ones the rightmost."""
    left = list(wanted)
    widths = {
        column.head: max([len(column.head), *(column.cell(row).cell_len for row in rows)]) for column in wanted
    }  # fmt: skip
    while sum(widths[column.head] for column in left) + 2 * len(left) > width and any(column.rank for column in left):
        least = max(range(len(left)), key=lambda at: (left[at].rank, at))
        del left[least]
    return left


def fleet(rows: Sequence[Row], width: int, most: int | None, first: int) -> RenderableType:
    """A line a worker."""
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


def state(row: Row) -> Text:
    """With for how long."""
    text = Text(row.state, style=STATE_STYLES.get(row.state, ""))
    if row.since_s is not None:
        text.append(f" {span(row.since_s)}{'' if row.expected_s is None else f'/{span(row.expected_s)}'}")
    return text


def marked_state(row: Row) -> Text:
    """And a mark where health is bad: what it is and why is said below the table."""
    return state(row) if row.health in (None, WELL) else state(row).append(" !", style="bold red")


def _health(row: Row) -> Text:
    return Text(
        row.health or NOTHING, style="" if row.health is None else "green" if row.health == WELL else "bold red"
    )


def memory(row: Row) -> Text:
    """A bar: held by sequences, kept for re-use, free; and both as figures."""
    if row.used is None:
        return Text(NOTHING)
    used = min(BAR, round(row.used * BAR))
    cached = min(BAR - used, round((row.cached or 0.0) * BAR))
    style = "red" if row.used > 0.9 else "green"
    bar = Text.assemble(("█" * used, style), ("▒" * cached, "blue"), ("·" * (BAR - used - cached), "dim"))
    return bar.append(f" {percent(row.used):>4} {percent(row.cached):>4}")


# --- the planner ----------------------------------------------------------------------------------------------------


def planning(told: Planning, detail: Detail) -> list[RenderableType]:
    """A headline, counts by role, the last decisions."""
    head = Text.assemble((" planner ", "dim"), (told.planner or NOTHING, "bold"), f", mode {told.mode or NOTHING}")
    if told.budget is not None:
        head.append(f", budget {number(told.budget)}")
    if told.by_hand:
        head.append("  counts set by hand", style="yellow")
    if told.stale:
        head.append("  reports are missing", style="yellow")
    parts: list[RenderableType] = [head, *(_indented(counted(role)) for role in told.roles)]
    if told.why:
        parts.append(_indented(Text(told.why)))
    if told.trouble:
        parts.append(_indented(Text(told.trouble, style="red")))
    for at, one in enumerate(told.decisions[: detail.decisions]):
        parts += decision(one, numbers=at < detail.reasons)
    return parts


def counted(role: Counted) -> Text:
    """both: 2 serving, 1 starting; 3 wanted."""
    parts = [f"{role.serving} serving"]
    parts += [f"{count} {what}" for count, what in ((role.starting, "starting"), (role.draining, "draining")) if count]
    met = role.wanted is None or role.wanted == role.serving
    return Text.assemble(
        (f"{role.role}: ", "dim"),
        ", ".join(parts),
        (f"; {number(role.wanted)} wanted", "" if met else "cyan"),
        ("" if role.advised is None else f"; {role.advised} advised", "" if role.advised == role.wanted else "cyan"),
    )


def decision(told: Told, numbers: bool) -> list[RenderableType]:
    """When and what, why in a sentence, why in numbers."""
    one, when = told.decision, "" if told.ago_s is None else f"{span(told.ago_s)} ago  "
    what = f"would do: {gap(one)}" if one.advice else ", ".join(one.done) or "nothing to do"
    said = Text.assemble((when, "dim"), (what, "bold"), f": {one.why}" if one.why else "")
    if not numbers or not one.reasons:
        return [_indented(said, 3)]
    return [_indented(said, 3), _indented(Text(", ".join(map(reason, one.reasons)), style="dim"), 5)]


def reason(one: Reason) -> str:
    """Forecast 12.3 requests/s."""
    return f"{one.name} {figure(one)}"


def figure(one: Reason) -> str:
    """A value with its unit; seconds and shares as people read them."""
    if one.value is None:
        return "unknown"
    if one.unit == "share":
        return exact(one.value)
    return seconds(one.value) if one.unit == "s" else f"{number(one.value)} {one.unit}".rstrip()


def _indented(part: RenderableType, columns: int = 1) -> RenderableType:
    return Padding(part, (0, 0, 0, columns), expand=False)


# --- figures --------------------------------------------------------------------------------------------------------


def span(value_s: float | None) -> str:
    """A duration in few characters: 12s, 4m10s, 2h05m, 3d04h."""
    if value_s is None:
        return NOTHING
    whole = round(value_s)
    for size, unit, small, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // small:02}{smaller}"
    return f"{whole}s"


def rate(value: float | None) -> str:
    """Three digits; small ones to a tenth."""
    return NOTHING if value is None else f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.1f}"


def percent(value: float | None) -> str:
    """Whole percents."""
    return NOTHING if value is None else f"{100 * value:.0f}%"


def exact(value: float | None) -> str:
    """Percents to a tenth; 100 says that not one is missing."""
    if value is None:
        return NOTHING
    return f"{value:.0%}" if value in (0, 1) else f"{max(0.1, min(99.9, 100 * value)):.1f}%"
