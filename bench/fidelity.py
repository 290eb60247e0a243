"""The simulator beside the real thing: the same requests sent to live processes and to `sim`, figure by figure.

    python bench/fidelity.py --part a                   # real processes, the simulated engine in real time: within 5 %
    python bench/fidelity.py --part b --profile FILE    # two torch workers on this machine: within 15 %
    jedlik profile smollm2-135m --device cpu --busy 2 --out FILE    # what b needs, made shortly before

Each repeat draws a workload from its seed (Poisson arrivals, prompts with shared prefixes, log-normal lengths), serves
it with a fresh `jedlik serve`, and runs it through the simulator with that server's settings. Requests of the first
`WARM_S` seconds are sent but not counted. Routing turns milliseconds, and the names that break ties, into other
placements: live takes one of many courses, the simulator takes `PLAYS`. Prints a Markdown table: figures over all
repeats, and how far apart single repeats were. `overhead` is what HTTP, gateway and client add to a first token: the
TTFT of lone prompts on the idle server, less the step that the profile says.
"""

import argparse
import asyncio
import gc
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import uvloop

from jedlik.core.config import WorkerConfig
from jedlik.core.tokens import unpack
from jedlik.models.cache import home
from jedlik.perf.linear import PhaseCosts
from jedlik.perf.profile import Profile, from_json, model, to_json
from jedlik.perf.step import StepShape, chunk_pairs
from jedlik.serve.engines import words
from jedlik.serve.plugins import load as load_policy
from jedlik.sim.outcome import Outcome
from jedlik.sim.setup import Setup, SimPool
from jedlik.sim.workload.load import load
from jedlik.sim.workload.offered import Offered
from jedlik.sim.workload.options import WorkloadOptions
from jedlik.sim.workload.text import FIRST_TOKEN, Prompts
from jedlik.sim.world import simulate
from served import Answer, Exchange, ask, request, serving

MODEL = "smollm2-135m"
WARM_S = 15.0
PLAYS, SHAKEN_S = 5, 0.004
"""Simulations per repeat, and by how much arrivals differ among them."""
PROBES, PROBE_TOKENS = 10, 256
STEPS = PhaseCosts(
    prefill_base_s=0.02,
    prefill_token_s=0.0004,
    prefill_pair_s=5e-8,
    decode_base_s=0.02,
    decode_sequence_s=0.001,
    context_token_s=2e-7,
)
SIMULATED = Profile(
    name="fidelity", model=MODEL, device="cpu", backend="simulated", gpus=0, costs=STEPS, kv_tokens=24576
)


class Part(NamedTuple):
    """One comparison."""

    workers: int
    profile: Profile
    flags: tuple[str, ...]
    """Of `jedlik serve`."""
    workload: str
    within: float


class Figures(NamedTuple):
    """What is compared."""

    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p90_s: float
    itl_p50_s: float
    itl_p90_s: float
    hit_rate: float


class Listed:
    """A workload drawn before (a `Workload`)."""

    def __init__(self, offered: list[Offered]) -> None:
        self._offered = offered
        self.total: int | None = len(offered)

    def arrivals(self) -> Iterator[Offered]:
        return iter(self._offered)

    def ended(self, offered: Offered, now_s: float) -> Sequence[Offered]:
        return ()


def figures(answers: "Sequence[Answer | Outcome]") -> Figures:
    ttft_s = [a.ttft_s for a in answers if a.ttft_s is not None]
    itl_s = [a.itl_s for a in answers if a.itl_s is not None]
    return Figures(
        statistics.fmean(ttft_s),
        float(np.percentile(ttft_s, 50)),
        float(np.percentile(ttft_s, 90)),
        float(np.percentile(itl_s, 50)),
        float(np.percentile(itl_s, 90)),
        sum(a.cached_tokens for a in answers) / sum(a.prompt_tokens for a in answers),
    )


# --- live ---


