"""A load step against real workers, again and again: the planner adds some, TTFT recovers, they leave; nobody fails.

    python bench/scaling_live.py [--engine simulated|torch] [--cycles 5] [--servers 4] [--keep FOLDER]

Every server is a `jedlik serve` of its own that begins with one worker and may have `planner.budget`. Each cycle is a
burst that one worker can't bear, then a lull of a length drawn by the seed (so that no season can be learnt) in which
one is enough. All requests stream; one that does not end with all its tokens is a failure. With simulated workers what
was sent is then given to `jedlik simulate` with the same file, and the planner's actions there are compared with those
of the live planner's log. `--record` makes the record of tests/scenarios/test_live_scaling.py. Prints Markdown.
"""

import argparse
import asyncio
import contextlib
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import uvloop
import yaml

from jedlik.core.effects import End, Launch, Retire
from jedlik.core.events import MemberReady
from jedlik.live.recorder import PlannerTurn, read
from served import Exchange, ask, request, serving

SETTINGS, ARRIVALS, PROFILE = "scaling.yaml", "arrivals.csv", "profile.json"
RECORDED = ("simulated", 2, 1, (70.0, 80.0), 0.4)
"""Engine, cycles, servers, lulls, attainment: of what one worker, or three, can do the load is far away."""
RECORD = Path(__file__).parent.parent / "tests/scenarios/live_scaling"
LEAD_S = 8.0
"""Of a lull, before the first burst: gateways have reported."""
POLL_S = 0.2
BACKLOG_S = 4.0
"""After the last worker has come, what has gathered is not gone at once."""


class Load(NamedTuple):
    """What is asked of one server."""

    low: float
    """Requests/s."""
    high: float
    burst_s: float
    lull_s: tuple[float, float]
    prompt_tokens: int
    answer_tokens: int
    """Both drawn from within 20 % of these."""


LOADS = {
    "simulated": Load(0.4, 7.0, 20.0, (55.0, 75.0), 250, 20),
    "torch": Load(0.4, 7.0, 25.0, (55.0, 65.0), 60, 90),
}
COSTS = {
    "prefill_base_s": 0.02,
    "prefill_token_s": 0.001,
    "prefill_pair_s": 0.0,
    "decode_base_s": 0.02,
    "decode_sequence_s": 0.002,
    "context_token_s": 0.0,
}
"""Of the simulated engine: a worker takes three such requests a second."""


class Served(NamedTuple):
    """How."""

    max_sequences: int
    ttft_s: float
    itl_s: float | None
    start_s: float


SERVED = {"simulated": Served(32, 1.0, 0.2, 2.0), "torch": Served(1, 0.6, None, 8.0)}


class Sent(NamedTuple):
    """One request."""

    at_s: float
    """Since the first cycle began."""
    cycle: int
    prompt: list[int]
    tokens: int


class Got(NamedTuple):
    """What became of it."""

    sent: Sent
    sent_s: float
    """By the clock of this machine, as in the planner's log."""
    ttft_s: float
    failure: str


class Action(NamedTuple):
    """The planner's."""

    at_s: float
    kind: str
    """start, or retire."""
    worker: str


class Cycle(NamedTuple):
    """Since the first cycle began."""

    begin_s: float
    burst_s: float
    lull_s: float
    end_s: float


def drawn(load: Load, cycles: int, seed: int) -> tuple[list[Cycle], list[Sent]]:
    chance, at_s = random.Random(seed), 0.0
    found: list[Cycle] = []
    requests: list[Sent] = []
    for number in range(cycles):
        burst_s = at_s + LEAD_S
        lull_s = burst_s + load.burst_s
        found.append(Cycle(at_s, burst_s, lull_s, lull_s + chance.uniform(*load.lull_s)))
        for rate, end_s in zip((load.low, load.high, load.low), found[-1][1:], strict=True):
            while (next_s := at_s + chance.uniform(0.5, 1.5) / rate) < end_s:
                at_s = next_s
                prompt = [chance.randrange(20, 400) for _ in range(about(chance, load.prompt_tokens))]
                requests.append(Sent(at_s, number, prompt, about(chance, load.answer_tokens)))
            at_s = end_s
    return found, requests


