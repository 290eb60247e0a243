"""All that a search of `jedlik plan` found, as a value."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from jedlik.sim.report.columns import Slo
from jedlik.sim.sizing import Part, Shape, SizedFleet, Trial
from jedlik.sim.sizing_load import OfferedLoad
from jedlik.sim.sizing_points import FleetPoint
from jedlik.sim.sizing_search import Choice
from jedlik.sim.workload.options import WorkloadOptions

Status = Literal["found", "nothing", "estimated", "time_up"]
EXITS: Mapping[Status, int] = {"found": 0, "nothing": 1, "estimated": 3, "time_up": 4}
"""The exit code of the command by status. 2 is wrong input, 130 Ctrl-C."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All that there is to tell."""

    points: list[FleetPoint]
    front: list[FleetPoint]
    best: FleetPoint | None
    """The best of the front; None where not one simulation ended in time."""
    budget: float
    attainment: float
    slo: Slo
    load: OfferedLoad
    attainable_share: float
    """The share of all requests that some candidate could serve in time."""
    pieces: Mapping[Part, int]
    """Requests of each part that is not all of the trace."""
    choices: tuple[Choice, ...]
    needs: list[SizedFleet]
    """Fleets that would do by the estimate, within the budget or beyond it; cheapest first."""
    left_out: list[Trial]
    """Trials that were left out because the time was up."""
    broken: dict[str, str]
    """Simulations that ended in an error of ours, and which."""
    took_s: float

    @property
    def status(self) -> Status:
        """Whether a fleet was simulated to hold; else whether all were tried, or one is estimated to hold."""
        if self.best is not None and self.best.holds:
            return "found"
        if self._exhausted:
            return "nothing"
        return "estimated" if self.estimated is not None else "time_up"

    @property
    def _exhausted(self) -> bool:
        """All shapes were tried with as many workers as the budget allows."""
        tried = {point.fleet.name for point in self.points} | {name.rpartition(" (")[0] for name in self.broken}
        return all(SizedFleet(choice.shape, choice.shape.most(self.budget)).name in tried for choice in self.choices)

    @property
    def needed(self) -> SizedFleet | None:
        """The cheapest that would do by the estimate, and that no simulation speaks against."""
        failed: dict[Shape, int] = {}
        for point in self.points:
            if not point.holds:
                failed[point.fleet.shape] = max(point.fleet.workers, failed.get(point.fleet.shape, 0))
        return next((fleet for fleet in self.needs if fleet.workers > failed.get(fleet.shape, 0)), None)

    @property
    def estimated(self) -> SizedFleet | None:
        """The same within the budget."""
        needed = self.needed
        return needed if needed is not None and needed.gpus <= self.budget else None


def flags(options: WorkloadOptions, seed: int) -> str:
    """Return the flags of `jedlik simulate` for the same workload."""
    words = []
    for info in msgspec.structs.fields(WorkloadOptions):
        value = getattr(options, info.name)
        if value != info.default:
            name = "--" + info.name.removesuffix("_s").replace("_", "-")
            words.append(name if value is True else f"{name} {value:g}")
    return " ".join([*words, *([f"--seed {seed}"] if seed else [])])
