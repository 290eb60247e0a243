"""What `jedlik plan` found, for people and for programs: a sentence, the front, why others lost, a plot, JSON."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from jedlik.cli.plan_candidates import PRICES_FROM
from jedlik.sim.report import pareto
from jedlik.sim.report.columns import Slo
from jedlik.sim.report.words import NOTHING, number, seconds, share
from jedlik.sim.sizing import Fleet, Part, Shape, Trial
from jedlik.sim.sizing_load import Load
from jedlik.sim.sizing_points import Point
from jedlik.sim.sizing_search import Choice
from jedlik.sim.workload.options import WorkloadOptions

LOSERS_SHOWN = 12


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All that there is to tell."""

    points: list[Point]
    front: list[Point]
    best: Point
    budget: float
    attainment: float
    slo: Slo
    load: Load
    attainable_share: float
    """Of all requests: some candidate could serve them in time."""
    pieces: Mapping[Part, int]
    """Requests of each part that is not all of the trace."""
    choices: tuple[Choice, ...]
    needs: list[Fleet]
    """That would do by the estimate, within the budget or beyond it; cheapest first."""
    left_out: list[Trial]
    """For want of time."""
    took_s: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
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


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """`--json`."""

    best: Row
    holds: bool
    fleets: list[Row]
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
    took_s: float


# --- words ---


def sentence(found: Found) -> str:
    """The recommendation with its numbers."""
    best, figures = found.best, found.best.figures
    verb = "Serve it with" if best.holds else "Nothing within the budget holds; the closest is"
    usd = best.million_tokens_usd
    return (
        f"{verb} {best.name}: attainment {share(best.attainment)} (wanted {share(found.attainment)}), "
        f"TTFT {seconds(figures.ttft_p50_s)} p50, {seconds(figures.ttft_p99_s)} p99, "
        f"ITL {seconds(figures.itl_p50_s)} p50, {seconds(figures.itl_p99_s)} p99; "
        f"{number(best.fleet.gpus)} of {number(found.budget)} GPUs, {best.fleet.hour_usd:.2f} USD per hour, "
        f"{NOTHING if usd is None else f'{usd:.2f}'} USD per million output tokens; "
        f"{number(best.tokens_per_s_gpu)} tokens/s per GPU, {number(best.tokens_per_s_user)} tokens/s per user."
    )


def workload(found: Found) -> str:
    """What was asked of the fleets."""
    load = found.load
    text = (
        f"{number(load.requests)} requests, {load.rate:.3g} per second, "
        f"{number(float(load.prompt_tokens.mean()))} tokens in, {number(float(load.output_tokens.mean()))} out, "
        f"{share(load.reuse)} of prompts seen before, "
        f"burstiness {load.burstiness():.2g} (Poisson: 1)"
    )
    if found.attainable_share < 1:
        text += (
            f"; {share(1 - found.attainable_share)} of them are too long for the TTFT on any candidate, even idle: "
            "left out of attainment"
        )
    return text + "."


def notes(found: Found) -> Iterator[str]:
    """What is less than it seems."""
    if found.best.part == "sample" and "sample" in found.pieces:
        yield f"The recommendation was simulated on a sample of {number(found.pieces['sample'])} requests only."
    if "trace" in found.pieces:
        yield f"The trace was judged by {number(found.pieces['trace'])} of its requests, in pieces from quiet to busy."
    if "sample" in found.pieces:
        yield f"~ simulated on a sample: {number(found.pieces['sample'])} requests, in pieces from quiet to busy."
    if found.left_out:
        names = ", ".join(trial.fleet.name for trial in found.left_out[:4])
        yield f"Time was up before {len(found.left_out)} simulations ({names}): --time-budget gives more."
    if not found.best.holds:
        yield from _needed(found)
    yield f"Prices per GPU and hour: {_prices(found)}."


