"""What the runs of bench/planning.py say: cells, targets, tables. Pure: from rows, nothing is run here.

A cell is a workload at a start-up time; its figures are means over seeds, ratios are of sums over the seeds that both
planners ran. Where a figure is missing the verdict is not known; what is missed already stays missed.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Literal

import msgspec
from rich.table import Table

SINUSOID = "sinusoid"
GOAL = 0.95
"""Attainment, as both configurations ask for."""
STATIC_TIMES, ORACLE_TIMES, ACTIONS_TIMES, CLIFF = 1.35, 1.15, 1 / 3, 0.02
"""The targets. A cliff: attainment falls by more than that from a start-up time to the next."""
Key = tuple[str, str, float, int, int | None]
State = Literal["met", "missed", "met so far", "not known"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Keys are those of the simulator's JSON, where it has them."""

    workload: str
    planner: str
    startup_s: float
    seed: int
    workers: int | None = None
    """static: so many."""
    goal: float | None = None
    """oracle: the attainment it was to reach."""
    slo_attainment: float
    attainable_share: float
    worst_minute_attainment: float | None
    gpu_hours: float
    goodput_per_gpu_s: float
    planner_actions: int
    requests: int
    shed: int
    failed: int
    cpu_s: float
    code: str = ""
    """Digest of the planners' source."""

    @property
    def key(self) -> Key:
        return (self.workload, self.planner, self.startup_s, self.seed, self.workers)


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """jedlik beside Dynamo and the oracle, in one workload at one start-up time."""

    workload: str
    startup_s: float
    seeds: int
    attainment: float
    least_attainment: float
    """Of a seed."""
    dynamo_attainment: float | None
    over_oracle: float | None
    """GPU-hours, times the oracle's."""
    oracle_short: bool
    """It did not reach its goal on some seed: not even the largest fleet does, or too few simulations."""
    over_dynamo: float | None
    """Actions, times Dynamo's."""
    gpu_over_dynamo: float | None
    """GPU-hours, times Dynamo's."""
    dominated: bool | None
    """Dynamo attains more with fewer GPU-hours, in the mean."""
    dominated_seeds: int


class Verdict(msgspec.Struct, frozen=True):
    """Of one target."""

    target: str
    figure: str
    state: State


class Sinusoid(msgspec.Struct, frozen=True):
    """Of one seed: goodput per GPU against the best static count's."""

    seed: int
    count: int
    """The best one."""
    edge: bool
    """It is the least or the largest that was tried: a better one may lie beyond."""
    times: dict[str, float]
    """By planner."""
    attainment: dict[str, float]


# --- figures ---


def sinusoid(rows: Iterable[Row]) -> list[Sinusoid]:
    """Of every seed of which a static count reaches the goal."""
    of = [row for row in rows if row.workload == SINUSOID]
    found = []
    for seed in sorted({row.seed for row in of}):
        static = [row for row in of if row.seed == seed and row.planner == "static"]
        enough = [row for row in static if row.slo_attainment >= GOAL]
        if not enough:
            continue
        best = max(enough, key=lambda row: (row.goodput_per_gpu_s, -(row.workers or 0)))
        others = [row for row in of if row.seed == seed and row.planner != "static"]
        counts = [row.workers or 0 for row in static]
        found.append(
            Sinusoid(
                seed,
                best.workers or 0,
                best.workers == max(counts) or (best.workers == min(counts) and best.workers != 1),
                {row.planner: row.goodput_per_gpu_s / best.goodput_per_gpu_s for row in others},
                {row.planner: row.slo_attainment for row in others},
            )
        )
    return found


def cells(rows: Iterable[Row]) -> list[Cell]:
    """Of the matrix, in the order of workloads' first rows; those that jedlik has run."""
    of = [row for row in rows if row.workload != SINUSOID]
    order = list(dict.fromkeys(row.workload for row in of))
    keys = {(row.workload, row.startup_s) for row in of if row.planner == "jedlik"}
    return [_cell(of, *key) for key in sorted(keys, key=lambda key: (order.index(key[0]), key[1]))]


