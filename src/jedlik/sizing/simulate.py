"""`jedlik simulate`: settings, fleet, profiles and workload brought together, run, and reported.

Everything that can be wrong is found before the run starts; a run that is stopped says how far it came.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jedlik.console.show import say
from jedlik.core.config import PlannerConfig, PoolConfig
from jedlik.core.errors import ConfigError
from jedlik.planning.policy import Planner
from jedlik.serve import plugins
from jedlik.serve.fields import fields
from jedlik.serve.pools import priced
from jedlik.serve.settings import Settings, value_of
from jedlik.sim.report.columns import Slo
from jedlik.sim.report.numbers import Summary, summarise, to_json
from jedlik.sim.report.page import page
from jedlik.sim.report.table import rendered
from jedlik.sim.report.words import moment, number
from jedlik.sim.setup import PolicyMaker, Setup, build
from jedlik.sim.workload.load import load
from jedlik.sim.workload.options import WorkloadOptions
from jedlik.sim.world import simulate

LINE_EVERY_S = 5.0
STDOUT = "-"
EXAMPLE = "examples/sim-8xh200.yaml"


class SimulateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the command line beside the settings."""

    trace: str
    """A file, or a generator's name with its settings."""
    options: WorkloadOptions
    seed: int = 0
    until_s: float | None = None
    """Cut the run at this simulated time."""
    step_by_step: bool = False
    json: str | None = None
    html: str | None = None
    planner: str | None = None
    """The planner that was named on the command line; it is `planner.policy` of the settings too."""
    startup_s: float | None = None
    """Seconds from the order to start a worker until it serves, for every pool."""
    workers: int | None = None
    """Workers of the first pool at the beginning."""


class Stopped(Exception):
    """The run was stopped by Ctrl-C. The message says how far it came."""


def run(settings: Settings, file: Path | None, wanted: SimulateOptions) -> Summary:
    """Simulate and report. Raises ConfigError with a remedy, Stopped on Ctrl-C."""
    if not wanted.trace:
        raise ConfigError("no workload: name a trace file or a generator with --trace (docs/simulator.md lists them)")
    for target in (wanted.json, wanted.html):
        writable(target)
    setup = prepare(settings, file, wanted)
    assert file is not None  # or there would be no fleet
    wanted.options.check()
    workload = load(wanted.trace, wanted.options, wanted.seed)
    advance = Advance(workload.total)
    with _stoppable(advance):
        done = simulate(setup, workload, advance, clairvoyant(setup, wanted))
    done = msgspec.structs.replace(done, speed=wanted.options.speed)
    gateway = setup.gateway
    slo = Slo(gateway.slo_ttft_s, gateway.slo_itl_s)
    summary = summarise(done, slo, gateway.policy, setup.seed, setup.planner.gpu_hour_cost)
    Console(stderr=wanted.json == STDOUT).print(rendered(summary))
    if wanted.html:
        title = f"{file.stem} on {Path(wanted.trace).name}"
        write(wanted.html, page(done, summary, title, shown(settings, setup, wanted)).encode())
    if wanted.json:
        write(wanted.json, to_json(summary))
    for which, asked in (("policy", done.choices.serving), ("shadow_policy", done.choices.shadow)):
        useful(f"gateway.{which} {getattr(gateway, which)}", asked.choices, asked.failures, asked.usual_cause)
    return summary


def useful(policy: str, choices: int, failures: int, cause: str) -> None:
    """Raises ConfigError for a policy that was asked and has not chosen once: a run says nothing of it."""
    if 0 < choices == failures:
        raise ConfigError(
            f"{policy} failed in all of its {number(choices)} choices ({cause}): no figure says anything of it, since "
            "the default chose; correct it"
        )


def prepare(settings: Settings, file: Path | None, wanted: SimulateOptions) -> Setup:
    """Return the simulation that will run. Raises ConfigError."""
    if not settings.config.pools or file is None:
        where = f"{file} has no `pools:`" if file else "no configuration file is given (--config)"
        raise ConfigError(f"{where}: say which workers to simulate, as {EXAMPLE} does")
    if wanted.until_s is not None and not wanted.until_s > 0:
        raise ConfigError(f"--until {wanted.until_s:g}: a run must last more than 0 s")
    gateway = settings.config.gateway
    makers = (maker(gateway.policy), maker(gateway.shadow_policy) if gateway.shadow_policy else None)
    pools = changed(settings.config.pools, wanted)
    config = msgspec.structs.replace(settings.config, pools=pools, planner=planned(settings, wanted))
    if wanted.workers is not None:
        config = msgspec.structs.replace(config, workers=None)
    simulation = settings.simulation
    simulation = msgspec.structs.replace(simulation, step_by_step=simulation.step_by_step or wanted.step_by_step)
    planner = plugins.load_planner(config.planner.policy).make
    profiles = priced(config.worker_pools, file)
    return build(config, simulation, profiles, wanted.seed, wanted.until_s, policies=makers, planner=planner)