def _needed(found: Found) -> Iterator[str]:
    """What would do instead."""
    failed: dict[Shape, int] = {}
    for point in found.points:
        failed[point.fleet.shape] = max(point.fleet.workers, failed.get(point.fleet.shape, 0))
    least = next((fleet for fleet in found.needs if fleet.workers > failed.get(fleet.shape, 0)), None)
    if least is None:
        yield (
            f"By the estimate no number of these GPUs would do, up to {number(4 * found.budget)}: relax --slo-itl or "
            "--slo-ttft, or name faster candidates."
        )
        return
    told = f"By the estimate {least.name} would do: {number(least.gpus)} GPUs, {least.hour_usd:.2f} USD per hour"
    if least.gpus > found.budget:
        yield f"{told}. Try --budget {least.gpus:.0f}, or relax the SLOs."
    else:
        yield f"{told}; there was no time to simulate it."


def _prices(found: Found) -> str:
    engines = {choice.shape.engine.profile.device: choice.shape.engine.gpu_hour_usd for choice in found.choices}
    told = ", ".join(f"{device} {usd:.2f}" for device, usd in sorted(engines.items()))
    return f"{told} USD; defaults are those of {PRICES_FROM}, --cost says others"


def losers(found: Found) -> list[tuple[str, str]]:
    """Per engine and layout that did not win: its best try, or what was estimated; why it lost."""
    won = _kind(found.best.fleet)
    rows: dict[tuple[str, bool], tuple[str, str]] = {}
    for point in sorted(
        found.points, key=lambda point: (point.part == "sample", not point.holds, *_tried(point, found))
    ):
        kind = _kind(point.fleet)
        if kind != won:
            rows.setdefault(kind, (point.name, _why(point, found)))
    for choice in found.choices:
        fleet = Fleet(choice.shape, choice.start)
        if _kind(fleet) != won and _kind(fleet) not in rows:
            rows[_kind(fleet)] = (fleet.name, _estimated(choice, fleet, found))
    return [rows[kind] for kind in sorted(rows)]


def _tried(point: Point, found: Found) -> tuple[float, ...]:
    """Among those that hold the cheapest, among the others the one that came closest."""
    return (point.fleet.hour_usd,) if point.holds else (-point.attainment, point.fleet.hour_usd)


def _why(point: Point, found: Found) -> str:
    mark = "~ " if point.part == "sample" and "sample" in found.pieces else ""
    cost = f"{point.fleet.hour_usd:.2f} USD per hour"
    if point.holds:
        return f"{mark}holds ({share(point.attainment)}), at {cost}"
    return f"{mark}attainment {share(point.attainment)} at {cost}"


def _estimated(choice: Choice, fleet: Fleet, found: Found) -> str:
    if choice.estimated:
        return f"not simulated: estimated to need {number(fleet.gpus)} GPUs, {fleet.hour_usd:.2f} USD per hour"
    return f"not simulated: by the estimate no number up to {number(fleet.gpus)} GPUs would do"


def _kind(fleet: Fleet) -> tuple[str, bool]:
    return fleet.shape.engine.label, fleet.shape.apart


def only_estimated(found: Found) -> list[Choice]:
    tried = {point.fleet.shape for point in found.points}
    return [choice for choice in found.choices if choice.shape not in tried]


# --- tables and files ---

HEADS = ("fleet", "chunk", "USD/h", "USD/M", "attained", "TTFT ms", "ITL ms", "tok/s/GPU", "/user")
"""Times: p50/p99."""


def cells(point: Point, found: Found) -> list[str]:
    figures, usd = point.figures, point.million_tokens_usd
    mark = "~ " if point.part == "sample" and "sample" in found.pieces else ""
    mark += "★ " if point == found.best else ""
    return [
        mark + point.name.split(",")[0],
        number(point.fleet.shape.chunk_tokens),
        f"{point.fleet.hour_usd:.2f}",
        NOTHING if usd is None else f"{usd:.2f}",
        share(point.attainment),
        f"{_ms(figures.ttft_p50_s)}/{_ms(figures.ttft_p99_s)}",
        f"{_ms(figures.itl_p50_s)}/{_ms(figures.itl_p99_s)}",
        number(point.tokens_per_s_gpu),
        number(point.tokens_per_s_user),
    ]


