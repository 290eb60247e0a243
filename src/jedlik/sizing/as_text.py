"""Results of `jedlik plan` for people: a sentence, the front, why others lost, a plot; on a terminal or a page."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from jedlik.sim.report import pareto
from jedlik.sim.report.words import NOTHING, number, seconds, share
from jedlik.sim.sizing import SizedFleet
from jedlik.sim.sizing_points import FleetPoint
from jedlik.sim.sizing_search import Choice
from jedlik.sizing.candidates import PRICES_FROM
from jedlik.sizing.found import Found

LOSERS_SHOWN = 12


def sentence(found: Found) -> str:
    """Return the result in one sentence, with its numbers."""
    best = found.best
    if found.status == "found" and best is not None:
        return f"Serve it with {_numbers(best, found)}"
    if found.status == "nothing":
        text = "Nothing within the budget holds."
    else:
        text = f"Time was up after {seconds(found.took_s)}: of {number(len(found.points))} fleets simulated none holds"
        text += ", and others were left." if found.points else ", for not one simulation ended."
        text += f" {_estimate(found)}"
    return text if best is None else f"{text} The closest that was simulated is {_numbers(best, found)}"


def _estimate(found: Found) -> str:
    fleet = found.estimated
    if fleet is None:
        return "By the estimate no fleet within the budget holds either."
    gpus = f"{number(fleet.gpus)} of {number(found.budget)} GPUs"
    return f"Estimated to hold, but not simulated, is {fleet.name}: {gpus}, {fleet.hour_usd:.2f} USD per hour."


def _numbers(best: FleetPoint, found: Found) -> str:
    figures, usd = best.figures, best.million_tokens_usd
    return (
        f"{best.name}: attainment {share(best.attainment)} (wanted {share(found.attainment)}), "
        f"TTFT {seconds(figures.ttft_p50_s)} p50, {seconds(figures.ttft_p99_s)} p99, "
        f"ITL {seconds(figures.itl_p50_s)} p50, {seconds(figures.itl_p99_s)} p99; "
        f"{number(best.fleet.gpus)} of {number(found.budget)} GPUs, {best.fleet.hour_usd:.2f} USD per hour, "
        f"{NOTHING if usd is None else f'{usd:.2f}'} USD per million output tokens; "
        f"{number(best.tokens_per_s_gpu)} tokens/s per GPU, {number(best.tokens_per_s_user)} tokens/s per user."
    )


def workload(found: Found) -> str:
    """Return the workload in words."""
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
    """The reasons why a result is less than it seems."""
    best = found.best
    if best is not None and best.part == "sample" and "sample" in found.pieces:
        yield f"The recommendation was simulated on a sample of {number(found.pieces['sample'])} requests only."
    if "trace" in found.pieces:
        yield f"The trace was judged by {number(found.pieces['trace'])} of its requests, in pieces from quiet to busy."
    if "sample" in found.pieces:
        yield f"~ simulated on a sample: {number(found.pieces['sample'])} requests, in pieces from quiet to busy."
    if found.left_out:
        names = ", ".join(trial.fleet.name for trial in found.left_out[:4])
        yield f"Time was up before {len(found.left_out)} simulations ({names}): --time-budget gives more."
    for name, why in found.broken.items():
        yield f"The simulation of {name} ended in an error of ours and counts as not holding: {why}. Please report it."
    if best is None or not best.holds:
        yield from _needed(found)
    yield from _failures(found)
    yield f"Prices per GPU and hour: {_prices(found)}."


def _needed(found: Found) -> Iterator[str]:
    """What would do instead."""
    least = found.needed
    if least is None:
        yield (
            f"By the estimate no number of these GPUs would do, up to {number(4 * found.budget)}: relax --slo-itl or "
            "--slo-ttft, or name faster candidates."
        )
        return
    text = f"By the estimate {least.name} would do: {number(least.gpus)} GPUs, {least.hour_usd:.2f} USD per hour"
    if least.gpus > found.budget:
        yield f"{text}. Try --budget {least.gpus:.0f}, or relax the SLOs."
    else:
        yield f"{text}; there was no time to simulate it: give --time-budget more, or --limit the trace."


def _failures(found: Found) -> Iterator[str]:
    """The sentence that says how often a policy of the user's own failed, so that the default chose."""
    failed = [point.figures for point in found.points if point.figures.failures]
    if failed:
        most = max(failed, key=lambda figures: figures.failures / figures.choices)
        text = f"in up to {share(most.failures / most.choices)} of the choices"
        yield f"The policy failed in {number(len(failed))} simulations, {text}, and the default chose: {most.cause}."


def _prices(found: Found) -> str:
    engines = {choice.shape.engine.profile.device: choice.shape.engine.gpu_hour_usd for choice in found.choices}
    text = ", ".join(f"{device} {usd:.2f}" for device, usd in sorted(engines.items()))
    return f"{text} USD; defaults are those of {PRICES_FROM}, --cost says others"


def losers(found: Found) -> list[tuple[str, str]]:
    """Return a row for each engine and layout that did not win: its best try, or its estimate, and why it lost."""
    won = _kind(found.best.fleet) if found.best else None
    rows: dict[tuple[str, bool], tuple[str, str]] = {}
    for point in sorted(
        found.points, key=lambda point: (point.part == "sample", not point.holds, *_tried(point, found))
    ):
        kind = _kind(point.fleet)
        if kind != won:
            rows.setdefault(kind, (point.name, _why(point, found)))
    for choice in found.choices:
        fleet = SizedFleet(choice.shape, choice.start)
        if _kind(fleet) != won and _kind(fleet) not in rows:
            rows[_kind(fleet)] = (fleet.name, _estimated(choice, fleet, found))
    return [rows[kind] for kind in sorted(rows)]