def about(chance: random.Random, mean: int) -> int:
    return chance.randint(mean * 8 // 10, mean * 12 // 10)


def settings(args: argparse.Namespace) -> dict[str, object]:
    """One file for `jedlik serve` and `jedlik simulate`. Of a burst that nobody announced a quarter is late before
    workers have come; who promises more than that has to keep workers in the lulls, and the planner does."""
    served = SERVED[args.engine]
    simulated = args.engine == "simulated"
    promised = {"budget": args.budget, "attainment": args.attainment}
    planner = promised | {"tick_s": args.tick, "start_s": served.start_s, "drain_s": 30.0}
    pool = {"name": "worker", "count": 1, "profile": PROFILE, "start_s": served.start_s}
    return {
        "worker": {"max_sequences": served.max_sequences, "max_step_tokens": 512},
        "gateway": {"slo_ttft_s": served.ttft_s, "slo_itl_s": served.itl_s, "shed": False, "report_s": 0.5},
        "planner": planner,
        **({"profile": PROFILE, "pools": [pool]} if simulated else {}),
    }


async def play(port: int, requests: Sequence[Sent]) -> tuple[float, list[Got], list[tuple[float, int]]]:
    """Send all at their times. (when the first cycle began, answers, (time, workers that serve))."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    seen: list[tuple[float, int]] = []
    watching = asyncio.create_task(watch(port, seen))
    tasks = []
    for sent in requests:
        await asyncio.sleep(began_s + sent.at_s - loop.time())
        tasks.append(asyncio.create_task(one(port, sent)))
    got = list(await asyncio.gather(*tasks))
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    return began_s, got, seen


async def one(port: int, sent: Sent) -> Got:
    body = {"model": "tiny-random", "prompt": sent.prompt, "max_tokens": sent.tokens, "ignore_eos": True}
    asked_s = time.monotonic()
    try:
        exchange = await ask(port, request("completions", body))
        answer = exchange.answer()
    except (SystemExit, OSError, StopIteration, IndexError) as error:
        return Got(sent, asked_s, float("nan"), f"{type(error).__name__} {error}")
    wrong = "" if answer.output_tokens == sent.tokens else f"{answer.output_tokens} tokens of {sent.tokens}"
    return Got(sent, answer.sent_s, answer.ttft_s, wrong)


async def watch(port: int, seen: list[tuple[float, int]]) -> None:
    """Workers over time, as GET /plan has them."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(OSError, ValueError):
            states = [member["state"] for member in body_of(await ask(port, PLAN))["members"]]
            if not seen or seen[-1][1] != states.count("serving"):
                seen.append((loop.time(), states.count("serving")))
        await asyncio.sleep(POLL_S)


PLAN = b"GET /plan HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n"


def body_of(exchange: Exchange) -> dict[str, list[dict[str, str]]]:
    whole = b"".join(data for _, data in exchange.reads)
    return dict(json.loads(whole[whole.index(b"{") : whole.rindex(b"}") + 1]))


# --- what the planner did -------------------------------------------------------------------------------------------


def logged(folder: Path) -> tuple[float, list[Action], list[float]]:
    """(when the planner began, what it ordered since, how long starts took)."""
    (log,) = folder.glob("planner@*.log")
    turns = list(read(log, PlannerTurn))
    began_s = turns[0].now
    ordered: dict[tuple[str, int], float] = {}
    actions, starts_s = [], []
    for turn in turns:
        if isinstance(turn.event, MemberReady) and (turn.event.name, turn.event.start) in ordered:
            starts_s.append(turn.now - ordered[turn.event.name, turn.event.start])
        for effect in turn.effects:
            if isinstance(effect, Launch):
                ordered[effect.name, effect.start] = turn.now
            if isinstance(effect, Launch | Retire | End) and turn.now > began_s:
                kind = "start" if isinstance(effect, Launch) else "retire"
                actions.append(Action(turn.now - began_s, kind, effect.name))
    return began_s, actions, starts_s


def simulated(folder: Path) -> list[Action]:
    """What the same planner does in the simulator with what was sent here."""
    told = folder / "simulated.json"
    command = [sys.executable, "-m", "jedlik", "simulate", "--config", SETTINGS, "--trace", ARRIVALS]
    subprocess.run([*command, "--json", told.name], cwd=folder, check=True, capture_output=True)
    found = json.loads(told.read_text())["planner_action_list"]
    return [Action(one["at_s"], one["kind"].replace("end", "retire"), one["worker"]) for one in found]


def write_arrivals(folder: Path, began_s: float, got: Sequence[Got]) -> None:
    rows = sorted((one.sent_s - began_s, len(one.sent.prompt), one.sent.tokens) for one in got)
    lines = [f"{at_s * 1000:.3f},{prompt},{tokens}" for at_s, prompt, tokens in rows]
    (folder / ARRIVALS).write_text("\n".join(["timestamp_ms,input_length,output_length", *lines, ""]))


# --- one server -----------------------------------------------------------------------------------------------------


class Done(NamedTuple):
    """Of one server."""

    cycles: list[Cycle]
    began_s: float
    """The planner, on this machine's clock; the first cycle began `offset_s` later."""
    offset_s: float
    got: list[Got]
    seen: list[tuple[float, int]]
    live: list[Action]
    predicted: list[Action] | None
    starts_s: list[float]


def run(args: argparse.Namespace, number: int, folder: Path) -> Done:
    load = LOADS[args.engine]
    cycles, requests = drawn(load._replace(lull_s=args.lull or load.lull_s), args.cycles, args.seed + number)
    (folder / PROFILE).write_text(json.dumps(profile(), indent=1))
    (folder / SETTINGS).write_text(yaml.safe_dump(settings(args)))
    flags = ("--config", SETTINGS, "--engine", args.engine, "--event-log", ".", "--device", "cpu", "--threads", "1")
    with contextlib.chdir(folder), serving("tiny-random", *flags, workers=1) as port:
        first_s, got, seen = uvloop.run(play(port, requests))
    began_s, live, starts_s = logged(folder)
    write_arrivals(folder, began_s, got)
    for path in [*folder.glob("gateway@*"), *folder.glob("worker-*@*")]:
        path.unlink()
    predicted = None
    if args.engine == "simulated":
        found = settings(args)
        found["pools"][0]["start_s"] = round(float(np.median(starts_s)), 2)  # type: ignore[index]
        (folder / SETTINGS).write_text(yaml.safe_dump(found))
        predicted = simulated(folder)
    return Done(cycles, began_s, first_s - began_s, got, seen, live, predicted, starts_s)


def profile() -> dict[str, object]:
    names = {"name": "bench/slow/core", "model": "bench", "device": "cpu", "backend": "simulated"}
    return {**names, "gpus": 0, "costs": COSTS, "kv_tokens": 65536, "kv_bytes_per_token": 2}


# --- what is told ---------------------------------------------------------------------------------------------------


def told(done: Done, number: int) -> list[str]:
    return [row(done, f"{number + 1}.{index + 1}", index) for index in range(len(done.cycles))]


def row(done: Done, name: str, index: int) -> str:
    """One cycle's."""
    cycle = done.cycles[index]
    mine = [one for one in done.got if one.sent.cycle == index]
    workers = [n for _, n in changes(done, cycle.burst_s, cycle.end_s)]
    most = max(workers)
    more_s = next(at_s for at_s, n in changes(done, cycle.burst_s, cycle.end_s) if n == most) + BACKLOG_S
    ends = (cycle.burst_s, min(max(more_s, cycle.burst_s), cycle.lull_s), cycle.lull_s, cycle.end_s)
    parts: list[list[float]] = [[], [], [], []]
    for one in mine:
        parts[bisect_right(ends[:3], one.sent.at_s)].append(one.ttft_s)
    failed = sum(bool(one.failure) for one in mine)
    cells = [name, str(len(mine)), str(failed), *(quantiles(part) for part in parts)]
    cells += [" ".join(map(str, workers)), acts(done.live, done.offset_s, cycle)]
    cells += ["-" if done.predicted is None else acts(done.predicted, done.offset_s, cycle)]
    return "| " + " | ".join(cells) + " |"


def changes(done: Done, begin_s: float, end_s: float) -> list[tuple[float, int]]:
    """(time, workers that serve): at the beginning, and whenever that changes."""
    times = [at_s - done.began_s - done.offset_s for at_s, _ in done.seen]
    first = max(0, bisect_right(times, begin_s) - 1)
    found = [(at_s, n) for at_s, (_, n) in zip(times[first:], done.seen[first:], strict=True) if at_s < end_s]
    return [(max(begin_s, at_s), n) for at_s, n in found]


def quantiles(times_s: list[float]) -> str:
    return f"{np.nanmedian(times_s):.2f}, {np.nanpercentile(times_s, 95):.2f}" if times_s else "-"


def acts(actions: list[Action], offset_s: float, cycle: Cycle) -> str:
    """Seconds after the burst began."""
    signs = {"start": "+", "retire": "-"}
    mine = [one for one in actions if cycle.begin_s <= one.at_s - offset_s < cycle.end_s]
    return " ".join(f"{one.at_s - offset_s - cycle.burst_s:.1f}{signs[one.kind]}" for one in mine)


HEAD = (
    "| cycle | requests | failed | TTFT before: p50, p95 s | burst, too few | burst, enough | lull |"
    " workers | orders, s since the burst | simulated |"
)


def matched(done: Done) -> str:
    """How the simulator's orders differ from the live planner's."""
    assert done.predicted is not None
    kinds = [[one.kind for one in actions] for actions in (done.live, done.predicted)]
    if kinds[0] != kinds[1]:
        return f"{len(done.live)} orders live, {len(done.predicted)} simulated: not the same sequence"
    pairs = list(zip(done.live, done.predicted, strict=True))
    off_s = [abs(one.at_s - other.at_s) for one, other in pairs]
    starts_s, releases_s = (
        [off for off, (one, _) in zip(off_s, pairs, strict=True) if one.kind == kind] for kind in ("start", "retire")
    )
    apart = f"starts at most {max(starts_s):.1f} s apart, releases {max(releases_s):.1f} s"
    return f"the same {len(pairs)} orders, {apart}"


def report(dones: Sequence[Done]) -> None:
    print(HEAD + "\n" + "|---" * 10 + "|")
    for number, done in enumerate(dones):
        print(*told(done, number), sep="\n")
    everybody = [one for done in dones for one in done.got]
    failures = [one.failure for one in everybody if one.failure]
    print(f"\n{sum(len(done.cycles) for done in dones)} cycles, {len(everybody)} requests, {len(failures)} failed")
    print(*failures[:10], sep="\n")
    starts_s = [start_s for done in dones for start_s in done.starts_s]
    print(f"start-up {min(starts_s):.1f}-{max(starts_s):.1f} s, median {np.median(starts_s):.1f} s")
    for number, done in enumerate(dones):
        if done.predicted is not None:
            print(f"simulated, server {number + 1}: {matched(done)}")


def record(folder: Path) -> None:
    """Keep for the test: settings, arrivals, profile, the planner's log, and what its node was made of."""
    RECORD.mkdir(exist_ok=True)
    for name in (SETTINGS, ARRIVALS, PROFILE):
        (RECORD / name).write_bytes((folder / name).read_bytes())
    (log,) = folder.glob("planner@*.log")
    (RECORD / "planner.log.gz").write_bytes(gzip.compress(log.read_bytes(), mtime=0))
    made = json.loads(log.with_suffix(".json").read_text())
    told = yaml.safe_load((folder / SETTINGS).read_text())
    config = {"model": "tiny-random", "engine": "simulated", "workers": 1}
    made["config"] = config | {key: value for key, value in told.items() if key != "pools"}
    for place in made["places"]:
        place["path"] = ["host"]
    (RECORD / "planner.json").write_text(json.dumps(made, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("simulated", "torch"), default="simulated")
    parser.add_argument("--cycles", type=int, default=5, help="of each server")
    parser.add_argument("--servers", type=int, default=1, help="side by side")
    parser.add_argument("--budget", type=int, default=3)
    parser.add_argument("--tick", type=float, default=1.0)
    parser.add_argument("--attainment", type=float, default=0.4)
    parser.add_argument("--lull", type=float, nargs=2, help="seconds: shortest and longest")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a new folder for what each server leaves")
    parser.add_argument("--record", action="store_true", help="two cycles, kept for the test")
    args = parser.parse_args()
    if args.record:
        args.engine, args.cycles, args.servers, args.lull, args.attainment = RECORDED
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(args.servers) as processes:
        folder = (args.keep or Path(name)).absolute()
        folders = [folder / str(number + 1) for number in range(args.servers)]
        for one in folders:
            one.mkdir(parents=True)
        report(list(processes.map(run, [args] * args.servers, range(args.servers), folders)))
        if args.record:
            record(folders[0])
            print(f"kept in {RECORD}")


if __name__ == "__main__":
    main()