class Bodies:
    """Requests as bytes: prompts of plain words, so that every token is a piece of text."""

    def __init__(self) -> None:
        self._words = words(home() / "models/v2" / MODEL)
        self._prompts = Prompts(len(self._words) + FIRST_TOKEN)

    def body(self, offered: Offered, number: int) -> bytes:
        prompt = [self._words[token - FIRST_TOKEN] for token in unpack(self._prompts.packed(offered.text))]
        told: dict[str, object] = {
            "model": MODEL,
            "prompt": prompt,
            "max_tokens": offered.output_tokens,
            "seed": number,
        }
        return request("completions", told | {"ignore_eos": True, "temperature": 0})

    def probe(self, number: int) -> bytes:
        """A lone prompt that nothing shares."""
        prompt = [self._words[(number * 7919 + at) % len(self._words)] for at in range(PROBE_TOKENS)]
        return request("completions", {"model": MODEL, "prompt": prompt, "max_tokens": 1, "ignore_eos": True})


async def send(port: int, offered: list[Offered], bodies: list[bytes]) -> tuple[list[Answer], list[float]]:
    """Every request at its time. Answers, and how late each was sent."""
    loop = asyncio.get_running_loop()
    began_s = loop.time() + 0.5

    async def one(at_s: float, body: bytes) -> Exchange:
        await asyncio.sleep(began_s + at_s - loop.time())
        return await ask(port, body)

    exchanges = await asyncio.gather(*(one(o.at_s, body) for o, body in zip(offered, bodies, strict=True)))
    answers = [exchange.answer() for exchange in exchanges]
    return answers, [a.sent_s - began_s - o.at_s for a, o in zip(answers, offered, strict=True)]


async def probe(port: int, bodies: Bodies) -> list[float]:
    """TTFT of prompts that have the server for themselves."""
    return [(await ask(port, bodies.probe(number))).answer().ttft_s for number in range(PROBES)]


class Live(NamedTuple):
    answers: list[Answer]
    probes_s: list[float]
    late_s: list[float]


def live(part: Part, policy: str, offered: list[Offered]) -> Live:
    bodies = Bodies()
    sent = [bodies.body(o, number) for number, o in enumerate(offered)]

    async def all_of_it(port: int) -> Live:
        probes_s = await probe(port, bodies)
        answers, late_s = await send(port, offered, sent)
        return Live(answers, probes_s, late_s)

    with serving(MODEL, "--gateway.policy", policy, *part.flags, workers=part.workers) as port:
        gc.collect()
        gc.freeze()
        return uvloop.run(all_of_it(port))


# --- simulated ---


def simulated(part: Part, policy: str, offered: list[Offered], seed: int) -> list[list[Outcome]]:
    """Every play's outcomes."""
    return [play(part, policy, shaken(offered, f"{seed} {number}"), number) for number in range(PLAYS)]


def shaken(offered: list[Offered], seed: str) -> list[Offered]:
    """As far as two live runs differ anyway."""
    chance = random.Random(seed)
    moved = [msgspec.structs.replace(o, at_s=o.at_s + chance.random() * SHAKEN_S) for o in offered]
    return sorted(moved, key=lambda o: o.at_s)


def play(part: Part, policy: str, offered: list[Offered], number: int) -> list[Outcome]:
    profile = part.profile
    assert profile.kv_tokens
    size = WorkerConfig().block_size
    pool = SimPool(
        name=f"w{number}",
        count=part.workers,
        profile=profile.name,
        model=model(profile),
        gpus=0,
        kv_tokens=profile.kv_tokens // size * size,
        start_s=60.0,
    )
    setup = Setup(model=MODEL, pools=(pool,), policy=lambda: load_policy(policy), seed=number)
    return [o for o in simulate(setup, Listed(offered)).outcomes if o.arrived_s >= WARM_S]


# --- side by side ---


