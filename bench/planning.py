"""The planners' acceptance experiment, simulated: a sinusoid against static fleets, a matrix against oracle and Dynamo.

    .venv/bin/python bench/planning.py --traces FOLDER [--seeds 5] [--cells sinusoid,conv1] [--startups 60,300] \\
        [--planners jedlik,dynamo] [--budget-s 3600] [--json OUT | --resume OUT]

A run appends to its JSON and is resumed from it. All of it takes hours; the first seed of everything comes first.
`--quick` tries everything on two minutes. Planners start with equal fleets: in the sinusoid the example's two workers,
in the matrix about what a fixed fleet needs for the first five minutes; with less, slow starts alone would decide. The
oracle's goal is what jedlik attained on that seed, at least 95 %.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import msgspec
from rich.console import Console

import jedlik.planning
from jedlik.serve.plugins import load_planner
from jedlik.serve.settings import settle
from jedlik.sim.report.columns import Slo
from jedlik.sim.report.numbers import Summary, summarise
from jedlik.sim.workload.load import load
from jedlik.sim.workload.options import WorkloadOptions
from jedlik.sim.world import simulate
from jedlik.sizing.simulate import SimulateOptions, prepare
from planning_verdicts import GOAL, SINUSOID, Asked, Cell, Key, Row, Verdict, cells, tables, verdicts

BENCH = Path(__file__).parent
EXAMPLE = BENCH.parent / "examples" / "sim-planner.yaml"
PAIRS, DAY_FLEET = BENCH / "planning_pairs.yaml", BENCH / "planning_day.yaml"
PLANNERS = ("jedlik", "dynamo", "hpa", "kpa", "oracle")
FILES = {name: str(BENCH / "planners" / f"{name}.py") for name in PLANNERS if name != "jedlik"}
USUAL_S = 60.0
"""The sinusoid's start-up time, and that at which hpa and kpa run."""
NEAR = 0.002
"""An oracle's run is kept when its goal has moved by no more."""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What is offered, and to which fleet."""

    config: Path = PAIRS
    source: str
    """`{traces}` stands for the folder."""
    options: WorkloadOptions = WorkloadOptions()
    begin: int | None = None
    """Workers that are up at the beginning; None: as the configuration says."""
    slow: bool = False
    """Many requests: after the others."""


def conversation(speed: float, begin: int) -> Workload:
    options = WorkloadOptions(speed=speed, spread_batches=True)
    return Workload(source="{traces}/mooncake_conversation.jsonl.gz", options=options, begin=begin)


SINE = "sinusoid:rate=25,amplitude=20,period={period},input=3000,output=150,duration={duration}"
DAY = "servegen:rates={traces}/servegen_client_rates.parquet,model=m-large,start=345600,duration=86400,scale=0.002"
WORKLOADS: Mapping[str, Workload] = {
    SINUSOID: Workload(config=EXAMPLE, source=SINE.format(period=600, duration=1800)),
    "conv1": conversation(1.0, 7),
    "conv2": conversation(2.0, 12),
    "conv3": conversation(3.0, 16),
    # Recorded times are exact: moved by about a gap, so that seeds differ and bursts stay.
    "code": Workload(
        source="{traces}/azure2023_code.csv.gz", options=WorkloadOptions(spread_batches=True), begin=4
    ),
    # 36,000 requests: a day in an hour.
    "servegen": Workload(config=DAY_FLEET, source=DAY, options=WorkloadOptions(speed=24.0), begin=5, slow=True),
}  # fmt: skip


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One run to come."""

    workload: str
    planner: str
    startup_s: float
    seed: int
    workers: int | None = None
    goal: float | None = None

    @property
    def key(self) -> Key:
        return (self.workload, self.planner, self.startup_s, self.seed, self.workers)

    def __str__(self) -> str:
        count = f" {self.workers}" if self.workers else ""
        return f"{self.workload} {self.planner}{count}, start-up {self.startup_s:g} s, seed {self.seed}"


