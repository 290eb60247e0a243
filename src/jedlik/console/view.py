"""The values of `jedlik top`: differences between looks at a server, joined by worker. It does no input or output.

A figure that is unknown is None, never 0. Rates are between two looks; shares and quantiles over a longer window,
or since the server began where there is no look old enough (`Header.window_s` says).
"""

import re
from typing import NamedTuple

from jedlik.console.plan_seen import ABSENT, Decision, FleetMember, PlanAnswer, ago_s
from jedlik.console.sample import RATES_S, SHORT_S, WINDOW_S, History, ServerLook, WorkerHealth
from jedlik.console.series import Series
from jedlik.fleet.backoff import LOOP_AFTER

TIERS = ("host", "disk", "object")
ALARMING = "waiting"
"""The state of a member that ended by itself and will be started again."""

UNEXPLAINED = "no reason given"


class Header(NamedTuple):
    """The figures of the server as a whole."""

    model: str | None
    status: str | None
    uptime_s: float | None
    in_flight: int | None
    waiting: int | None
    """The number of requests that wait at gateways."""
    requests_s: float | None
    """The rate of requests that ended."""
    refused_s: float | None
    """The rate of requests that were refused for load."""
    tokens_s: float | None
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    itl_p50_s: float | None
    slo_ttft_s: float | None
    slo_itl_s: float | None
    slo_share: float | None
    """The share of the offered requests whose SLO was met."""
    offered: float | None
    target: float | None
    window_s: float | None
    """The span of the quantiles and of `slo_share`. None means since the server began."""


class TopRow(NamedTuple):
    """The figures of one worker."""

    worker: str
    role: str | None
    state: str
    since_s: float | None
    expected_s: float | None
    """The seconds that this state is expected to last."""
    start: int | None
    health: str | None
    running: int | None
    waiting: int | None
    queued_tokens: float | None
    used: float | None
    """The share of its KV blocks that sequences hold."""
    cached: float | None
    """The share of its KV blocks that are kept for re-use."""
    tiers: dict[str, float | None]
    """The share of the wanted blocks that each tier delivered. A tier that no worker has is missing."""
    tokens_s: float | None
    hits: float | None
    """The share of the prompt tokens sent there that were cached."""


class RoleCounts(NamedTuple):
    """The number of workers of one role."""

    role: str
    serving: int
    starting: int
    draining: int
    wanted: int | None
    advised: int | None
    """The count that the planner asks for, where an operator decides."""


class AgedDecision(NamedTuple):
    """A decision and its age."""

    decision: Decision
    ago_s: float | None


class PlannerView(NamedTuple):
    """The planner's part of the page."""

    mode: str | None
    planner: str | None
    budget: float | None
    by_hand: bool
    stale: bool
    trouble: str
    why: str
    """The sentence that explains the wanted counts."""
    roles: list[RoleCounts]
    decisions: list[AgedDecision]


class View(NamedTuple):
    """All values of a page."""

    header: Header
    rows: list[TopRow]
    planning: PlannerView | None
    troubles: list[str]
    """The workers that are not well, each with the reason."""
    notes: tuple[str, ...]


def of_history(history: History) -> View | None:
    """Return the view of the newest look, compared with older ones; None before the first look."""
    current = history.last()
    if current is None:
        return None
    return view(history.before(RATES_S), current, history.before(WINDOW_S, SHORT_S))


def view(previous: ServerLook | None, current: ServerLook, minute_ago: ServerLook | None = None) -> View:
    """Return the view of a look. Rates are taken since `previous`, shares and quantiles since `minute_ago`."""
    rows = _rows(previous, current, minute_ago)
    plan = None if current.plan is None else _planning(current.plan)
    return View(_header(previous, current, minute_ago), rows, plan, _troubles(current), current.notes)


def _header(previous: ServerLook | None, current: ServerLook, minute_ago: ServerLook | None) -> Header:
    health, series = current.health, current.series or Series({})
    base = None if minute_ago is None else minute_ago.series
    offered = series.increase(base, "jedlik_requests_offered_total")
    met = series.increase(base, "jedlik_requests_kept_slo_total")
    idle = [count for count in (health.waiting, health.parked) if count is not None]
    limit_ttft_s = series.total("jedlik_slo_seconds", of="ttft")
    limit_itl_s = series.total("jedlik_slo_seconds", of="itl")
    promised = limit_ttft_s is not None or limit_itl_s is not None
    return Header(
        model=current.model or next((worker.model for worker in health.workers if worker.model), None),
        status="draining" if health.draining else health.status,
        uptime_s=current.uptime_s,
        in_flight=health.in_flight,
        waiting=sum(idle) if idle else None,
        requests_s=_rate(previous, current, "jedlik_requests_total"),
        refused_s=_rate(previous, current, "jedlik_requests_total", outcome="overloaded"),
        tokens_s=_rate(previous, current, "jedlik_output_tokens_total"),
        ttft_p50_s=series.quantile(base, "jedlik_time_to_first_token_seconds", 0.5),
        ttft_p99_s=series.quantile(base, "jedlik_time_to_first_token_seconds", 0.99),
        itl_p50_s=series.quantile(base, "jedlik_inter_token_latency_seconds", 0.5),
        slo_ttft_s=limit_ttft_s,
        slo_itl_s=limit_itl_s,
        slo_share=met / offered if promised and met is not None and offered else None,
        offered=offered,
        target=series.total("jedlik_slo_attainment_target_ratio") if promised else None,
        window_s=None if base is None or minute_ago is None else current.at - minute_ago.at,
    )


