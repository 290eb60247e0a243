"""Routing policies compared in the simulator: goodput over all offered requests, several seeds, two loads per workload.

    .venv/bin/python bench/routing.py --traces FOLDER [--workloads conversation,azure] [--policies jedlik,dynamo] \\
        [--seeds 5] [--json OUT]

The fleet is examples/sim-8xh200.yaml: Qwen3-32B FP8 on 8 workers of two H200, TTFT <= 2 s and mean ITL <= 25 ms are
good; shed and failed requests are missed. The load of a workload is set by scaling its arrivals (agentic: concurrent
conversations) until Dynamo's cost reaches the middle of 60 to 90 % (moderate) and less than 20 % (overload), on seed 0;
no policy sees a seed or a trace. The default is run with its admission control, which is on whenever an SLO is set;
`jedlik-open` is the same policy that sheds nothing; the others are as published and admit everything. Workloads that
need no file (generators) show that nothing is tuned to a trace.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from jedlik.routing.policies.named import POLICIES, make
from jedlik.serve.settings import settle
from jedlik.sim.report.columns import Slo
from jedlik.sim.report.numbers import Summary, summarise
from jedlik.sim.workload.load import load
from jedlik.sim.workload.options import WorkloadOptions
from jedlik.sim.world import simulate
from jedlik.sizing.simulate import SimulateOptions, prepare

CONFIG = Path(__file__).parent.parent / "examples" / "sim-8xh200.yaml"
SLO = Slo(2.0, 0.025)
OPEN = "jedlik-open"
NAMES = [OPEN if name == "open" else name for name in ("jedlik", "open", *(n for n in POLICIES if n != "jedlik"))]
BISECTIONS = 7
MODERATE, OVERLOAD = 0.75, 0.15


class Workload(NamedTuple):
    """What is offered at a load of 1, and how a load is applied."""

    source: str
    scaled: Callable[[float], WorkloadOptions]
    most: float
    """The search for loads ends here."""


def _arrivals(most: float = 16.0, **options: object) -> Callable[[str], Workload]:
    return lambda source: Workload(source, lambda load: WorkloadOptions(speed=load, **options), most)  # type: ignore[arg-type]


def _conversations(duration_s: float, most: float) -> Callable[[str], Workload]:
    def scaled(load: float) -> WorkloadOptions:
        return WorkloadOptions(concurrency=max(1, round(load)), duration_s=duration_s, begin_midway=True)

    return lambda source: Workload(source, scaled, most)


FILES: dict[str, tuple[str, Callable[[str], Workload]]] = {
    "conversation": ("mooncake_conversation.jsonl.gz", _arrivals()),
    "conversation-spread": ("mooncake_conversation.jsonl.gz", _arrivals(spread_batches=True)),
    "agentic": ("agentic_coding_a.jsonl.gz", _conversations(1200.0, 512.0)),
    "azure": ("azure2023_code.csv.gz", _arrivals(most=256.0)),
}
GENERATED: dict[str, Workload] = {
    "shared-prefix": Workload(
        "shared_prefix:rate=10,duration=400,groups=64,prefix=6000,block=16,input=8000,output=300",
        lambda load: WorkloadOptions(speed=load),
        32.0,
    ),
    "bursts": Workload(
        "gamma:rate=10,cv=4,duration=400,input=4000,output=250,input_cv=1.5,output_cv=1",
        lambda load: WorkloadOptions(speed=load),
        32.0,
    ),
    "multi-turn": Workload(
        "multi_turn:rate=1,duration=600,turns=8,input=1500,output=250,system=2000",
        lambda load: WorkloadOptions(speed=load),
        64.0,
    ),
}


class Task(NamedTuple):
    """One run."""

    workload: str
    traces: str
    policy: str
    load: float
    seed: int


def run(task: Task) -> Summary:
    """Simulate and sum up."""
    workload = workload_of(task.workload, task.traces)
    settings = settle({}, {}, CONFIG, simulated=True)
    setup = prepare(settings, CONFIG, SimulateOptions(trace=workload.source, options=WorkloadOptions(), seed=task.seed))
    open_to_all = task.policy != "jedlik"
    gateway = msgspec.structs.replace(setup.gateway, shed=not open_to_all, max_in_flight=1 << 20)
    policy = "jedlik" if task.policy == OPEN else task.policy
    setup = msgspec.structs.replace(setup, gateway=gateway, policy=partial(make, policy))
    done = simulate(setup, load(workload.source, workload.scaled(task.load), task.seed))
    return summarise(done, SLO, task.policy, task.seed)


def workload_of(name: str, traces: str) -> Workload:
    if name in GENERATED:
        return GENERATED[name]
    file, make_one = FILES[name]
    return make_one(str(Path(traces) / file))


def goodput(summary: Summary) -> float:
    return summary.goodput or 0.0


def calibrated(name: str, traces: str, wanted: float) -> float:
    """The load at which Dynamo's cost has this goodput: bisected on a logarithmic scale."""
    low, high = 0.05, workload_of(name, traces).most
    if high > 64:
        low = 1.0
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        if goodput(run(Task(name, traces, "dynamo", middle, 0))) > wanted:
            low = middle
        else:
            high = middle
    return high if wanted == OVERLOAD else (low * high) ** 0.5


