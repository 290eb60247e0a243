"""Prompts that arrive during decodes: one prefill and one decode worker, against two that do both.

    .venv/bin/python bench/disagg.py                    # about 10 minutes on two cores
    .venv/bin/python bench/disagg.py --parts overhead   # what a hand-off adds to a request on an idle server
    .venv/bin/python bench/disagg.py --parts same       # 1,000 greedy requests in fp32: equal answers

Real servers, a real model, a worker's thread for each of two cores. A few streams run all the time; prompts of 1,000 to
2,000 tokens arrive at a rate that keeps a prefill worker at most 40 % busy, each with a short answer. Told: the 99th
percentile of the time between tokens of the running streams, time to first token of those that arrive, both as ratios
of the arms, and the CPU that gateway, workers and this client took. Chunk size and requests are the same in both arms.
"""

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from served import TOKEN, Exchange, ask, request, serving

ARMS: dict[str, list[str]] = {"aggregated": [], "disaggregated": ["--prefill", "1", "--decode", "1"]}
COMMON = ["--threads", "1", "--kv-cache-bytes", "1GiB"]


class Seen(NamedTuple):
    """One arm in one round."""

    gaps_s: list[float]
    """Between tokens of the running streams."""
    ttfts_s: list[float]
    prefill_busy: float
    """Share of the time, of the worker that prefilled most."""
    cpu: dict[str, float]
    """Cores, by process."""


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def words(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(100, 30_000) for _ in range(count)]


def asked(args: argparse.Namespace, prompt: list[int], tokens: int) -> bytes:
    body: dict[str, object] = {"model": args.model, "prompt": prompt, "max_tokens": tokens}
    return request("completions", body | {"temperature": 0, "ignore_eos": True})


async def running(args: argparse.Namespace, port: int, rng: random.Random, end_s: float) -> list[Exchange]:
    """One stream after the other, until it is time."""
    loop, heard = asyncio.get_running_loop(), []
    while loop.time() < end_s:
        heard.append(await ask(port, asked(args, words(rng, 64), args.stream_tokens)))
    return heard


async def load(args: argparse.Namespace, port: int, seed: int) -> tuple[list[float], list[float]]:
    """(gaps between tokens of running streams, times to first token of prompts that arrived)."""
    loop, rng = asyncio.get_running_loop(), random.Random(seed)
    warm = [ask(port, asked(args, words(rng, 1500), 8)) for _ in range(2)]
    await asyncio.gather(*warm)
    begin_s, end_s = loop.time(), loop.time() + args.seconds
    streams = [
        asyncio.create_task(running(args, port, random.Random(f"{seed}/{n}"), end_s)) for n in range(args.streams)
    ]
    arrivals: list[asyncio.Task[Exchange]] = []
    await asyncio.sleep(1.0)
    while loop.time() < end_s:
        arrivals.append(asyncio.create_task(ask(port, asked(args, words(rng, rng.randint(1000, 2000)), 4))))
        await asyncio.sleep(rng.uniform(0.5, 1.5) / args.rate)
    ttfts = [(await arrival).answer().ttft_s for arrival in arrivals]
    gaps: list[float] = []
    for stream in streams:
        for exchange in await stream:
            times = [at_s for at_s, data in exchange.reads if TOKEN.search(data) and begin_s <= at_s <= end_s]
            gaps += [b - a for a, b in pairwise(times)]
    return gaps, ttfts


def cpu_s(parent: int) -> dict[str, float]:
    """CPU seconds of this process and of a server's, by name."""
    found = {"client": sum(os.times()[:2])}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            name = (folder / "cmdline").read_bytes().split(b"\0")[0].decode()
        except OSError:
            continue
        if int(stat[1]) == parent and name.startswith("jedlik: "):
            found[name.removeprefix("jedlik: ")] = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    return found


