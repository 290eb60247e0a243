"""How fast the simulator is: beside Dynamo's compiled replay, at 1,000 workers, per event; and what it remembers.

    .venv/bin/python bench/simulator.py --trace TRACE [--dynamo PYTHON --replay dynamo_replay_bench.py] [--repeat 3]

TRACE is the Mooncake conversation trace. With --dynamo (a Python with ai-dynamo-runtime) and --replay (a script that
prints one JSON object per run with "router" and "sim_req_per_cpu_s") both simulators run the same trace in turns: 8
workers, KV routing, blocks of 64, 8,192 blocks each. Ours runs the production nodes with heartbeats and load reports as
`jedlik serve` has them, and once more with a report per second (Dynamo's replay has none). CPU seconds of one process.
"""

import argparse
import gzip
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from jedlik.core.config import GatewayConfig, WorkerConfig
from jedlik.perf.profile import model
from jedlik.profiles.catalogue import lookup
from jedlik.sim.outcome import SimulationRun
from jedlik.sim.setup import Setup, SimPool
from jedlik.sim.workload.load import load
from jedlik.sim.workload.options import WorkloadOptions
from jedlik.sim.world import simulate

BLOCK, BLOCKS = 64, 8192
LARGE, COPIES, LARGE_S = 1000, 188, 60.0


def setup(workers: int, block_size: int, kv_tokens: int, every_s: tuple[float, float] = (0.25, 0.1)) -> Setup:
    """A fleet of Qwen3-32B on two H200 each; `every_s` are heartbeat and load period."""
    profile = lookup("qwen3-32b-fp8/h200/tp2")
    worker = WorkerConfig(
        block_size=block_size,
        max_sequences=256,
        max_step_tokens=8192,
        run_ahead=False,
        heartbeat_s=every_s[0],
        load_period_s=every_s[1],
    )
    pool = SimPool(
        name="p", count=workers, profile=profile.name, model=model(profile), gpus=2.0, kv_tokens=kv_tokens, start_s=60.0
    )
    return Setup(model="m", pools=(pool,), worker=worker, gateway=GatewayConfig(max_in_flight=1 << 20))


def told(name: str, run: SimulationRun) -> float:
    """A line about a run; returns requests per CPU second."""
    rate = run.offered / run.cpu_s
    print(
        f"{name:44} {rate:8.0f} requests/CPU s {run.duration_s / run.cpu_s:8.1f} x real time "
        f"{run.cpu_s / run.events * 1e6:6.1f} us/event {run.events / run.offered:6.1f} events/request",
        flush=True,
    )
    return rate


def dynamo(python: str, script: str, trace: str) -> float:
    """Requests per CPU second of Dynamo's replay."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "trace.jsonl"
        with gzip.open(trace) if trace.endswith(".gz") else open(trace, "rb") as source, plain.open("wb") as target:
            shutil.copyfileobj(source, target)
        command = [python, script, "--trace", str(plain), "--workers", "8", "--repeat", "1"]
        command += ["--block-size", str(BLOCK), "--gpu-blocks", str(BLOCKS)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True, env={"DYN_LOG": "warn"}).stdout
    runs = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    return float(next(run["sim_req_per_cpu_s"] for run in runs if run["router"] == "kv_router"))


def speed(trace: str, python: str | None, script: str | None, repeat: int) -> None:
    """Ours and Dynamo's in turns, at 8 workers."""
    ratios: dict[str, list[float]] = {}
    for _ in range(repeat):
        theirs = dynamo(python, script, trace) if python and script else None
        for name, every_s in (("reports as in production", (0.25, 0.1)), ("a report a second", (1.0, 1.0))):
            run = simulate(setup(8, BLOCK, BLOCK * BLOCKS, every_s), load(trace, WorkloadOptions(), 0))
            ours = told(f"8 workers, blocks of {BLOCK}, {name}", run)
            if theirs is not None:
                ratios.setdefault(name, []).append(ours / theirs)
        if theirs is not None:
            print(f"{'Dynamo replay':44} {theirs:8.0f} requests/CPU s", flush=True)
    for name, found in ratios.items():
        print(f"ours / Dynamo, {name}: {statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})")


def large(trace: str, repeat: int) -> None:
    """1,000 workers, about half a request per second and worker."""
    options = WorkloadOptions(copies=COPIES, duration_s=LARGE_S)
    for _ in range(repeat):
        for name, every_s in (("reports as in production", (0.25, 0.1)), ("0.5 s and 0.25 s", (0.5, 0.25))):
            run = simulate(setup(LARGE, 512, 2400 * 512, every_s), load(trace, options, 0))
            told(f"{LARGE} workers, {name}", run)


def memory(trace: str) -> None:
    """Peak memory after a part of the trace and after all of it: what has passed is not kept (but for the records)."""
    for limit in (3000, 6000, 12000):
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); import simulator as s;"
            f"r = s.simulate(s.setup(8, 512, 2400 * 512), s.load(sys.argv[2], s.WorkloadOptions(limit={limit}), 0));"
            "print(len(r.outcomes), s.peak_mib())"
        )
        command = [sys.executable, "-c", code, str(Path(__file__).parent), trace]
        requests, mib = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        print(f"{requests} requests: peak {mib} MiB", flush=True)


def peak_mib() -> int:
    """Of this process since its program began: `ru_maxrss` would count its parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", required=True)
    parser.add_argument("--dynamo", help="Python interpreter with ai-dynamo-runtime")
    parser.add_argument("--replay", help="script that runs Dynamo's replay")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    speed(args.trace, args.dynamo, args.replay, args.repeat)
    large(args.trace, args.repeat)
    memory(args.trace)


if __name__ == "__main__":
    main()