class Kept(msgspec.Struct):
    """The JSON."""

    quick: bool
    rows: list[Row] = []
    cells: list[Cell] = []
    verdicts: list[Verdict] = []


# --- one run, in a process of its own ---


def run(job: Job, traces: str, quick: bool, simulations: int, code: str) -> Row:
    """Simulate and sum up."""
    began_s = time.process_time()
    workload = shortened(job.workload) if quick else WORKLOADS[job.workload]
    source, options = workload.source.format(traces=traces), workload.options
    flags = {"planner.mode": "on", "planner.policy": FILES.get(job.planner, job.planner)}
    wanted = SimulateOptions(
        trace=source,
        options=options,
        seed=job.seed,
        planner=FILES.get(job.planner, job.planner),
        startup_s=job.startup_s,
        workers=job.workers or workload.begin,
    )
    setup = prepare(settle(flags, {}, workload.config, simulated=True), workload.config, wanted)
    offered = partial(load, source, options, job.seed)
    foresee = load_planner(FILES["oracle"]).foresee
    assert foresee is not None
    oracle = None if job.goal is None else foresee(setup, offered, job.goal, simulations)
    slo = Slo(setup.gateway.slo_ttft_s, setup.gateway.slo_itl_s)
    summary = summarise(simulate(setup, offered(), planner=oracle), slo, setup.gateway.policy, job.seed)
    return row(job, summary, time.process_time() - began_s, code)


def shortened(name: str) -> Workload:
    """For `--quick`: two minutes, or 400 requests."""
    workload = WORKLOADS[name]
    if name == SINUSOID:
        return msgspec.structs.replace(workload, source=SINE.format(period=120, duration=120))
    return msgspec.structs.replace(workload, options=msgspec.structs.replace(workload.options, limit=400))


def row(job: Job, summary: Summary, cpu_s: float, code: str) -> Row:
    return Row(
        **msgspec.structs.asdict(job),
        slo_attainment=summary.slo_attainment or 0.0,
        attainable_share=summary.attainable_share or 0.0,
        worst_minute_attainment=summary.worst_minute_attainment,
        gpu_hours=summary.gpu_hours,
        goodput_per_gpu_s=summary.goodput_per_gpu_s or 0.0,
        planner_actions=summary.planner_actions,
        requests=summary.requests,
        shed=summary.shed,
        failed=summary.failed,
        cpu_s=cpu_s,
        code=code,
    )


def digest() -> str:
    """Of the planners' source: rows of other planners than today's are told apart."""
    folders = (Path(jedlik.planning.__path__[0]), BENCH / "planners")
    content = b"".join(path.read_bytes() for folder in folders for path in sorted(folder.rglob("*.py")))
    return hashlib.sha256(content).hexdigest()[:12]


# --- which runs, in which order ---


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    """The most telling first: a seed of everything, then the next."""
    matrix = [name for name in args.cells if name != SINUSOID]
    parts = [[name for name in matrix if WORKLOADS[name].slow == slow] for slow in (False, True)]
    for seed in range(args.seeds):
        oracle = args.oracle_seeds is None or seed < args.oracle_seeds
        if SINUSOID in args.cells:
            for planner, workers in sinusoid_runs(args, oracle if args.oracle_seeds is not None else seed == 0):
                yield Job(workload=SINUSOID, planner=planner, startup_s=USUAL_S, seed=seed, workers=workers)
        for part in parts:
            for startup_s in args.startups:
                for name in part:
                    for planner in args.planners:
                        if (planner != "oracle" or oracle) and (planner not in ("hpa", "kpa") or startup_s == USUAL_S):
                            yield Job(workload=name, planner=planner, startup_s=startup_s, seed=seed)


def sinusoid_runs(args: argparse.Namespace, oracle: bool) -> Iterator[tuple[str, int | None]]:
    for planner in args.planners:
        if planner != "oracle" or oracle:
            yield planner, None
        if planner == args.planners[0]:
            yield from (("static", count) for count in args.static)


