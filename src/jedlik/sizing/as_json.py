"""Results of `jedlik plan` as JSON. Keys are documented in docs/sizing.md."""

import msgspec

from jedlik.sim.sizing import Part, SizedFleet
from jedlik.sim.sizing_points import FleetPoint
from jedlik.sim.sizing_search import Choice
from jedlik.sizing.found import Found, Status


class ReportRow(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet, as JSON."""

    fleet: str
    profile: str
    workers: int
    prefill: int
    """Workers that only prefill; the others then only decode. 0: all do both."""
    chunk_tokens: int
    gpus: float
    hour_usd: float
    million_output_tokens_usd: float | None
    attainment: float
    goodput: float
    slo_attainment: float | None
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    itl_p50_s: float | None
    itl_p99_s: float | None
    hit_rate: float | None
    tokens_per_s_gpu: float
    tokens_per_s_user: float
    holds: bool
    on_front: bool
    simulated: Part


class Estimated(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet that was not simulated."""

    fleet: str
    gpus: float
    hour_usd: float


class PlanReport(msgspec.Struct, frozen=True, kw_only=True):
    """The results of a search, as `--json` has them."""

    status: Status
    best: ReportRow | None
    """null: not one simulation ended in time."""
    holds: bool
    estimated: Estimated | None
    """The cheapest fleet that is estimated to hold, within the budget, where nothing was simulated to hold."""
    fleets: list[ReportRow]
    budget: float
    attainment: float
    slo_ttft_s: float | None
    slo_itl_s: float | None
    requests: int
    requests_per_s: float
    prompt_tokens_mean: float
    output_tokens_mean: float
    reuse: float
    burstiness: float
    attainable_share: float
    only_estimated: list[str]
    left_out: list[str]
    broken: dict[str, str]
    took_s: float


def to_json(found: Found) -> bytes:
    """Return the results of a search for `--json`."""
    load = found.load
    report = PlanReport(
        status=found.status,
        best=row(found.best, found) if found.best else None,
        holds=found.status == "found",
        estimated=_estimated(found),
        fleets=[row(point, found) for point in found.points],
        budget=found.budget,
        attainment=found.attainment,
        slo_ttft_s=found.slo.ttft_s,
        slo_itl_s=found.slo.itl_s,
        requests=load.requests,
        requests_per_s=load.rate,
        prompt_tokens_mean=float(load.prompt_tokens.mean()),
        output_tokens_mean=float(load.output_tokens.mean()),
        reuse=load.reuse,
        burstiness=load.burstiness(),
        attainable_share=found.attainable_share,
        only_estimated=[SizedFleet(choice.shape, choice.start).name for choice in only_estimated(found)],
        left_out=[f"{trial.fleet.name} ({trial.part})" for trial in found.left_out],
        broken=found.broken,
        took_s=found.took_s,
    )
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def _estimated(found: Found) -> Estimated | None:
    fleet = found.estimated
    if found.status == "found" or fleet is None:
        return None
    return Estimated(fleet=fleet.name, gpus=fleet.gpus, hour_usd=fleet.hour_usd)


def row(point: FleetPoint, found: Found) -> ReportRow:
    fleet, figures = point.fleet, point.figures
    return ReportRow(
        fleet=fleet.name,
        profile=fleet.shape.engine.profile_name,
        workers=fleet.workers,
        prefill=fleet.prefill,
        chunk_tokens=fleet.shape.chunk_tokens,
        gpus=fleet.gpus,
        hour_usd=fleet.hour_usd,
        million_output_tokens_usd=point.million_tokens_usd,
        attainment=point.attainment,
        goodput=point.goodput,
        slo_attainment=figures.slo_attainment if point.part == "trace" and "trace" not in found.pieces else None,
        ttft_p50_s=figures.ttft_p50_s,
        ttft_p99_s=figures.ttft_p99_s,
        itl_p50_s=figures.itl_p50_s,
        itl_p99_s=figures.itl_p99_s,
        hit_rate=figures.hit_rate,
        tokens_per_s_gpu=point.tokens_per_s_gpu,
        tokens_per_s_user=point.tokens_per_s_user,
        holds=point.holds,
        on_front=point in found.front,
        simulated=point.part,
    )


def only_estimated(found: Found) -> list[Choice]:
    tried = {point.fleet.shape for point in found.points}
    return [choice for choice in found.choices if choice.shape not in tried]
