"""Gateway overhead beside NVIDIA Dynamo's frontend, in one run: CPU per request and token, latency of one connection.

Starts both systems on loopback, each with two workers that compute nothing, and puts the same load on them in turn,
repetition by repetition, so that a change in the machine's speed meets both. Scenarios, as the peers' harness names
them: a1t 1 output token, 32 connections; b 128 streams x 64 tokens; c1q one stream x 16 tokens; ds 8,000-word prompts
whose first 7,000 words repeat; p paced engines, one chunk a read.

    python bench/gateway_overhead.py --peers ../shared/peers --dynamo-python venv-dynamo/bin/python --model-dir model

The harness (load generator, how to install Dynamo) is described in the README beside it. Without --dynamo-python only
jedlik is measured. Prints a Markdown table: median (min-max) and the ratio of medians.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

Result = dict[str, Any]
SCALE = {"a1t": 2, "b": 2, "c1q": 3, "ds": 2, "p": 1}


def harness(folder: Path) -> ModuleType:
    """The peers' harness as a module: its scenario table and its way to start Dynamo."""
    spec = importlib.util.spec_from_file_location("run_peers", folder / "run_peers.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def children(pid: int) -> dict[str, int]:
    """Names (process titles without `jedlik: `) and pids of a process's children."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        title = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0].decode()
        found[title.removeprefix("jedlik: ").split()[0]] = int(child)
    return found


def wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError):
            if urllib.request.urlopen(url + "/ready", timeout=1).status == 200:
                return
        if process.poll() is not None:
            raise SystemExit(f"jedlik ended with {process.returncode}")
        time.sleep(0.1)
    raise SystemExit("jedlik did not become ready in 30 s")


@contextlib.contextmanager
def jedlik(model_dir: str, port: int, *flags: str) -> Iterator[tuple[str, list[str]]]:
    """Serve with simulated engines; gives (url, --pid arguments)."""
    command = [sys.executable, "-m", "jedlik", "serve", model_dir, "--engine", "simulated", "--workers", "2"]
    command += ["--port", str(port), "--served-model-name", "m", *flags]
    with open(Path(tempfile.gettempdir()) / f"jedlik-{port}.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_ready(url, process)
        pids = {"supervisor": process.pid, **children(process.pid)}
        print("jedlik:", pids, file=sys.stderr)
        yield url, [f"frontend={pids['gateway']}", *(f"{n}={p}" for n, p in pids.items() if n.startswith("worker"))]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)


@contextlib.contextmanager
def dynamo(args: argparse.Namespace, name: str, port: int) -> Iterator[tuple[str, list[str]]]:
    """Dynamo's frontend and mocker as the harness starts them."""
    settings = argparse.Namespace(
        server=name, run_dir=tempfile.mkdtemp(), port=port, workers=2, dynamo_python=args.dynamo_python,
        load_python=args.dynamo_python, model_dir=args.model_dir,
    )  # fmt: skip
    peer = harness(args.peers).Peer(settings)
    try:
        url, _ = peer.up()
        yield url, [f"{n}={p.pid}" for n, p in peer.procs.items()]
    finally:
        peer.down()


def load(args: argparse.Namespace, scenario: str, repetition: int, server: tuple[str, list[str]]) -> Result:
    """One run of the load generator against one server."""
    url, pids = server
    options = list(harness(args.peers).SCEN[scenario])
    options[1] = str(int(int(options[1]) * SCALE[scenario] * args.scale))
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [args.load_python, str(args.peers / "openai_load.py"), "--url", url, "--model", "m", "--brief"]
        command += ["--label", scenario, "--seed", str(100 + repetition), "--out", out.name, *options]
        for pid in pids:
            command += ["--pid", pid]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
        print(done.stdout.decode().strip(), file=sys.stderr)
        return dict(json.load(out))


def figure(result: Result, what: str) -> float:
    """`front` or `workers` CPU in us per request or token, or e2e milliseconds."""
    side, _, per = what.partition(" ")
    if side == "e2e":
        return float(result["e2e_ms"]["p50"])
    key = f"cpu_us_per_{per}"
    names = [n for n in result["server"] if (n == "frontend") == (side == "front")]
    return sum(float(result["server"][n][key]) for n in names)


ROWS = {
    "a1t": ["front req", "workers req"],
    "b": ["front output_token", "workers output_token"],
    "c1q": ["e2e p50"],
    "ds": ["front req"],
    "p": ["front output_token", "workers output_token"],
}


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.1f} ({min(values):,.1f}-{max(values):,.1f})"


def report(scenario: str, runs: dict[str, list[Result]]) -> None:
    """Markdown rows of one scenario."""
    for what in ROWS[scenario]:
        columns = {name: [figure(r, what) for r in results] for name, results in runs.items()}
        ratio = ""
        if len(columns) == 2 and statistics.median(columns["dynamo"]):
            ratio = f"{statistics.median(columns['jedlik']) / statistics.median(columns['dynamo']):.2f}"
        cells = [spread(columns[name]) if name in columns else "-" for name in ("jedlik", "dynamo")]
        errors = sum(int(r["errors"]) for results in runs.values() for r in results)
        chunks = "/".join(str(results[-1].get("chunks_per_read")) for results in runs.values())
        print(f"| {scenario} {what} | {cells[0]} | {cells[1]} | {ratio} | {errors} | {chunks} |", flush=True)


def measure(args: argparse.Namespace, scenarios: list[str], paced: bool) -> None:
    """Both servers up, scenario by scenario, repetitions interleaved."""
    if not scenarios:
        return
    flags = ["--speedup", str(args.paced_speedup if paced else 1e6)]
    with contextlib.ExitStack() as stack:
        servers = {"jedlik": stack.enter_context(jedlik(args.model_dir, args.port, *flags))}
        if args.dynamo_python:
            name = "dynamo-kv-paced" if paced else "dynamo-kv"
            servers["dynamo"] = stack.enter_context(dynamo(args, name, args.port + 100))
        for scenario in scenarios:
            runs: dict[str, list[Result]] = {name: [] for name in servers}
            for repetition in range(args.repeat):
                for name, server in servers.items():
                    runs[name].append(load(args, scenario, repetition, server))
            report(scenario, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="folder of the peers' harness")
    parser.add_argument("--dynamo-python", help="interpreter of the environment that has Dynamo")
    parser.add_argument("--load-python", default=os.environ.get("LOAD_PYTHON", sys.executable))
    parser.add_argument("--model-dir", required=True, help="tokenizer folder, no weights needed")
    parser.add_argument("--scenario", default="a1t,b,c1q,ds,p")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies request counts")
    parser.add_argument("--paced-speedup", type=float, default=1.0, help="simulated engine's speed for scenario p")
    parser.add_argument("--port", type=int, default=18400)
    args = parser.parse_args()
    print("| scenario, figure | jedlik | Dynamo | ratio | errors | chunks a read |\n|---|---|---|---|---|---|")
    wanted = args.scenario.split(",")
    measure(args, [s for s in wanted if s != "p"], paced=False)
    measure(args, [s for s in wanted if s == "p"], paced=True)


if __name__ == "__main__":
    main()