def changed(pools: tuple[PoolConfig, ...], wanted: SimulateOptions) -> tuple[PoolConfig, ...]:
    """Return the pools as the command line wants them. Raises ConfigError."""
    if wanted.startup_s is not None:
        if not 0 <= wanted.startup_s < inf:
            raise ConfigError(f"--startup-s {wanted.startup_s:g}: a time is 0 or more seconds")
        pools = tuple(msgspec.structs.replace(pool, start_s=wanted.startup_s) for pool in pools)
    if wanted.workers is not None:
        if wanted.workers < 1:
            raise ConfigError(f"--workers {wanted.workers}: at least 1 is needed")
        pools = (msgspec.structs.replace(pools[0], count=wanted.workers), *pools[1:])
    return pools


def planned(settings: Settings, wanted: SimulateOptions) -> PlannerConfig:
    """The planner's settings. Raises ConfigError."""
    planner = settings.config.planner
    if wanted.planner is not None and planner.budget is None:
        raise ConfigError(
            f"--planner {wanted.planner} needs to know how many GPUs there are: "
            "set planner.budget in the file, as examples/sim-planner.yaml does, or give --planner.budget 16"
        )
    if wanted.startup_s is not None and settings.sources["planner.start_s"] == "default":
        planner = msgspec.structs.replace(planner, start_s=wanted.startup_s)  # who runs a fleet knows it
    return planner


def clairvoyant(setup: Setup, wanted: SimulateOptions) -> Planner | None:
    """Return the planner, where it must know the workload beforehand. Raises ConfigError."""
    foresee = plugins.load_planner(setup.planner.policy).foresee
    if foresee is None or setup.planner.acts == "off":
        return None
    say(f"planner {setup.planner.policy} looks at the workload beforehand: the run is simulated some 20 times")
    return foresee(setup, partial(load, wanted.trace, wanted.options, wanted.seed))


def maker(name: str) -> PolicyMaker:
    """Return the maker of a policy by its name or file. Raises ConfigError if there is none."""
    plugins.load(name)
    return partial(plugins.load, name)


class Advance:
    """Shows how far a simulation is: a bar on a terminal, a line now and then elsewhere. To stderr."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._ended, self._now_s = 0, 0.0
        self._said_at = time.monotonic()
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[progress]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, transient=True) if console.is_terminal else None
        self._task = self._bar.add_task("simulating", total=total, progress="") if self._bar else None

    def __call__(self, ended: int, now_s: float) -> None:
        self._ended, self._now_s = ended, now_s
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=ended, progress=self.progress())
        elif time.monotonic() - self._said_at > LINE_EVERY_S:
            self._said_at = time.monotonic()
            say(f"simulating: {self.progress()}")

    def progress(self) -> str:
        of = f" of {number(self._total)}" if self._total is not None else ""
        return f"{number(self._ended)}{of} requests, {moment(self._now_s)} simulated"

    @contextmanager
    def visible(self) -> Iterator[None]:
        if self._bar is None:
            yield
        else:
            with self._bar:
                yield


@contextmanager
def _stoppable(advance: Advance) -> Iterator[None]:
    try:
        with advance.visible():
            yield
    except KeyboardInterrupt:
        raise Stopped(f"stopped after {advance.progress()}; nothing was written") from None


def shown(settings: Settings, setup: Setup, wanted: SimulateOptions) -> list[tuple[str, str]]:
    """Everything that a run depends on, for its report."""
    rows = [("trace", wanted.trace)]
    rows += [(f"trace: {name}", str(value)) for name, value in msgspec.structs.asdict(wanted.options).items() if value]
    for pool in setup.pools:
        most = f" of {pool.rooms}" if pool.rooms > pool.count else ""
        progress = (
            f"{pool.count}{most} × {pool.profile}, {pool.gpus:g} GPUs and {number(pool.kv_tokens)} tokens of KV each"
        )
        rows.append((f"pool {pool.name}", f"{progress}, starts in {pool.start_s:g} s"))
    rows += [(f"network: {name}", f"{value:g}") for name, value in msgspec.structs.asdict(setup.network).items()]
    rows += [("fault", f"{moment(f.at_s)} {f.kind} {f.worker or 'a worker drawn by the seed'}") for f in setup.faults]
    rows += [
        ("gateways", str(setup.gateways)),
        ("seed", str(setup.seed)),
        ("cut at", "the last answer" if setup.duration_s is None else f"{setup.duration_s:g} s"),
        ("step by step", "yes" if setup.step_by_step else "no"),
    ]
    config = msgspec.structs.replace(settings.config, planner=setup.planner)
    return rows + [(f.key, str(value_of(config, f))) for f in fields() if f.path[0] in ("worker", "gateway", "planner")]


def writable(target: str | None) -> None:
    """Before the run, not after it. Raises ConfigError."""
    if target and target != STDOUT:
        folder = Path(target).absolute().parent
        if not folder.is_dir():
            raise ConfigError(f"{target} cannot be written: there is no folder {folder}; make it first")
        if Path(target).is_dir():
            raise ConfigError(f"{target} is a folder: name a file")


def write(target: str, content: bytes) -> None:
    if target == STDOUT:
        sys.stdout.write(content.decode())
        return
    try:
        Path(target).write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