def compare(part: Part, args: argparse.Namespace) -> None:
    real: list[Answer] = []
    played: list[Outcome] = []
    apart: list[Figures] = []
    own: list[Figures] = []
    for seed in range(args.seed, args.seed + args.repeats):
        offered = list(load(part.workload, WorkloadOptions(), seed).arrivals())
        plays = simulated(part, args.policy, offered, seed)
        outcomes = [outcome for each in plays for outcome in each]
        middle = figures(outcomes)
        own += [ratios(figures(each), middle) for each in plays]
        if args.sim_only:
            print(f"  seed {seed}: {len(offered)} requests;", *(f"{x:.4g}" for x in middle), flush=True)
            continue
        seen = live(part, args.policy, offered)
        answers = [answer for answer, o in zip(seen.answers, offered, strict=True) if o.at_s >= WARM_S]
        apart.append(ratios(middle, figures(answers)))
        print(f"  seed {seed}: {len(answers)} requests;", *(f"{x:+.1%}" for x in apart[-1]), flush=True)
        told(part, seen)
        real += answers
        played += outcomes
    print(
        "  simulations among themselves, rms:", *(f"{np.sqrt(np.square(x).mean()):.1%}" for x in zip(*own, strict=True))
    )
    if real:
        table(figures(real), figures(played), apart, part.within)


def ratios(one: Figures, other: Figures) -> Figures:
    """How much more each figure of `one` is."""
    return Figures(*(a / b - 1 for a, b in zip(one, other, strict=True)))


def told(part: Part, seen: Live) -> None:
    """What the client's end adds."""
    shape = StepShape(PROBE_TOKENS, chunk_pairs(0, PROBE_TOKENS), 0, 0)
    added = statistics.median(seen.probes_s) - model(part.profile).step_s(shape)
    late = np.percentile(seen.late_s, (50, 99)) * 1e3
    print(f"  overhead {added * 1e3:.1f} ms a first token; sent {late[0]:.1f} ms late (p99 {late[1]:.1f})", flush=True)


def table(real: Figures, played: Figures, apart: list[Figures], within: float) -> None:
    print("| Figure | live | sim | sim against live | single repeats | |\n|---|---|---|---|---|---|")
    for name, one, other, *single in zip(Figures._fields, real, played, *apart, strict=True):
        off = other / one - 1
        cells = [f"{x:.1%}" if name == "hit_rate" else f"{x * 1e3:.1f} ms" for x in (one, other)]
        spread = f"{min(single):+.1%} to {max(single):+.1%}"
        mark = "PASS" if abs(off) <= within else "miss"
        print(f"| {name.removesuffix('_s')} | {cells[0]} | {cells[1]} | {off:+.1%} | {spread} | {mark} |", flush=True)


def parts(args: argparse.Namespace, folder: Path) -> Iterator[Part]:
    if args.part in ("a", "all"):
        file = folder / "fidelity.json"
        file.write_bytes(to_json(SIMULATED))
        lengths = "groups=16,prefix=512,zipf=0.6,input=1200,input_cv=0.25,output=40,output_cv=0.3"
        workload = f"shared_prefix:rate={args.rate or 6},duration={args.duration},{lengths}"
        yield Part(4, SIMULATED, ("--engine", "simulated", "--profile", str(file)), workload, 0.05)
    if args.part in ("b", "all"):
        if args.profile is None:
            raise SystemExit("part b needs --profile FILE: see the top of this file")
        profile = from_json(args.profile.read_bytes(), str(args.profile))
        profile = msgspec.structs.replace(profile, kv_tokens=8192)
        lengths = "groups=8,prefix=192,zipf=0.6,input=400,input_cv=0.3,output=32,output_cv=0.4"
        workload = f"shared_prefix:rate={args.rate or 1.5},duration={args.duration},{lengths}"
        flags = ("--device", "cpu", "--kv-cache-bytes", str((8192 + 16) * (profile.kv_bytes_per_token or 0)))
        yield Part(2, profile, flags, workload, 0.15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("a", "b", "all"), default="all")
    parser.add_argument("--profile", type=Path, help="b: what `jedlik profile` wrote")
    parser.add_argument("--policy", default="jedlik")
    parser.add_argument("--rate", type=float, help="requests per second")
    parser.add_argument("--duration", type=float, default=150.0, help="seconds, of each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sim-only", action="store_true", help="no server: to look for a rate")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for part in parts(args, Path(folder)):
            print(f"{part.workers} workers, {part.workload}, {args.policy}", flush=True)
            compare(part, args)


if __name__ == "__main__":
    main()