def supervisor() -> int:
    """The server that this process has started."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(stat[1]) == os.getpid() and stat[0] != "Z":
                return int(folder.name)
    raise SystemExit("no server")


def play(args: argparse.Namespace, arm: str, seed: int) -> Seen:
    flags = [*ARMS[arm], *COMMON, "--worker.max-step-tokens", str(args.chunk)]
    with serving(args.model, *flags, workers=2) as port:
        time.sleep(2)
        parent = supervisor()
        before, began = cpu_s(parent), time.monotonic()
        gaps, ttfts = asyncio.run(load(args, port, seed))
        after, took = cpu_s(parent), time.monotonic() - began
    cpu = {name: (after[name] - before.get(name, 0.0)) / took for name in sorted(after)}
    return Seen(gaps, ttfts, cpu.get("worker-0", 0.0), cpu)


FIGURES: dict[str, Callable[[Seen], float]] = {
    "ITL p99": lambda seen: percentile(seen.gaps_s, 0.99),
    "TTFT mean": lambda seen: statistics.fmean(seen.ttfts_s),
    "TTFT p50": lambda seen: statistics.median(seen.ttfts_s),
}


def streams(args: argparse.Namespace) -> None:
    rounds: list[dict[str, Seen]] = []
    for number in range(args.rounds):
        order = list(ARMS) if number % 2 else list(ARMS)[::-1]
        seen = {arm: play(args, arm, number) for arm in order}
        rounds.append(seen)
        for arm, one in seen.items():
            cpu = {name: round(cores, 2) for name, cores in one.cpu.items()}
            print(
                f"round {number} {arm}: ITL p50 {1e3 * statistics.median(one.gaps_s):.1f} p99 "
                f"{1e3 * percentile(one.gaps_s, 0.99):.1f} ms of {len(one.gaps_s)}; TTFT mean "
                f"{statistics.fmean(one.ttfts_s):.3f} p50 {statistics.median(one.ttfts_s):.3f} s of {len(one.ttfts_s)} "
                f"cores {cpu}",
                flush=True,
            )
    for what, figure in FIGURES.items():
        ratios = sorted(round(figure(r["disaggregated"]) / figure(r["aggregated"]), 2) for r in rounds)
        print(f"{what}, disaggregated over aggregated: median {statistics.median(ratios):.2f}, all {ratios}")


async def singles(args: argparse.Namespace, ports: dict[str, int]) -> dict[str, list[float]]:
    """Times to first token of prompts one by one, at every arm in turn."""
    rng, found = random.Random(5), {name: list[float]() for name in ports}
    for number in range(args.overhead_requests):
        sent = asked(args, words(rng, rng.randint(1000, 2000)), 4)
        for name in sorted(ports, reverse=bool(number % 2)):
            found[name].append((await ask(ports[name], sent)).answer().ttft_s)
    return found


def overhead(args: argparse.Namespace) -> None:
    """The same prompts at an idle aggregated worker and at an idle pair."""
    with pair(args, "auto") as ports:
        found = asyncio.run(singles(args, ports))
    pairs = zip(found["disaggregated"], found["aggregated"], strict=True)
    extra = sorted(1e3 * (d - a) for d, a in pairs)
    quartiles = extra[len(extra) // 4], extra[-len(extra) // 4 - 1]
    base = 1e3 * statistics.median(found["aggregated"])
    print(
        f"a hand-off adds {statistics.median(extra):.1f} ms, median (quartiles {quartiles[0]:.1f} {quartiles[1]:.1f}), "
        f"on a TTFT of {base:.0f} ms, {len(extra)} prompts of 1,000 to 2,000 tokens"
    )


def same(args: argparse.Namespace) -> None:
    """Greedy, fp32: is every answer the same, token by token? Several at once, so that batches differ."""

    async def texts(port: int, prompts: list[bytes]) -> list[str]:
        gate = asyncio.Semaphore(args.at_once)

        async def one(sent: bytes) -> str:
            async with gate:
                return (await ask(port, sent)).answer().text

        return await asyncio.gather(*map(one, prompts))

    rng = random.Random(7)
    prompts = [asked(args, words(rng, rng.randint(40, 140)), 8) for _ in range(args.same_requests)]
    with pair(args, "float32") as ports:
        found = [asyncio.run(texts(port, prompts)) for port in ports.values()]
        handed = handed_off(ports["disaggregated"])
    differ = sum(one != other for one, other in zip(*found, strict=True))
    print(f"greedy fp32: {differ} of {len(prompts)} answers differ; {handed:.0f} were handed off")


def handed_off(port: int) -> float:
    """Hand-offs that a server has completed."""
    told = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    lines = [line for line in told.splitlines() if line.startswith("jedlik_handoff_completed_total")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@contextlib.contextmanager
def pair(args: argparse.Namespace, dtype: str) -> Iterator[dict[str, int]]:
    """One aggregated worker, and one pair; their ports."""
    common = [*COMMON, "--worker.max-step-tokens", str(args.chunk), "--dtype", dtype]
    with (
        serving(args.model, *common, workers=1) as one,
        serving(args.model, *ARMS["disaggregated"], *common, workers=2) as other,
    ):
        yield {"aggregated": one, "disaggregated": other}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument(
        "--parts", nargs="+", choices=["streams", "overhead", "same"], default=["streams", "overhead", "same"]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--stream-tokens", type=int, default=300)
    parser.add_argument("--rate", type=float, default=0.08, help="prompts a second")
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--overhead-requests", type=int, default=30)
    parser.add_argument("--same-requests", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=4)
    args = parser.parse_args()
    for part in args.parts:
        {"streams": streams, "overhead": overhead, "same": same}[part](args)


if __name__ == "__main__":
    main()
