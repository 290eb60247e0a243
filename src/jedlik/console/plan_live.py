"""`jedlik plan --advise` and `--explain`: what a running server's planner would do, what it did, and why.

Prints to fit a terminal of 80 columns. Nothing is changed on the server by asking.
"""

import sys
from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jedlik.console.plan_seen import Decision, PlanAnswer, ago_s, fetch_plan, gap
from jedlik.console.top_page import figure, span
from jedlik.core.errors import ConfigError
from jedlik.sim.report.words import NOTHING, number

OK, WRONG = 0, 2
TURN_ON = (
    "start the server with --planner.budget N for it to act, or --planner.mode advise for it to say what it would do"
)


def show_plan(url: str, api_key: str | None, explain: bool) -> int:
    """Print the last decisions (`explain`), or what would be done now. Returns the exit code."""
    try:
        plan = fetch_plan(url, api_key)
    except ConfigError as error:
        print(f"jedlik: {error}", file=sys.stderr)
        return WRONG
    if plan is None:
        print(f"jedlik: the server at {url} has no planner (it is an older release)", file=sys.stderr)
        return WRONG
    Console().print(explained(plan) if explain else advised(plan))
    return OK


def advised(plan: PlanAnswer) -> RenderableType:
    """Return the counts by role, now and wanted, and the reasons."""
    parts: list[RenderableType] = [headline(plan)]
    if plan.mode == "off":
        return Group(*parts, *_off(plan))
    parts.append(counts(plan))
    if plan.by_hand not in (None, False):
        parts.append(Text('counts were set by hand; POST /scale {"auto": true} gives them back to the planner'))
    if plan.why:
        parts.append(Text(f"now: {plan.why}"))
    parts += _worries(plan)
    newest = next((one for one in plan.decisions if one.advice or plan.followed), None)
    if newest is None:
        return Group(*parts, Text("nothing has been decided yet: gateways have not reported, or it is too early"))
    steps = ", ".join(newest.done) if newest.done else "nothing" if plan.followed else gap(newest)
    verb = "last done" if plan.followed else "would do"
    parts += [Text(), Text.assemble((f"{verb}: {steps}", "bold"), _when(plan, newest)), Text(newest.why)]
    return Group(*parts, reasons(newest))


def _worries(plan: PlanAnswer) -> list[RenderableType]:
    worries: list[RenderableType] = [Text(plan.trouble, style="red")] if plan.trouble else []
    if plan.stale:
        worries.append(Text("reports of gateways are missing: the planner holds, and scales up only", style="yellow"))
    return worries


def explained(plan: PlanAnswer) -> RenderableType:
    """Return every decision that is remembered, newest first."""
    parts: list[RenderableType] = [headline(plan)]
    if not plan.decisions:
        return Group(*parts, *(_off(plan) if plan.mode == "off" else [Text("nothing has been decided yet")]))
    for one in plan.decisions:
        steps = f"would do: {gap(one)}" if one.advice else ", ".join(one.done) or "nothing to do"
        parts += [
            Text(),
            Text.assemble((steps, "bold"), _when(plan, one)),
            Text(f"by {one.planner or NOTHING}: {one.why}"),
        ]
        parts += [Padding(change(one), (0, 0, 0, 2), expand=False), Padding(reasons(one), (0, 0, 0, 2), expand=False)]
    return Group(*parts)


def headline(plan: PlanAnswer) -> Text:
    """Return the first line: the planner, its mode and its budget."""
    budget = "" if plan.budget is None else f", budget {number(plan.budget)}"
    start = "" if plan.start_s is None else f", a start takes about {span(plan.start_s)}"
    return Text(f"planner {plan.planner or NOTHING}, mode {plan.mode or NOTHING}{budget}{start}")


def counts(plan: PlanAnswer) -> Table:
    """Return a table of the counts by role: what there is, and what is wanted."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("role")
    names = ["serving", "starting", "draining", "wanted", *([] if plan.followed else ["advised"])]
    for name in names:
        table.add_column(name, justify="right")
    there = [plan.counted("serving"), plan.counted("starting", "waiting"), plan.counted("draining")]
    for role in plan.roles():
        now = [number(count.get(role, 0)) for count in there]
        wishes = [None if wish is None else wish.get(role, 0) for wish in (plan.wanted, plan.advice)[: len(names) - 3]]
        table.add_row(role, *now, *(Text(number(wish), style="bold") for wish in wishes))
    return table


def change(one: Decision) -> Text:
    """Return the change that a decision asked for, by role: both 2 (+ 1 starting) -> 4."""
    roles = dict.fromkeys([*one.serving, *one.starting, *one.draining, *one.wanted])
    parts = []
    for role in roles:
        also = [(one.starting, "starting"), (one.draining, "draining")]
        others = ", ".join(f"{count[role]} {what}" for count, what in also if count.get(role))
        here = f"{one.serving.get(role, 0)} serving{', ' if others else ''}{others}"
        parts.append(f"{role}: {here} -> {_wanted(one.wanted, role)} wanted")
    return Text("; ".join(parts))


def _wanted(wanted: Mapping[str, int], role: str) -> str:
    return number(wanted.get(role, 0)) if wanted else NOTHING


def reasons(one: Decision) -> RenderableType:
    """Return a table with one line per number that the planner gave."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    for reason in one.reasons:
        table.add_row(Text(reason.name), Text(figure(reason)))
    return table if one.reasons else Text("the planner gave no numbers", style="dim")


def _when(plan: PlanAnswer, one: Decision) -> tuple[str, str]:
    ago = ago_s(plan, one)
    return ("" if ago is None else f"  {span(ago)} ago", "dim")


def _off(plan: PlanAnswer) -> list[RenderableType]:
    return [Text(f"it is off: as many workers run as were started. To turn it on, {TURN_ON}")]