def _cell(rows: Sequence[Row], workload: str, startup_s: float) -> Cell:
    by: dict[str, dict[int, Row]] = {}
    for row in rows:
        if (row.workload, row.startup_s) == (workload, startup_s):
            by.setdefault(row.planner, {})[row.seed] = row
    ours, oracle = by["jedlik"], by.get("oracle", {})
    pairs = [(row, by["dynamo"][seed]) for seed, row in ours.items() if seed in by.get("dynamo", {})]
    mean = statistics.fmean
    attained = (mean(a.slo_attainment for a, _ in pairs), mean(b.slo_attainment for _, b in pairs)) if pairs else None
    gpus = _times([(a.gpu_hours, b.gpu_hours) for a, b in pairs])
    return Cell(
        workload=workload,
        startup_s=startup_s,
        seeds=len(ours),
        attainment=mean(row.slo_attainment for row in ours.values()),
        least_attainment=min(row.slo_attainment for row in ours.values()),
        dynamo_attainment=attained[1] if attained else None,
        over_oracle=_times([(row.gpu_hours, oracle[seed].gpu_hours) for seed, row in ours.items() if seed in oracle]),
        oracle_short=any(row.slo_attainment < (row.goal or 0.0) - 1e-9 for row in oracle.values()),
        over_dynamo=_times([(a.planner_actions, b.planner_actions) for a, b in pairs]),
        gpu_over_dynamo=gpus,
        dominated=attained[0] < attained[1] and gpus > 1 if attained and gpus is not None else None,
        dominated_seeds=sum(a.slo_attainment < b.slo_attainment and a.gpu_hours > b.gpu_hours for a, b in pairs),
    )