def _rate(previous: ServerLook | None, current: ServerLook, name: str, **labels: str) -> float | None:
    """Return the rate per second; None without two looks."""
    if previous is None or previous.series is None or current.series is None or current.at <= previous.at:
        return None
    increase = current.series.increase(previous.series, name, **labels)
    return None if increase is None else increase / (current.at - previous.at)


def _rows(previous: ServerLook | None, current: ServerLook, minute_ago: ServerLook | None) -> list[TopRow]:
    """Return the rows of connected workers and of members that are not connected (yet)."""
    plan, series = current.plan or PlanAnswer(), current.series or Series({})
    members = {member.name: member for member in plan.members}
    named = {name_of(worker.worker) for worker in current.health.workers}
    both: list[tuple[str, WorkerHealth | None]] = [(name_of(seen.worker), seen) for seen in current.health.workers]
    both += [(name, None) for name, member in members.items() if name not in named and member.state not in ABSENT]
    base = None if minute_ago is None else minute_ago.series
    tiers = [tier for tier in TIERS if series.total("jedlik_tier_stored_total", tier=tier) is not None or
             series.total("jedlik_tier_hits_total", tier=tier) is not None]  # fmt: skip
    rows = []
    for name, seen in sorted(both, key=lambda one: (natural(one[0]), one[1].worker if one[1] else "")):
        row = _row(name, seen, members.get(name), plan.start_s)
        if seen is not None:
            hits = _share(
                series, base, ("jedlik_worker_cached_tokens_total", "jedlik_worker_prompt_tokens_total"), name
            )
            row = row._replace(
                queued_tokens=series.total("jedlik_waiting_tokens", worker=name),
                tiers={tier: _tier(series, base, name, tier) for tier in tiers},
                tokens_s=_rate(previous, current, "jedlik_worker_output_tokens_total", worker=name),
                hits=hits,
            )
        rows.append(row)
    return rows


def _row(name: str, seen: WorkerHealth | None, member: FleetMember | None, start_s: float | None) -> TopRow:
    connected = None if seen is None else "draining" if seen.draining else "serving"
    state = (member.state if member is not None else None) or connected or "unknown"
    blocks = None if seen is None or seen.kv_blocks is None else seen.kv_blocks - 1  # block 0 is the engine's own
    return TopRow(
        worker=name,
        role=(seen.role if seen is not None else None) or (member.role if member is not None else None),
        state=state,
        since_s=None if member is None else member.since_s,
        expected_s=start_s if state == "starting" else None,
        start=None if member is None else member.start,
        health=None if seen is None else seen.health,
        running=None if seen is None else seen.running,
        waiting=None if seen is None else seen.waiting,
        queued_tokens=None,
        used=_of(None if seen is None else seen.held_blocks, blocks),
        cached=_of(None if seen is None else seen.cached_blocks, blocks),
        tiers={},
        tokens_s=None,
        hits=None,
    )


def _of(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _share(series: Series, base: Series | None, names: tuple[str, str], worker: str) -> float | None:
    part, whole = (series.increase(base, name, worker=worker) for name in names)
    return _of(part, whole)


def _tier(series: Series, base: Series | None, worker: str, tier: str) -> float | None:
    came = series.increase(base, "jedlik_tier_hits_total", worker=worker, tier=tier) or 0.0
    missed = series.increase(base, "jedlik_tier_misses_total", worker=worker, tier=tier) or 0.0
    return _of(came, came + missed)


def _planning(plan: PlanAnswer) -> PlannerView:
    serving, starting = plan.counted("serving"), plan.counted("starting", ALARMING)
    draining = plan.counted("draining")
    wanted = plan.wanted
    roles = [
        RoleCounts(
            role=role,
            serving=serving.get(role, 0),
            starting=starting.get(role, 0),
            draining=draining.get(role, 0),
            wanted=None if wanted is None else wanted.get(role, 0),
            advised=None if plan.followed or plan.advice is None else plan.advice.get(role, 0),
        )
        for role in plan.roles()
    ]
    return PlannerView(
        mode=plan.mode,
        planner=plan.planner,
        budget=plan.budget,
        by_hand=plan.by_hand not in (None, False),
        stale=bool(plan.stale),
        trouble=plan.trouble or "",
        why=plan.why or "",
        roles=roles,
        decisions=[AgedDecision(decision, ago_s(plan, decision)) for decision in plan.decisions],
    )


def _troubles(current: ServerLook) -> list[str]:
    """Return the members and workers that are not well, crashed members first."""
    troubles = []
    for member in () if current.plan is None else current.plan.members:
        why, times = member.why or UNEXPLAINED, "" if member.start is None else f" after start {member.start}"
        if member.state == ALARMING:
            troubles.append(f"{member.name} ended{times} and waits to be started again: {why}")
        elif member.state in ABSENT and (member.hopeless or (member.quick_ends or 0) >= LOOP_AFTER):
            troubles.append(f"{member.name} is given up{times}: {why}")
    for seen in current.health.workers:
        if seen.health not in (None, "ok"):
            troubles.append(f"{name_of(seen.worker)} is {seen.health}: {seen.reason or UNEXPLAINED}")
    return troubles


def name_of(worker: str) -> str:
    """Return a worker's name without its incarnation."""
    return worker.partition("@")[0]


def natural(name: str) -> tuple[tuple[str, int], ...]:
    """Return a key that sorts worker-2 before worker-10."""
    return tuple((text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name))
