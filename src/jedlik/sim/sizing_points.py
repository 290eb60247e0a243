"""The points of simulated fleets: what each gives and costs, which meet the SLOs, and which are on the front.

The front is over tokens/s per GPU against tokens/s per user: nothing that holds is better in both. Attainment is the
share of the requests that some candidate could serve in time on an idle worker: a slow GPU gains nothing by being slow.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from jedlik.sim.report.columns import Flags
from jedlik.sim.sizing import Figures, Part, SizedFleet, Trial
from jedlik.sim.sizing_load import OfferedLoad, Stretch, judged


class FleetPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One simulated fleet, with what it gives and costs."""

    fleet: SizedFleet
    part: Part
    attainment: float
    goodput: float
    """The share of all requests that were judged which met the SLOs."""
    figures: Figures
    tokens_per_s: float
    """Output, of the whole fleet."""
    holds: bool
    """Attains what is wanted, within the budget."""

    @property
    def name(self) -> str:
        return self.fleet.name

    @property
    def tokens_per_s_gpu(self) -> float:
        return self.tokens_per_s / self.fleet.gpus

    @property
    def tokens_per_s_user(self) -> float:
        """Tokens per second of the median answer; 0: no answer had two tokens."""
        return 1 / self.figures.itl_p50_s if self.figures.itl_p50_s else 0.0

    @property
    def million_tokens_usd(self) -> float | None:
        """Output tokens; None: there were none."""
        return self.fleet.hour_usd / (self.tokens_per_s * 3600) * 1e6 if self.tokens_per_s else None


class Judge:
    """Turns trials into points."""

    def __init__(
        self, load: OfferedLoad, attainable: Flags, stretches: Mapping[Part, Sequence[Stretch]], wanted: float
    ) -> None:
        """`stretches`: what each part has of the load; a part that is not named has all of it."""
        self._load, self._wanted = load, wanted
        every = np.ones(load.requests, dtype=np.bool_)
        parts: tuple[Part, ...] = ("sample", "trace")
        self._judged = {p: judged(stretches[p], load.requests) if p in stretches else every for p in parts}
        self.attainable_share = {p: float(attainable[flags].mean()) for p, flags in self._judged.items()}

    def attainment(self, trial: Trial, figures: Figures) -> float:
        could = self.attainable_share[trial.part] * figures.requests
        return min(1.0, figures.good / could) if could > 0 else 0.0

    def point(self, trial: Trial, figures: Figures) -> FleetPoint:
        load, flags = self._load, self._judged[trial.part]
        tokens_per_s = figures.output_tokens / figures.duration_s
        if not flags.all():
            asked = float(load.output_tokens[flags].sum())
            tokens_per_s = float(load.output_tokens.sum()) / load.span_s * min(figures.output_tokens / asked, 1.0)
        attainment = self.attainment(trial, figures)
        return FleetPoint(
            fleet=trial.fleet,
            part=trial.part,
            attainment=attainment,
            goodput=figures.good / figures.requests if figures.requests else 0.0,
            figures=figures,
            tokens_per_s=tokens_per_s,
            holds=attainment >= self._wanted,
        )

    def points(self, results: Mapping[Trial, Figures]) -> list[FleetPoint]:
        """One per fleet, the cheapest first; what was simulated on all of the trace stands for the sample."""
        found = {
            trial.fleet: self.point(trial, figures) for trial, figures in results.items() if trial.part == "sample"
        }
        found |= {
            trial.fleet: self.point(trial, figures) for trial, figures in results.items() if trial.part == "trace"
        }
        return sorted(found.values(), key=lambda point: point.fleet.order)


def best(points: Sequence[FleetPoint]) -> FleetPoint | None:
    """The cheapest that holds on the trace; else on the sample; else the one that attains most. None: no points.

    Of those that cost the same: fewer GPUs, then not apart, then the faster one per user.
    """
    for part in ("trace", "sample"):
        holding = [point for point in points if point.holds and point.part == part]
        if holding:
            return min(holding, key=_rank)
    return min(points, key=lambda point: (-point.attainment, point.fleet.order), default=None)


def _rank(point: FleetPoint) -> tuple[float, float, bool, float, str]:
    usd, gpus, apart, name = point.fleet.order
    return usd, gpus, apart, -point.tokens_per_s_user, name


def front(points: Iterable[FleetPoint]) -> list[FleetPoint]:
    """Return the points that hold and that no other one beats or equals in both; fastest per user last. If none holds:
    of all."""
    every = list(points)
    among = [point for point in every if point.holds] or every
    among.sort(key=lambda point: (-point.tokens_per_s_gpu, -point.tokens_per_s_user, point.fleet.order))
    found: list[FleetPoint] = []
    for point in among:
        if not found or point.tokens_per_s_user > found[-1].tokens_per_s_user:
            found.append(point)
    return found
