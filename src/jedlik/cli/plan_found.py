"""All that a search of `jedlik plan` found, as a value."""

from collections.abc import Mapping

import msgspec

from jedlik.sim.report.columns import Slo
from jedlik.sim.sizing import Fleet, Part, Trial
from jedlik.sim.sizing_load import Load
from jedlik.sim.sizing_points import Point
from jedlik.sim.sizing_search import Choice
from jedlik.sim.workload.options import WorkloadOptions


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
    broken: dict[str, str]
    """Simulations that ended in an error of ours, and which."""
    took_s: float


def flags(options: WorkloadOptions, seed: int) -> str:
    """Of `jedlik simulate`, for the same workload."""
    told = []
    for info in msgspec.structs.fields(WorkloadOptions):
        value = getattr(options, info.name)
        if value != info.default:
            name = "--" + info.name.removesuffix("_s").replace("_", "-")
            told.append(name if value is True else f"{name} {value:g}")
    return " ".join([*told, *([f"--seed {seed}"] if seed else [])])