class Runs:
    """All of them: at most so many at a time, each kept as soon as it ends."""

    def __init__(self, args: argparse.Namespace, kept: Kept, waiting: list[Job]) -> None:
        self._args, self._quick, self.waiting = args, kept.quick, waiting
        self.rows: dict[Key, Row] = {row.key: row for row in kept.rows}
        self._running: dict[Future[Row], Job] = {}
        self.failed: list[str] = []
        self.cpu_s, self._total, self._ended, self._code = 0.0, len(waiting), 0, digest()
        self._began_s = time.monotonic()

    def play(self) -> None:
        with ProcessPoolExecutor(self._args.jobs, get_context("spawn")) as pool:
            self._fill(pool)
            while self._running:
                for future in wait(self._running, return_when=FIRST_COMPLETED).done:
                    self._end(self._running.pop(future), future)
                self._fill(pool)

    def _fill(self, pool: ProcessPoolExecutor) -> None:
        """Runs that may begin, begin."""
        late = self._args.budget_s is not None and time.monotonic() - self._began_s >= self._args.budget_s
        while not late and len(self._running) < self._args.jobs and (job := self._next()) is not None:
            given = (job, self._args.traces, self._quick, self._args.oracle_simulations, self._code)
            self._running[pool.submit(run, *given)] = job

    def _next(self) -> Job | None:
        """The first that waits for no other: the oracle's goal is what jedlik attained."""
        for job in map(self._aimed, list(self.waiting)):
            ours = (job.workload, "jedlik", *job.key[2:])
            first = (*self._running.values(), *self.waiting)
            if job.planner == "oracle" and any(other.key == ours for other in first):
                continue
            self.waiting = [other for other in self.waiting if other.key != job.key]
            if not self._known(job):
                return job
            self._ended += 1
        return None

    def left(self) -> list[Job]:
        """Not run."""
        return [job for job in self.waiting if not self._known(self._aimed(job))]

    def _aimed(self, job: Job) -> Job:
        """An oracle with its goal, as far as that is known."""
        if job.planner != "oracle":
            return job
        ours = self.rows.get((job.workload, "jedlik", *job.key[2:]))
        return msgspec.structs.replace(job, goal=max(GOAL, ours.slo_attainment) if ours else GOAL)

    def _known(self, job: Job) -> bool:
        row = self.rows.get(job.key)
        return row is not None and (job.goal is None or abs(job.goal - (row.goal or 0.0)) <= NEAR)

    def _end(self, job: Job, future: "Future[Row]") -> None:
        self._ended += 1
        begin = f"[{self._ended}/{self._total}, {(time.monotonic() - self._began_s) / 60:.1f} min] {job}: "
        try:
            found = future.result()
        except Exception as error:  # whatever it is: the others' hours are not lost
            self.failed.append(f"{job}: {error!r}")
            print(begin + f"failed, {error!r}", flush=True)
            return
        self.rows[job.key] = found
        self.cpu_s += found.cpu_s
        print(begin + told(found), flush=True)
        keep(self._args, self._quick, list(self.rows.values()))


def told(row: Row) -> str:
    worst = "-" if row.worst_minute_attainment is None else f"{row.worst_minute_attainment:.2f}"
    goal = "" if row.goal is None else f" (goal {row.goal:.4f})"
    return (
        f"attainment {row.slo_attainment:.4f}{goal}, worst minute {worst}, {row.gpu_hours:.2f} GPU-hours, "
        f"goodput/GPU-s {row.goodput_per_gpu_s:.3f}, {row.planner_actions} actions, {row.cpu_s:.0f} s of CPU"
    )


def grouped(waiting: Sequence[Job]) -> list[str]:
    """By cell and seed."""
    found: dict[str, list[str]] = {}
    for job in waiting:
        where = f"{job.workload}, start-up {job.startup_s:g} s, seed {job.seed}"
        found.setdefault(where, []).append(f"{job.planner} {job.workers}" if job.workers else job.planner)
    return [f"{where}: {', '.join(names)}" for where, names in found.items()]


