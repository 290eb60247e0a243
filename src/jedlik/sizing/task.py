"""The task of `jedlik plan`: settings, candidates and workload brought together, and how much may be simulated.

Everything that can be wrong with them is found here, before the first simulation.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from jedlik.core.config import ServeConfig, SimulationConfig
from jedlik.core.errors import ConfigError
from jedlik.serve.plugins import load_planner
from jedlik.serve.settings import Settings
from jedlik.serve.values import ascending
from jedlik.sim.report.columns import Flags, Slo
from jedlik.sim.setup import build
from jedlik.sim.sizing import Part, Shape, SizedEngine, SizedFleet, settings
from jedlik.sim.sizing_estimate import Sizer
from jedlik.sim.sizing_load import OfferedLoad, Stretch, pieces, read
from jedlik.sim.sizing_points import Judge
from jedlik.sim.sizing_search import Choice, SearchPlan
from jedlik.sim.workload.load import load
from jedlik.sim.workload.options import WorkloadOptions
from jedlik.sizing import candidates, config_file
from jedlik.sizing.runs import SizingTask
from jedlik.sizing.simulate import maker

CHUNKS = (1024, 2048, 4096, 8192)
"""Tokens of a step that are tried."""
CHOICES = 24
"""Shapes that take part, at most, the cheapest by the estimate first; of one engine and layout so many:"""
CHUNKS_TRIED = 2
SHARES = (0.75, 1.0, 1.33)
"""The factors on the share of prefill workers that the estimate gives, where prefill is apart."""
REQUESTS_PER_CPU_S, CPUS = 1000, 2
"""What a second of the time budget is worth in simulated requests: sets how much is tried, on any machine."""
SAMPLE_SHARE, SAMPLE_LEAST, SAMPLE_MOST = 0.1, 600, 1500
TRIED_WHOLE = 60
"""No sample is taken where the whole trace can be simulated so often."""
TRACE_RUNS = 6
"""A trace that can't be simulated so often is cut into pieces."""
MAX_SEQUENCES = 256
BLOCK_SIZE, LONG_BLOCK_SIZE, LONG_PROMPT = 64, 256, 4000
"""Where nobody says: GPUs hold more than the defaults of `serve`, which are for any machine."""


class PlanOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the command line beside the settings."""

    trace: str
    options: WorkloadOptions
    model: str | None = None
    """All profiles of this model are candidates."""
    profiles: str | None = None
    costs: tuple[str, ...] = ()
    chunks: str | None = None
    out: str = "plan.yaml"
    force: bool = False
    json: str | None = None
    html: str | None = None
    seed: int = 0
    time_budget_s: float = 50.0


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """All that the search needs."""

    task: SizingTask
    plan: SearchPlan
    judge: Judge
    load: OfferedLoad
    sizer: Sizer
    shapes: tuple[Shape, ...]
    slo: Slo


def prepare(found: Settings, file: Path | None, wanted: PlanOptions) -> Prepared:
    """Return what will be searched. Raises ConfigError."""
    found_pools = candidates.pools(found.config, file, wanted.profiles, wanted.model)
    engines = candidates.engines(found_pools, candidates.prices(wanted.costs))
    maker(found.config.gateway.policy)
    budget = found.config.planner.budget
    assert budget is not None  # checked
    if not any(engine.gpus <= budget for engine in engines):
        least = min(engines, key=lambda engine: engine.gpus)
        raise ConfigError(
            f"--budget {budget:g}: not one worker fits, "
            f"the smallest candidate ({least.label}) takes {least.gpus:g} GPUs"
        )
    slo = Slo(found.config.gateway.slo_ttft_s, found.config.gateway.slo_itl_s)
    work = read(load(wanted.trace, wanted.options, wanted.seed))
    base = based(found, work)
    sizer = Sizer(work, slo, base[0].worker.max_sequences)
    shapes = shapes_of(engines, chunks(wanted, found), sizer, budget)
    attainable = sizer.attainable(list(shapes))
    _someone(attainable, slo, sizer, shapes)
    stretches = parts(work, wanted.time_budget_s)
    judge = Judge(work, attainable, stretches, base[0].planner.attainment)
    plan = planned(sizer, shapes, judge, base[0], stretches, wanted.time_budget_s)
    profiles = {engine.profile_name: engine.profile for engine in engines}
    sizes = sizes_of(work, stretches)
    task = SizingTask(
        source=wanted.trace,
        options=wanted.options,
        seed=wanted.seed,
        base=base,
        profiles=profiles,
        stretches=stretches,
        requests=sizes,
        closed=work.closed,
    )
    planner = load_planner(found.config.planner.policy).make
    for shape in shapes:  # what can't be built is found now, not in another process
        build(*settings(base, SizedFleet(shape, shape.least)), profiles, wanted.seed, planner=planner)
    return Prepared(task=task, plan=plan, judge=judge, load=work, sizer=sizer, shapes=shapes, slo=slo)


def based(found: Settings, work: OfferedLoad) -> tuple[ServeConfig, SimulationConfig]:
    """Return the settings that all candidates share."""
    config = found.config
    block_size = LONG_BLOCK_SIZE if float(work.prompt_tokens.mean()) >= LONG_PROMPT else BLOCK_SIZE
    defaults = {"max_sequences": MAX_SEQUENCES, "block_size": block_size}
    unsaid = {name: value for name, value in defaults.items() if found.sources[f"worker.{name}"] == "default"}
    config = msgspec.structs.replace(config, worker=msgspec.structs.replace(config.worker, **unsaid))
    if not config_file.said_model(found):
        config = msgspec.structs.replace(config, model="")
    return config, found.simulation


def chunks(wanted: PlanOptions, found: Settings) -> tuple[int, ...]:
    """Tokens of a step to try. Raises ConfigError."""
    if wanted.chunks:
        return ascending("chunks", wanted.chunks)
    chosen = found.sources["worker.max_step_tokens"] != "default"
    return tuple(sorted({*CHUNKS, *((found.config.worker.max_step_tokens,) if chosen else ())}))


def shapes_of(
    engines: tuple[SizedEngine, ...], sizes: tuple[int, ...], sizer: Sizer, budget: float
) -> tuple[Shape, ...]:
    """All that could be taken within the budget."""
    found: list[Shape] = []
    for engine in engines:
        found += [Shape(engine, chunk) for chunk in sizes]
        if engine.pool.kv_token_bytes or engine.profile.kv_bytes_per_token:  # or nobody knows what a hand-off moves
            share = sizer.prefill_share(engine, sizes[-1])
            found += [Shape(engine, sizes[-1], round(min(share * factor, 0.95), 3)) for factor in SHARES]
    return tuple(shape for shape in found if shape.most(budget))


def parts(work: OfferedLoad, time_budget_s: float) -> dict[Part, tuple[Stretch, ...]]:
    """Return the stretches that are simulated, for each part that is not all of the trace."""
    affordable = time_budget_s * CPUS * REQUESTS_PER_CPU_S
    cut: dict[Part, tuple[Stretch, ...]] = {}
    if work.requests * TRIED_WHOLE > affordable:
        sample = int(min(max(work.requests * SAMPLE_SHARE, SAMPLE_LEAST), SAMPLE_MOST))
        if work.requests >= 2 * sample:
            cut["sample"] = pieces(work, sample)
    if work.requests * TRACE_RUNS > affordable:
        cut["trace"] = pieces(work, int(affordable / TRACE_RUNS))
    return cut


def sizes_of(work: OfferedLoad, stretches: Mapping[Part, Sequence[Stretch]]) -> dict[Part, int]:
    """Requests of each part."""
    names: tuple[Part, ...] = ("sample", "trace")
    return {p: sum(stop - start for start, stop in stretches[p]) if p in stretches else work.requests for p in names}


def planned(
    sizer: Sizer,
    shapes: tuple[Shape, ...],
    judge: Judge,
    config: ServeConfig,
    stretches: dict[Part, tuple[Stretch, ...]],
    time_budget_s: float,
) -> SearchPlan:
    """The search: who takes part, from which count, and how much may be simulated."""
    budget, attainment = config.planner.budget or 0.0, config.planner.attainment
    aim = attainment * judge.attainable_share["trace"]
    choices = []
    for shape in shapes:
        most = shape.most(budget)
        start = sizer.needed(shape, aim, most)
        choices.append(Choice(shape, start or most, start is not None))
    seen: dict[str, Choice] = {}
    for choice in choices:
        seen.setdefault(
            SizedFleet(choice.shape, choice.start).name, choice
        )  # a share more or less is often the same split
    choices = list(seen.values())
    choices.sort(key=lambda choice: (not choice.estimated, SizedFleet(choice.shape, choice.start).order))
    affordable = time_budget_s * CPUS * REQUESTS_PER_CPU_S
    sampled = "sample" in stretches
    sizes = sizes_of(sizer.load, stretches)
    whole = sizes["trace"]
    return SearchPlan(
        choices=tuple(_few(choices)),
        budget=budget,
        attainment=attainment,
        judge=judge.attainment,
        sampled=sampled,
        sample_trials=int(0.4 * affordable / sizes["sample"]) if sampled else TRIED_WHOLE,
        trace_trials=max(int((0.6 if sampled else 1.0) * affordable / whole), 4) if whole > 600 else 120,
    )


def needs(prepared: Prepared) -> list[SizedFleet]:
    """Return the fleets that would do by the estimate with up to four times the budget, cheapest first. They are shown
    when nothing does."""
    found = []
    aim = prepared.plan.attainment * prepared.judge.attainable_share["trace"]
    for shape in prepared.shapes:
        count = prepared.sizer.needed(shape, aim, shape.most(4 * prepared.plan.budget))
        if count is not None:
            found.append(SizedFleet(shape, count))
    return sorted(found, key=lambda fleet: fleet.order)


def _few(choices: list[Choice]) -> list[Choice]:
    """The first of each engine and layout, so many; then the rest up to the limit are left to the estimate."""
    taken: dict[tuple[str, bool], int] = {}
    best = []
    for choice in choices:
        kind = (choice.shape.engine.label, choice.shape.apart)
        taken[kind] = taken.get(kind, 0) + 1
        if taken[kind] <= CHUNKS_TRIED:
            best.append(choice)
    return best[:CHOICES]


def _someone(attainable: Flags, slo: Slo, sizer: Sizer, shapes: tuple[Shape, ...]) -> None:
    if not attainable.any():
        fastest = min(float(sizer.alone_s(shape.engine, shape.chunk_tokens).min()) for shape in shapes)
        raise ConfigError(
            f"no request can have its first token within {slo.ttft_s:g} s: on an idle worker of the fastest candidate "
            f"the shortest prefill takes {fastest:.3g} s; relax --slo-ttft, or name faster candidates"
        )