def show(name: str, load: float, results: dict[str, list[Summary]]) -> None:
    """One table, best first."""
    print(f"\n{name} at load {load:.2f}: goodput over offered requests, mean (min-max) of the seeds")
    print(f"{'policy':16} {'goodput':>22} {'TTFT mean':>10} {'p90':>8} {'ITL p90':>9} {'hits':>7} {'shed':>7}")
    means = {policy: statistics.mean(map(goodput, runs)) for policy, runs in results.items()}
    for policy in sorted(means, key=lambda p: -means[p]):
        runs = results[policy]
        goods = [goodput(r) for r in runs]
        ttft = statistics.mean(r.ttft_s.mean or 0.0 for r in runs)
        ttft90 = statistics.mean(r.ttft_s.p90 or 0.0 for r in runs)
        itl90 = statistics.mean(r.itl_s.p90 or 0.0 for r in runs)
        hits = statistics.mean(r.hit_rate or 0.0 for r in runs)
        shed = statistics.mean(r.shed / r.requests for r in runs)
        spread = f"{means[policy]:6.1%} ({min(goods):.1%}-{max(goods):.1%})"
        print(
            f"{policy:16} {spread:>22} {ttft:9.2f}s {ttft90:7.2f}s {itl90 * 1e3:7.1f}ms {hits:6.1%} {shed:6.1%}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", required=True, help="folder with the trace files")
    parser.add_argument("--workloads", default=",".join([*FILES, *GENERATED]))
    parser.add_argument("--policies", default=",".join(NAMES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--loads", help="workload=moderate/overload,...: skips the search for loads")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", help="write every run's figures here")
    args = parser.parse_args()
    given = dict(part.split("=") for part in args.loads.split(",")) if args.loads else {}
    names: list[str] = args.workloads.split(",")
    kept: list[dict[str, object]] = []
    with ProcessPoolExecutor(args.processes) as pool:
        for name, loads in zip(names, pool.map(partial(_loads, traces=args.traces, given=given), names), strict=True):
            for load in loads:
                kept += compare(pool, name, args.traces, load, args.policies.split(","), args.seeds)
    if args.json:
        Path(args.json).write_text(json.dumps(kept, indent=1))


def _loads(name: str, traces: str, given: dict[str, str]) -> list[float]:
    if name in given:
        return [float(load) for load in given[name].split("/")]
    return [calibrated(name, traces, wanted) for wanted in (MODERATE, OVERLOAD)]


def compare(
    pool: ProcessPoolExecutor, name: str, traces: str, load: float, policies: Iterable[str], seeds: int
) -> list[dict[str, object]]:
    """All policies and seeds at one load."""
    tasks = [Task(name, traces, policy, load, seed) for policy in policies for seed in range(seeds)]
    results: dict[str, list[Summary]] = {}
    kept: list[dict[str, object]] = []
    for task, summary in zip(tasks, pool.map(run, tasks), strict=True):
        results.setdefault(task.policy, []).append(summary)
        kept.append(task._asdict() | {"goodput": goodput(summary), "shed": summary.shed, "requests": summary.requests})
    show(name, load, results)
    return kept


if __name__ == "__main__":
    main()