def _tried(point: FleetPoint, found: Found) -> tuple[float, ...]:
    """Among those that hold the cheapest, among the others the one that came closest."""
    return (point.fleet.hour_usd,) if point.holds else (-point.attainment, point.fleet.hour_usd)


def _why(point: FleetPoint, found: Found) -> str:
    mark = "~ " if point.part == "sample" and "sample" in found.pieces else ""
    cost = f"{point.fleet.hour_usd:.2f} USD per hour"
    if point.holds:
        return f"{mark}holds ({share(point.attainment)}), at {cost}"
    return f"{mark}attainment {share(point.attainment)} at {cost}"


def _estimated(choice: Choice, fleet: SizedFleet, found: Found) -> str:
    if choice.estimated:
        return f"not simulated: estimated to need {number(fleet.gpus)} GPUs, {fleet.hour_usd:.2f} USD per hour"
    return f"not simulated: by the estimate no number up to {number(fleet.gpus)} GPUs would do"


def _kind(fleet: SizedFleet) -> tuple[str, bool]:
    return fleet.shape.engine.label, fleet.shape.apart


# --- tables and files ---

HEADS = ("fleet", "chunk", "USD/h", "USD/M", "within", "TTFT ms", "ITL ms", "/GPU", "/user")
HEADS_MEAN = "USD per hour and per million output tokens; share within the SLOs; p50/p99; tokens/s per GPU and per user"


def cells(point: FleetPoint, found: Found) -> list[str]:
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


def table_points(found: Found) -> list[FleetPoint]:
    """The front, and what is recommended, which may be off it where GPUs have different prices; cheapest first."""
    shown = found.front if found.best is None or found.best in found.front else [*found.front, found.best]
    return sorted(shown, key=lambda point: point.fleet.order)


def _ms(value_s: float | None) -> str:
    return NOTHING if value_s is None else number(value_s * 1000)


def rendered(found: Found) -> RenderableType:
    """Print the results on a terminal."""
    parts: list[RenderableType] = [Text(workload(found)), Text(), Text(sentence(found), style="bold"), Text()]
    if found.best is not None:
        parts += _simulated(found, found.best)
    lost = losers(found)
    if lost:
        shown = _table(("others", "why not"), lost[:LOSERS_SHOWN], -1, words=True)
        parts += [Text(), shown]
        if len(lost) > LOSERS_SHOWN:
            parts.append(Text(f"and {len(lost) - LOSERS_SHOWN} more (--json)"))
    parts.append(Text())
    return Group(*parts, *(Text(note) for note in notes(found)))


def _simulated(found: Found, best: FleetPoint) -> Iterator[RenderableType]:
    """The front, as a table and a plot."""
    if not any(point.holds for point in found.points):
        yield Text("Nothing holds; the front of what was simulated:")
    listed = table_points(found)
    yield _table(HEADS, [cells(point, found) for point in listed], listed.index(best))
    yield Text(HEADS_MEAN, style="dim")
    yield Text()
    yield Text("tokens/s per GPU, against tokens/s per user")
    yield from (Text(line) for line in pareto.terminal(found.points, found.front, best))
    marked = "recommended" if best.holds else "closest"
    yield Text(f"★ {marked}   ● front   ○ holds, but is beaten   × misses the SLOs")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], strong: int, words: bool = False) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2 if words else 1, 0, 0))
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place and not words else "left", no_wrap=bool(place) and not words)
    for index, row in enumerate(rows):
        table.add_row(*(escape(cell) for cell in row), style="bold" if index == strong else None)
    return table


def page(found: Found, title: str) -> str:
    """Return the results as a page for `--html`."""
    best = found.best
    tables = [
        ("What came of it", pareto.rows_table((), [(sentence(found), "")], words=True)),
        (
            "The front, and what is recommended",
            pareto.rows_table(HEADS, [cells(point, found) for point in table_points(found)]),
        ),
        ("Why not another", pareto.rows_table((), losers(found), words=True)),
        ("All that was simulated", pareto.rows_table(HEADS, [cells(point, found) for point in found.points])),
        ("To know", pareto.rows_table((), [(note, "") for note in notes(found)], words=True)),
    ]
    plot = pareto.plot(found.points, found.front, best) if found.points else ""
    return pareto.page(title, workload(found), plot, tiles(best, found) if best else [], tables)


def tiles(best: FleetPoint, found: Found) -> list[tuple[str, str]]:
    """The page's first line."""
    usd = best.million_tokens_usd
    return [
        (best.name.split(",")[0], "recommended" if best.holds else "closest, but misses the SLOs"),
        (share(best.attainment), f"attainment; wanted {share(found.attainment)}"),
        (f"{best.fleet.hour_usd:.2f} USD", f"per hour, {number(best.fleet.gpus)} GPUs"),
        (NOTHING if usd is None else f"{usd:.2f} USD", "per million output tokens"),
        (seconds(best.figures.ttft_p50_s), f"TTFT p50; p99 {seconds(best.figures.ttft_p99_s)}"),
        (seconds(best.figures.itl_p50_s), f"ITL p50; p99 {seconds(best.figures.itl_p99_s)}"),
    ]
