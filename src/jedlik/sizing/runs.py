"""Simulations of `jedlik plan` in processes of their own, as many at a time as there are cores, until time is up.

A simulation that is still running then is ended, and its result is missing. Processes are spawned: they share nothing.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from multiprocessing.pool import AsyncResult, Pool
from types import TracebackType

import msgspec

from jedlik.core.config import ServeConfig, SimulationConfig
from jedlik.core.errors import Bug
from jedlik.core.sums import float_sum
from jedlik.perf.profile import Profile
from jedlik.serve.plugins import load_planner
from jedlik.sim import sizing_trial
from jedlik.sim.setup import Setup, build
from jedlik.sim.sizing import Figures, Part, Trial, settings
from jedlik.sim.sizing_load import Pieces, Stretch
from jedlik.sim.workload.load import load
from jedlik.sim.workload.offered import Workload
from jedlik.sim.workload.options import WorkloadOptions
from jedlik.sizing.simulate import maker, useful

NOTHING_GOOD = Figures(
    requests=1,
    good=0,
    slo_attainment=None,
    ttft_p50_s=None,
    ttft_p99_s=None,
    itl_p50_s=None,
    itl_p99_s=None,
    hit_rate=None,
    output_tokens=0.0,
    duration_s=1.0,
)
SAMPLE_TIME = 0.55
"""The share of the time, at most, before simulations of the whole trace begin."""
Ended = Callable[[int], None]
"""A call with the number of simulations that have ended."""


class SizingTask(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the work that all simulations have in common."""

    source: str
    options: WorkloadOptions
    seed: int
    base: tuple[ServeConfig, SimulationConfig]
    profiles: dict[str, Profile]
    stretches: dict[Part, tuple[Stretch, ...]]
    """The stretches of each part that is not all of the trace."""
    requests: dict[Part, int]
    """The number of requests of each part."""
    closed: bool
    """Requests wait for answers: a part is the beginning, it can't be cut."""


class Runs:
    """The processes; a context. Results are kept in `results`."""

    def __init__(self, task: SizingTask, deadline_s: float, processes: int, tell: Ended) -> None:
        """`deadline_s` is on the monotonic clock."""
        self._task, self._deadline_s, self._tell = task, deadline_s, tell
        self._pool: Pool | None = None
        self._processes = processes
        self._sampled_until_s = deadline_s - (1 - SAMPLE_TIME) * (deadline_s - time.monotonic())
        self._on_trace = False
        self._took_s: dict[Part, list[float]] = {"sample": [], "trace": []}
        self._begun: dict[tuple[str, Part], AsyncResult[tuple[Figures, float]]] = {}
        self.results: dict[Trial, Figures] = {}
        self.broken: dict[Trial, str] = {}
        """Our fault: the search goes on as if they did not hold."""
        self.left_out: list[Trial] = []
        """There was no time for them."""

    def __enter__(self) -> "Runs":
        context = multiprocessing.get_context("spawn")
        self._pool = context.Pool(self._processes, _deaf)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._pool is not None
        self._pool.terminate()
        self._pool.join()

    def run(self, trials: Sequence[Trial]) -> Mapping[Trial, Figures]:
        """Return the figures of trials. Those for which there is no time are missing."""
        assert self._pool is not None
        if not trials or not self._time_for(trials[0].part):
            self.left_out += trials
            return {}
        begun: dict[tuple[str, Part], AsyncResult[tuple[Figures, float]]] = {}
        for trial in trials:
            key = trial.fleet.name, trial.part  # two shapes may split so many workers alike
            begun[key] = (
                begun.get(key) or self._begun.get(key) or self._pool.apply_async(simulated, (self._task, trial))
            )
        self._begun |= begun
        found = {}
        for trial in trials:
            figures = self._awaited(begun[trial.fleet.name, trial.part], trial)
            if figures is None:
                self.left_out.append(trial)
                continue
            found[trial] = figures
            if trial not in self.broken:
                self.results[trial] = figures
                self._tell(len(self.results))
        return found

    def _time_for(self, part: Part) -> bool:
        """For one more such simulation; of samples only as long as the trace still gets its share of the time."""
        now_s = time.monotonic()
        left_s = self._deadline_s - now_s
        if part == "trace":
            self._on_trace = True
            return left_s > self._expected_s("trace")
        spare = self._on_trace or self._expected_s("trace") > left_s
        return left_s > self._expected_s("sample") and (spare or now_s < self._sampled_until_s)

    def _expected_s(self, part: Part) -> float:
        """What one takes, going by what others took; 0 at first."""
        if took := self._took_s[part]:
            return max(took)
        took, sizes = self._took_s["sample"], self._task.requests
        return float_sum(took) / len(took) * sizes["trace"] / sizes["sample"] if took else 0.0

    def _awaited(self, answer: "AsyncResult[tuple[Figures, float]]", trial: Trial) -> Figures | None:
        try:
            figures, took_s = answer.get(max(self._deadline_s - time.monotonic(), 0.0))
        except multiprocessing.TimeoutError:
            return None
        except Bug as bug:  # of the simulator: the others are still worth knowing
            self.broken[trial] = str(bug)
            return NOTHING_GOOD
        self._took_s[trial.part].append(took_s)
        return figures


def processes() -> int:
    """Return the number of processes: as many as cores that may be used, at least 1."""
    return max(len(os.sched_getaffinity(0)), 1)


def simulated(task: SizingTask, trial: Trial) -> tuple[Figures, float]:
    """Run one simulation in a process of its own, and measure its time. Raises ConfigError for a useless policy."""
    begun_s = time.monotonic()
    setup = prepared(task, trial)
    limit = None
    stretches = task.stretches.get(trial.part)
    if stretches is not None and task.closed:
        limit = stretches[0].stop
    read = load if task.closed else _workload  # conversations go on from where they are
    options = task.options if limit is None else msgspec.structs.replace(task.options, limit=limit)
    workload = read(task.source, options, task.seed)
    if stretches is None:
        figures = sizing_trial.whole(setup, workload)
    else:
        figures = sizing_trial.sample(setup, workload if task.closed else Pieces(workload, stretches))
    useful(f"gateway.policy {setup.gateway.policy}", figures.choices, figures.failures, figures.cause)
    return figures, time.monotonic() - begun_s


def prepared(task: SizingTask, trial: Trial) -> Setup:
    """Just as `jedlik simulate` makes it of the file that is written."""
    config, simulation = settings(task.base, trial.fleet)
    gateway = config.gateway
    makers = (maker(gateway.policy), maker(gateway.shadow_policy) if gateway.shadow_policy else None)
    planner = load_planner(config.planner.policy).make
    return build(config, simulation, task.profiles, task.seed, policies=makers, planner=planner)


@lru_cache(maxsize=2)
def _workload(source: str, options: WorkloadOptions, seed: int) -> Workload:
    """Read once per process."""
    return load(source, options, seed)


def _deaf() -> None:
    """Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