def _times(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The ratio of sums; None: there is nothing. Nothing beside nothing is alike."""
    if not pairs:
        return None
    ours, theirs = (sum(side) for side in zip(*pairs, strict=True))
    if theirs == 0:
        return 1.0 if ours == 0 else float("inf")
    return float(ours / theirs)


# --- targets ---


class Asked(msgspec.Struct, frozen=True):
    """How much there is to know."""

    cells: int
    """Of the matrix."""
    seeds: int

    def state(self, good: bool, known: Sequence[Cell]) -> State:
        if not good:
            return "missed"
        return "met" if sum(cell.seeds >= self.seeds for cell in known) >= self.cells else "met so far"


def verdicts(rows: Sequence[Row], asked: Asked) -> list[Verdict]:
    """Of all targets."""
    found = cells(rows)
    hours, actions = "GPU-hours over the oracle's, each cell", "actions over Dynamo's, each cell"
    return [
        _static(sinusoid(rows), asked.seeds),
        _each(found, "attainment, each cell", lambda cell: cell.attainment, GOAL, asked, least=True),
        _each(found, hours, lambda cell: cell.over_oracle, ORACLE_TIMES, asked),
        _cliff(found, asked),
        _each(found, actions, lambda cell: cell.over_dynamo, ACTIONS_TIMES, asked),
        _dominated(found, asked),
    ]


def _static(seeds: Sequence[Sinusoid], wanted: int) -> Verdict:
    target = f"sinusoid: goodput per GPU over the best static fleet's, at least {STATIC_TIMES:g}"
    times = [seed.times["jedlik"] for seed in seeds if "jedlik" in seed.times]
    if not times:
        return Verdict(target, "no seed has both", "not known")
    mean = statistics.fmean(times)
    figure = (
        f"{mean:.3f} in the mean of {len(times)} seed{'s' * (len(times) > 1)}, {min(times):.3f} to {max(times):.3f}"
    )
    if mean < STATIC_TIMES:
        return Verdict(target, figure, "missed")
    return Verdict(target, figure, "met" if len(times) >= wanted else "met so far")


def _each(
    found: Sequence[Cell],
    name: str,
    of: Callable[[Cell], float | None],
    bound: float,
    asked: Asked,
    least: bool = False,
) -> Verdict:
    """Every cell keeps a bound: the worst one is told."""
    target = f"{name}, at {'least' if least else 'most'} {bound:.3g}"
    values = [(value, cell) for cell in found if (value := of(cell)) is not None]
    if not values:
        return Verdict(target, "no cell has it", "not known")
    good = sum(value >= bound if least else value <= bound for value, _ in values)
    worst, cell = (min if least else max)(values, key=lambda one: one[0])
    figure = f"{good} of {len(values)} cells; worst {worst:.3f}, {cell.workload} at {cell.startup_s:g} s"
    return Verdict(target, figure, asked.state(good == len(values), [cell for _, cell in values]))


def _cliff(found: Sequence[Cell], asked: Asked) -> Verdict:
    target = f"no cliff: attainment falls by at most {CLIFF:g} from a start-up time to the next"
    falls = drops(found, "attainment")
    if not falls:
        return Verdict(target, "no workload has two start-up times", "not known")
    (worst, where), theirs = max(falls), drops(found, "dynamo_attainment")
    figure = f"largest {worst:.3f}, {where}" + (f"; Dynamo's {max(theirs)[0]:.3f}, {max(theirs)[1]}" if theirs else "")
    return Verdict(target, figure, asked.state(worst <= CLIFF, found))


def drops(found: Sequence[Cell], of: Literal["attainment", "dynamo_attainment"]) -> list[tuple[float, str]]:
    """By how much it falls from each start-up time to the next longer one, and where."""
    fallen = []
    for one, other in pairwise(found):
        before, after = getattr(one, of), getattr(other, of)
        if one.workload == other.workload and before is not None and after is not None:
            fallen.append((before - after, f"{one.workload} from {one.startup_s:g} to {other.startup_s:g} s"))
    return fallen


def _dominated(found: Sequence[Cell], asked: Asked) -> Verdict:
    target = "dominated by Dynamo (more attained with fewer GPU-hours) in no cell"
    known = [cell for cell in found if cell.dominated is not None]
    if not known:
        return Verdict(target, "no cell has both", "not known")
    where = [f"{cell.workload} at {cell.startup_s:g} s" for cell in known if cell.dominated]
    single = sum(cell.dominated_seeds for cell in known)
    figure = f"in {len(where)} of {len(known)} cells{': ' if where else ''}{', '.join(where)}; {single} single runs"
    return Verdict(target, figure, asked.state(not where, known))


# --- tables ---


def tables(rows: Sequence[Row], asked: Asked) -> list[Table]:
    """What is printed at the end."""
    targets = _table("Targets", ("target", "figure", "verdict"), ())
    for one in verdicts(rows, asked):
        targets.add_row(one.target, one.figure, one.state)
    return [planners_table(rows), sinusoid_table(sinusoid(rows)), cells_table(cells(rows)), targets]


MEANS = {
    "attainment": ("slo_attainment", 4),
    "worst minute": ("worst_minute_attainment", 2),
    "GPU-hours": ("gpu_hours", 2),
    "goodput/GPU-s": ("goodput_per_gpu_s", 3),
    "actions": ("planner_actions", 1),
    "shed": ("shed", 1),
    "failed": ("failed", 1),
}
"""Columns: figures of a row, and digits."""


def planners_table(rows: Iterable[Row]) -> Table:
    """Every planner in every cell."""
    table = _table("Planners, means over seeds", ("cell", "planner"), ("start-up s", "seeds", *MEANS))
    groups: dict[tuple[str, float, str], list[Row]] = {}
    for row in rows:
        name = f"{row.planner} {row.workers}" if row.workers else row.planner
        groups.setdefault((row.workload, row.startup_s, name), []).append(row)
    for (workload, startup_s, name), of in sorted(groups.items()):
        told = [_told(_mean(getattr(row, key) for row in of), digits) for key, digits in MEANS.values()]
        table.add_row(workload, name, f"{startup_s:g}", str(len(of)), *told)
    return table


def sinusoid_table(seeds: Iterable[Sinusoid]) -> Table:
    """Ratios by seed."""
    names = ("jedlik", "dynamo", "hpa", "kpa", "oracle")
    title = "Sinusoid: goodput per GPU, times that of the best static fleet (attainment)"
    table = _table(title, (), ("seed", "best static", *names))
    for one in seeds:
        told = [f"{one.times[n]:.3f} ({one.attainment[n]:.3f})" if n in one.times else "-" for n in names]
        table.add_row(str(one.seed), f"{one.count}{' (at the edge)' if one.edge else ''}", *told)
    return table


def cells_table(found: Iterable[Cell]) -> Table:
    """Ratios, jedlik's over others'."""
    over = ("GPU-h / oracle", "GPU-h / Dynamo", "actions / Dynamo", "dominated")
    names = ("start-up s", "seeds", "attainment", "least", "Dynamo's", *over)
    table = _table("jedlik beside the oracle and Dynamo", ("cell",), names)
    for cell in found:
        table.add_row(
            cell.workload,
            f"{cell.startup_s:g}",
            str(cell.seeds),
            _told(cell.attainment, 4),
            _told(cell.least_attainment, 4),
            _told(cell.dynamo_attainment, 4),
            _told(cell.over_oracle) + ("*" if cell.oracle_short else ""),
            _told(cell.gpu_over_dynamo),
            _told(cell.over_dynamo),
            {None: "-", True: "yes", False: "no"}[cell.dominated],
        )
    table.caption = "* the oracle did not reach its goal"
    return table


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _told(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(title: str, words: Iterable[str], numbers: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in words:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    return table
