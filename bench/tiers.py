"""Multi-turn conversations larger than the device's cache: what tiers save, and that they never cost.

    .venv/bin/python bench/tiers.py                 # about 15 minutes on two cores
    .venv/bin/python bench/tiers.py --parts tiers   # mean TTFT with host memory and disk, over that of recomputing
    .venv/bin/python bench/tiers.py --parts rates   # the same requests with and without tiers, by hit rate

Real servers (`jedlik serve`, one PyTorch worker on one thread), a real model, requests one after the other over HTTP.
The working set of the conversations is four times the device's cache; every turn's prompt is the history and 180 tokens
more. Arms take turns, request by request, on servers that run side by side and idle meanwhile. Ratios are of the very
same request in two arms.
"""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jedlik.models.files import resolve
from jedlik.models.info import block_bytes, layout, read
from served import Answer, ask, request, serving

BLOCK_SIZE = 16
HISTORY, NEW, ANSWER = 1500, 180, 12
TALKS, TURNS = 6, 3
OVER_POOL = 4
RATES = (0, 25, 50, 75, 100)
PER_RATE, RATE_TALKS = 8, 4


class Arm(NamedTuple):
    """One server."""

    name: str
    flags: list[str]


class Turn(NamedTuple):
    """A prompt, by its token ids, and whether it goes on from an earlier one."""

    prompt: list[int]
    follows: bool


def pool_bytes(model: str, dtype: str, tokens: int) -> int:
    """A device cache for so many tokens."""
    shape = layout(read(resolve(model).path), dtype, BLOCK_SIZE)
    return (tokens // BLOCK_SIZE + 1) * block_bytes(shape)


def conversations(rng: random.Random, talks: int, turns: int) -> list[Turn]:
    """Round robin: a conversation's next turn comes when all others have had theirs: its blocks have left by then."""
    said = [[rng.randrange(100, 30_000) for _ in range(HISTORY)] for _ in range(talks)]
    found = []
    for turn in range(turns):
        for history in said:
            history += [rng.randrange(100, 30_000) for _ in range(NEW)]
            found.append(Turn(list(history), turn > 0))
    return found


def at_rate(rng: random.Random, percent: int, requests: int) -> list[Turn]:
    """Requests of one length, so many per cent of which go on from a conversation that had its last turn long ago."""
    talks = [[rng.randrange(100, 30_000) for _ in range(HISTORY)] for _ in range(RATE_TALKS)]
    found = [Turn(list(talk), False) for talk in talks]
    for number in range(requests):
        follows = number * percent // 100 != (number + 1) * percent // 100
        head = talks[number % RATE_TALKS] if follows else [rng.randrange(100, 30_000) for _ in range(HISTORY)]
        found.append(Turn(head + [rng.randrange(100, 30_000) for _ in range(NEW)], follows))
    return found


async def play(ports: dict[str, int], model: str, turns: list[Turn]) -> dict[str, list[Answer]]:
    """Every turn at every arm, one after the other, in an order that changes."""
    heard: dict[str, list[Answer]] = {name: [] for name in ports}
    names = list(ports)
    for number, turn in enumerate(turns):
        asked: dict[str, object] = {"model": model, "prompt": turn.prompt, "max_tokens": ANSWER}
        sent = request("completions", asked | {"temperature": 0, "ignore_eos": True})
        for name in names[number % len(names) :] + names[: number % len(names)]:
            exchange = await ask(ports[name], sent)
            heard[name].append(exchange.answer())
    return heard


def arms(args: argparse.Namespace, folder: Path, names: list[str]) -> Iterator[Arm]:
    working_set = TALKS * (HISTORY + TURNS * (NEW + ANSWER))
    pool = pool_bytes(args.model, args.dtype, working_set // OVER_POOL)
    common = ["--workers", "1", "--threads", "1", "--dtype", args.dtype, "--kv-cache-bytes", str(pool)]
    room = str(2 * pool * OVER_POOL)
    tiers = {
        "none": [],
        "host": ["--kv-host-bytes", room],
        "disk": ["--kv-disk", f"{folder}/disk:{room}", "--worker.disk-admission", "all"],
        "both": ["--kv-host-bytes", str(pool), "--kv-disk", f"{folder}/both:{room}", "--worker.disk-admission", "all"],
    }
    for name in names:
        yield Arm(name, [*common, *tiers[name]])


@contextlib.contextmanager
def servers(args: argparse.Namespace, names: list[str]) -> Iterator[dict[str, int]]:
    with (
        tempfile.TemporaryDirectory(prefix="jedlik-bench-", dir=args.folder) as folder,
        contextlib.ExitStack() as stack,
    ):
        yield {
            arm.name: stack.enter_context(serving(args.model, *arm.flags, workers=1))
            for arm in arms(args, Path(folder), names)
        }


def tiers(args: argparse.Namespace) -> None:
    with servers(args, ["none", "host", "disk", "both"]) as ports:
        for seed in range(args.rounds):
            turns = conversations(random.Random(seed), TALKS, TURNS)
            heard = asyncio.run(play(ports, args.model, turns))
            same = all(a.text == b.text for name in ports for a, b in zip(heard["none"], heard[name], strict=True))
            later = [number for number, turn in enumerate(turns) if turn.follows]
            mean = {name: statistics.fmean(a[n].ttft_s for n in later) for name, a in heard.items()}
            cached = {
                name: statistics.fmean(a[n].cached_tokens / a[n].prompt_tokens for n in later)
                for name, a in heard.items()
            }
            told = {n: f"{mean[n]:.3f} s ({mean[n] / mean['none']:.2f}, {cached[n]:.0%} cached)" for n in ports}
            print(f"round {seed}: mean TTFT of {len(later)} later turns: {told}; answers equal: {same}", flush=True)


def rates(args: argparse.Namespace) -> None:
    with servers(args, ["none", "host", "disk"]) as ports:
        for percent in args.rates:
            turns = at_rate(random.Random(percent), percent, PER_RATE)
            heard = asyncio.run(play(ports, args.model, turns))
            for name in ("host", "disk"):
                pairs = zip(heard[name][RATE_TALKS:], heard["none"][RATE_TALKS:], strict=True)
                found = sorted(a.ttft_s / b.ttft_s for a, b in pairs)
                middle = statistics.median(found)
                quartiles = found[len(found) // 4], found[-len(found) // 4 - 1]
                line = {"hits": f"{percent} %", "arm": name, "median": round(middle, 3)}
                print(json.dumps(line | {"quartiles": [round(q, 3) for q in quartiles]}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", help="where the disk tier lies; default: the temporary folder")
    parser.add_argument("--rates", nargs="+", type=int, default=RATES, help="hits, per cent")
    parser.add_argument("--parts", nargs="+", choices=["tiers", "rates"], default=["tiers", "rates"])
    args = parser.parse_args()
    if "tiers" in args.parts:
        tiers(args)
    if "rates" in args.parts:
        rates(args)


if __name__ == "__main__":
    main()
