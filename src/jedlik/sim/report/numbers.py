"""The figures of a run, for `--json` and for the table. Keys are documented in docs/simulator.md.

Latencies, hit rate and rates of answers are over requests that ended well; goodput is over all that were offered, so
requests that were shed, failed or unfinished count as missed. Percentiles interpolate linearly. Where there is nothing
to measure the figure is null, not zero.
"""

from collections.abc import Mapping

import msgspec
import numpy as np

from jedlik.core.config import Role
from jedlik.core.facts import Planned
from jedlik.core.sums import float_sum
from jedlik.sim.choices import Asked
from jedlik.sim.outcome import Action, SimulationRun
from jedlik.sim.report.attainment import attainment_of, ratio
from jedlik.sim.report.columns import Flags, Floats, Indices, RequestColumns, Slo, columns
from jedlik.sim.report.transfers import HandOffs, RoleRow, TierRow, hand_offs, roles, tiers


class Failures(msgspec.Struct, frozen=True):
    """The choices of a policy, and those in which it failed, so that the default chose."""

    choices: int
    failures: int
    causes: dict[str, int]
    """The errors that the policy raised, and how often."""


class Spread(msgspec.Struct, frozen=True):
    """The mean and the percentiles of a quantity over requests, seconds."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None


class Happened(msgspec.Struct, frozen=True):
    """An `Action` with its keys."""

    at_s: float
    kind: str
    worker: str
    detail: str


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """A planner's decision and its reasons, with their keys."""

    at_s: float
    wanted: Mapping[Role, int]
    serving: Mapping[Role, int]
    starting: Mapping[Role, int]
    draining: Mapping[Role, int]
    done: list[str]
    why: str
    reasons: dict[str, float | None]
    """The planner's reasons, by name and unit."""


class WorkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one worker."""

    worker: str
    gpus: float
    answered: int
    """The requests that ended well and got their first token here."""
    hit_rate: float | None
    output_tokens: int
    ttft_p90_s: float | None
    running_mean: float | None
    """The mean number of sequences in the worker's batch, over the samples."""
    waiting_mean: float | None
    busy_share: float | None
    """The share of the samples in which something was running."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of one run; times and rates are simulated ones unless they say CPU or wall."""

    policy: str
    """The policy as it was asked for."""
    policy_failures: Failures | None
    """The policy's failures; null: it never failed."""
    shadow_failures: Failures | None
    seed: int
    speed: float
    requests: int
    """The number of requests that were offered."""
    answered: int
    """The number of requests that ended well."""
    failed: int
    shed: int
    """The number of requests that were refused as overloaded (429)."""
    unfinished: int
    """The number of requests that had not ended when the run was cut."""
    slo_ttft_s: float | None
    slo_itl_s: float | None
    goodput: float | None
    """The share of the offered requests that ended well within the SLOs; null without SLOs."""
    slo_attainment: float | None
    """The share of the attainable requests that ended well within the SLOs; null without SLOs."""
    attainable_share: float | None
    """The share of the offered requests whose prefill alone, on an idle worker with all cached that ever was, would be
    within `slo_ttft_s`."""
    worst_minute_attainment: float | None
    """The lowest attainment of whole minutes, by arrival, with 10 attainable requests or more; null: there was none."""
    goodput_per_gpu_s: float | None
    """The number of requests that ended well within the SLOs, per second of a GPU."""
    ttft_s: Spread
    itl_s: Spread
    hit_rate: float | None
    """The share of prompt tokens that were cached."""
    migrated: int
    """The number of requests that needed more than one attempt."""
    duration_s: float
    requests_per_s: float | None
    """The number of answered requests per second."""
    output_tokens_per_s: float | None
    gpus: float
    gpu_hours: float
    """The GPU hours, start-up and draining included."""
    cost: float | None
    """The cost: `gpu_hours` times the price of one; null: not known."""
    planner: str | None
    """The planner's name; null: there was none."""
    planner_actions: int
    planner_action_list: list[Happened]
    decisions: list[Decided]
    actions: int
    action_list: list[Happened]
    simulated_requests_per_cpu_s: float | None
    times_real_time: float | None
    """The simulated seconds per second of wall time."""
    cpu_s: float
    wall_s: float
    events: int
    workers: list[WorkerRow]
    handoffs: HandOffs | None
    """The figures of hand-offs; null: there were none."""
    tiers: list[TierRow]
    roles: list[RoleRow]