def table_points(found: Found) -> list[Point]:
    """The front, and what is recommended, which may be off it where GPUs have different prices; cheapest first."""
    shown = found.front if found.best in found.front else [*found.front, found.best]
    return sorted(shown, key=lambda point: point.fleet.order)


def _ms(value_s: float | None) -> str:
    return NOTHING if value_s is None else number(value_s * 1000)


def rendered(found: Found) -> RenderableType:
    """For the terminal."""
    parts: list[RenderableType] = [Text(workload(found)), Text(), Text(sentence(found), style="bold"), Text()]
    if not any(point.holds for point in found.points):
        parts.append(Text("Nothing holds; the front of what was simulated:"))
    listed = table_points(found)
    parts.append(_table(HEADS, [cells(point, found) for point in listed], listed.index(found.best)))
    parts += [Text(), Text("tokens/s per GPU, against tokens/s per user")]
    parts += [Text(line) for line in pareto.terminal(found.points, found.front, found.best)]
    parts.append(Text("★ recommended   ● front   ○ holds, but is beaten   × misses the SLOs"))
    lost = losers(found)
    if lost:
        shown = _table(("others", "why not"), lost[:LOSERS_SHOWN], -1, words=True)
        parts += [Text(), shown]
        if len(lost) > LOSERS_SHOWN:
            parts.append(Text(f"and {len(lost) - LOSERS_SHOWN} more (--json)"))
    parts.append(Text())
    return Group(*parts, *(Text(note) for note in notes(found)))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], strong: int, words: bool = False) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2 if words else 1, 0, 0))
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place and not words else "left", no_wrap=not words)
    for index, row in enumerate(rows):
        table.add_row(*(escape(cell) for cell in row), style="bold" if index == strong else None)
    return table


def page(found: Found, title: str) -> str:
    """`--html`."""
    best = found.best
    usd = best.million_tokens_usd
    tiles = [
        (best.name.split(",")[0], "recommended" if best.holds else "closest, but misses the SLOs"),
        (share(best.attainment), f"attainment; wanted {share(found.attainment)}"),
        (f"{best.fleet.hour_usd:.2f} USD", f"per hour, {number(best.fleet.gpus)} GPUs"),
        (NOTHING if usd is None else f"{usd:.2f} USD", "per million output tokens"),
        (seconds(best.figures.ttft_p50_s), f"TTFT p50; p99 {seconds(best.figures.ttft_p99_s)}"),
        (seconds(best.figures.itl_p50_s), f"ITL p50; p99 {seconds(best.figures.itl_p99_s)}"),
    ]
    tables = [
        (
            "The front, and what is recommended",
            pareto.rows_table(HEADS, [cells(point, found) for point in table_points(found)]),
        ),
        ("Why not another", pareto.rows_table((), losers(found), words=True)),
        ("All that was simulated", pareto.rows_table(HEADS, [cells(point, found) for point in found.points])),
        ("To know", pareto.rows_table((), [(note, "") for note in notes(found)], words=True)),
    ]
    return pareto.page(title, workload(found), pareto.plot(found.points, found.front, best), tiles, tables)


def row(point: Point, found: Found) -> Row:
    fleet, figures = point.fleet, point.figures
    return Row(
        fleet=fleet.name,
        profile=fleet.shape.engine.pool.profile,
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


def to_json(found: Found) -> bytes:
    """`--json`."""
    load = found.load
    told = Told(
        best=row(found.best, found),
        holds=found.best.holds,
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
        only_estimated=[Fleet(choice.shape, choice.start).name for choice in only_estimated(found)],
        left_out=[f"{trial.fleet.name} ({trial.part})" for trial in found.left_out],
        took_s=found.took_s,
    )
    return msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n"


def flags(options: WorkloadOptions, seed: int) -> str:
    """Of `jedlik simulate`, for the same workload."""
    told = []
    for info in msgspec.structs.fields(WorkloadOptions):
        value = getattr(options, info.name)
        if value != info.default:
            name = "--" + info.name.removesuffix("_s").replace("_", "-")
            told.append(name if value is True else f"{name} {value:g}")
    return " ".join([*told, *([f"--seed {seed}"] if seed else [])])