# --- the file ---


def keep(args: argparse.Namespace, quick: bool, rows: Sequence[Row]) -> None:
    """All at once, so that a reader never sees half of it."""
    target = args.json or args.resume
    if target is None:
        return
    kept = Kept(quick, list(rows), cells(rows), verdicts(rows, asked(args)))
    half = Path(f"{target}.half")
    half.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
    half.replace(target)


def before(args: argparse.Namespace) -> Kept:
    """What an earlier run has left."""
    if args.json and args.json != args.resume and Path(args.json).exists():
        raise SystemExit(f"{args.json} is there already: --resume goes on with it")
    if args.resume is None or not Path(args.resume).exists():
        return Kept(args.quick)
    kept = msgspec.json.decode(Path(args.resume).read_bytes(), type=Kept)
    if kept.quick != args.quick:
        raise SystemExit(f"{args.resume} is {'' if kept.quick else 'not '}of a --quick run: name another file")
    again = [row for row in kept.rows if row.planner in args.redo]
    kept.rows = [row for row in kept.rows if row.planner not in args.redo]
    old = sum(row.planner == "jedlik" and row.code != digest() for row in kept.rows)
    print(f"{args.resume}: {len(kept.rows)} runs kept, {len(again)} left out to be run again")
    if old:
        print(f"{old} of jedlik's were made by other source than today's: --redo jedlik runs them again")
    return kept


def asked(args: argparse.Namespace) -> Asked:
    return Asked(len(args.startups) * sum(name != SINUSOID for name in args.cells), args.seeds)


# --- the command ---


def listed(of: Callable[[str], object], known: Sequence[str] | None = None) -> Callable[[str], list[object]]:
    def parse(text: str) -> list[object]:
        names = text.split(",") if text else []
        for name in names:
            if known is not None and name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return [of(name) for name in names]

    return parse


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--traces", required=True, help="folder with the trace files")
    add("--seeds", type=int, default=5)
    add("--cells", type=listed(str, [*WORKLOADS]), default=[*WORKLOADS], help=", ".join(WORKLOADS))
    add("--startups", type=listed(float), default=[60.0, 300.0, 0.0, 120.0, 200.0], help="s, in the order to be run")
    add("--planners", type=listed(str, PLANNERS), default=[*PLANNERS], help=", ".join(PLANNERS))
    add("--static", type=listed(int), default=[6, 7, 8, 9], help="counts of the sinusoid's static fleets")
    add("--oracle-seeds", type=int, help="seeds with an oracle; else one in the sinusoid, all in the matrix")
    add("--oracle-simulations", type=int, default=6, help="full ones, of each oracle's search")
    add("--jobs", type=int, default=2, help="processes at a time")
    add("--budget-s", type=float, help="no run begins later than this")
    add("--json", help="a new file, written after every run")
    add("--resume", help="what this file holds is not run again; written on, without --json")
    add("--redo", type=listed(str, [*PLANNERS, "static"]), default=[], help="planners whose kept runs are left out")
    add("--quick", action="store_true", help="two minutes, 400 requests, one seed, four simulations for the oracle")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.oracle_simulations = 1, min(4, args.oracle_simulations)
    return args


def main() -> None:
    args = parsed()
    kept = before(args)
    keep(args, args.quick, kept.rows)  # what cannot be written shows now
    runs = Runs(args, kept, list(jobs(args)))
    try:
        runs.play()
    finally:
        console = Console(width=None if sys.stdout.isatty() else 150)
        rows = list(runs.rows.values())
        for table in tables(rows, asked(args)):
            console.print(table)
        for failed in runs.failed:
            print(f"failed: {failed}")
        if left := runs.left():
            print(f"not run, {len(left)}:", *grouped(left), sep="\n  ")
        print(f"{runs.cpu_s:.0f} s of CPU in this run, {sum(row.cpu_s for row in rows):.0f} s in all that is kept")


if __name__ == "__main__":
    main()