def summarise(run: SimulationRun, slo: Slo, policy: str, seed: int, gpu_hour_cost: float | None = None) -> Summary:
    """Return the figures of a run."""
    data = columns(run.outcomes)
    ok = data.ok
    attained = attainment_of(run, data, slo)
    orders = run.planning.actions if run.planning else []
    answered, shed, ended = int(ok.sum()), int(data.shed.sum()), len(run.outcomes)
    return Summary(
        policy=policy,
        policy_failures=failures(run.choices.serving),
        shadow_failures=failures(run.choices.shadow),
        seed=seed,
        speed=run.speed,
        requests=run.offered,
        answered=answered,
        failed=ended - answered - shed,
        shed=shed,
        unfinished=run.offered - ended,
        slo_ttft_s=slo.ttft_s,
        slo_itl_s=slo.itl_s,
        goodput=attained.goodput,
        slo_attainment=attained.attainment,
        attainable_share=attained.attainable_share,
        worst_minute_attainment=attained.worst_minute,
        goodput_per_gpu_s=attained.per_gpu_s,
        ttft_s=spread(data.ttft_s[ok]),
        itl_s=spread(data.itl_s[ok]),
        hit_rate=hit_rate(data, ok),
        migrated=int((data.attempts > 1).sum()),
        duration_s=run.duration_s,
        requests_per_s=ratio(answered, run.duration_s),
        output_tokens_per_s=ratio(float(data.output_tokens.sum()), run.duration_s),
        gpus=run.planning.budget if run.planning else float_sum(run.gpus),
        gpu_hours=run.gpu_s / 3600,
        cost=None if gpu_hour_cost is None else run.gpu_s / 3600 * gpu_hour_cost,
        planner=run.planning.planner if run.planning else None,
        planner_actions=len(orders),
        planner_action_list=[happened(action) for action in orders],
        decisions=[_decided(fact) for fact in run.planning.decisions] if run.planning else [],
        actions=len(run.actions),
        action_list=[happened(action) for action in run.actions],
        simulated_requests_per_cpu_s=ratio(ended, run.cpu_s),
        times_real_time=ratio(run.duration_s, run.wall_s),
        cpu_s=run.cpu_s,
        wall_s=run.wall_s,
        events=run.events,
        workers=_rows(run, data),
        handoffs=hand_offs(run),
        tiers=tiers(run),
        roles=roles(run),
    )


def to_json(summary: Summary) -> bytes:
    """Return the figures as `--json` writes them: indented, with a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"


def spread(values: Floats) -> Spread:
    """Return the spread of values; NaNs do not count."""
    values = values[~np.isnan(values)]
    if not len(values):
        return Spread(None, None, None, None)
    p50, p90, p99 = (float(p) for p in np.percentile(values, (50, 90, 99)))
    return Spread(float(values.mean()), p50, p90, p99)


def hit_rate(data: RequestColumns, of: Flags | Indices) -> float | None:
    return ratio(float(data.cached_tokens[of].sum()), float(data.prompt_tokens[of].sum()))


def failures(asked: Asked) -> Failures | None:
    if not asked.failures:
        return None
    return Failures(asked.choices, asked.failures, dict(asked.causes))


def happened(action: Action) -> Happened:
    return Happened(action.at_s, action.kind, action.worker, action.detail)


def _decided(fact: Planned) -> Decided:
    return Decided(
        at_s=fact.at,
        wanted=fact.wanted,
        serving=fact.serving,
        starting=fact.starting,
        draining=fact.draining,
        done=[*fact.done],
        why=fact.why,
        reasons={f"{one.name}, {one.unit}" if one.unit else one.name: one.value for one in fact.reasons},
    )


def _rows(run: SimulationRun, data: RequestColumns) -> list[WorkerRow]:
    """Return the rows of all workers, in one pass over the requests."""
    running, waiting, busy = (np.zeros(len(run.workers)) for _ in range(3))
    for sample in run.samples:
        batch = np.array(sample.running)
        running += batch
        waiting += sample.waiting
        busy += batch > 0
    taken = len(run.samples)
    indices = np.flatnonzero(data.ok)
    indices = indices[np.argsort(data.worker[indices], kind="stable")]
    bounds = np.searchsorted(data.worker[indices], np.arange(len(run.workers) + 1))
    rows = []
    for index, name in enumerate(run.workers):
        here = indices[bounds[index] : bounds[index + 1]]
        rows.append(
            WorkerRow(
                worker=name,
                gpus=run.gpus[index],
                answered=len(here),
                hit_rate=hit_rate(data, here),
                output_tokens=int(data.output_tokens[here].sum()),
                ttft_p90_s=spread(data.ttft_s[here]).p90,
                running_mean=ratio(float(running[index]), taken),
                waiting_mean=ratio(float(waiting[index]), taken),
                busy_share=ratio(float(busy[index]), taken),
            )
        )
    return rows
