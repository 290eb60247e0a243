"""Tiers in the simulator: what keeping KV in host memory or on disk is worth to conversations too many for the device.

    .venv/bin/python bench/tiers_sim.py [--profile qwen3-32b-fp8/h100/tp1] [--seeds 3] [--talks 48] [--load 0.3]

One H100 whose device pool is set to a quarter of what all conversations come to. Turns add at most 200 tokens to a
history of 1,500 and more; conversations take turns, so that with no tier nearly every history has left the device when
it is asked for again. Part two goes through hit rates: a share of prompts are new ones of the same length, and the same
arrivals are served with a tier and without: the ratio of each request's times to first token is paired.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from random import Random

import msgspec

from jedlik.core.config import NetworkConfig, WorkerConfig
from jedlik.perf.profile import Profile, model
from jedlik.perf.step import prefill_s
from jedlik.profiles.catalogue import lookup
from jedlik.sim.outcome import SimulationRun
from jedlik.sim.setup import Setup, SimPool
from jedlik.sim.workload.offered import Offered, OfferedText
from jedlik.sim.world import simulate

BLOCK, CHUNK = 16, 2048
HISTORY, TURN = (1500, 4000), (80, 200)
OUTPUT = (40, 160)
TURNS = 8
WARM_TURNS = 1
WORKING_SET = 4
"""Times the device pool."""
TIERS = {"no tier": {}, "host": {"kv_host_tokens": 2.0}, "disk": {"kv_disk_tokens": 2.0}}
"""In multiples of the working set."""


class Talks:
    """Rounds: every conversation says something, one after the other, then all again. Open loop: both arms alike."""

    def __init__(self, seed: int, talks: int, gap_s: float, hits: float = 1.0) -> None:
        rng = Random(seed)
        self._offered: list[Offered] = []
        histories = [rng.randint(*HISTORY) // BLOCK for _ in range(talks)]
        at_s, new = 0.0, talks
        for turn in range(TURNS):
            order = list(range(talks))
            rng.shuffle(order)
            for talk in order:
                at_s += rng.expovariate(1 / gap_s)
                tokens, space = histories[talk] * BLOCK + rng.randint(1, BLOCK), talk
                if turn >= WARM_TURNS and rng.random() >= hits:
                    space, new = new, new + 1
                text = OfferedText(space, range(tokens // BLOCK + 1), BLOCK, tokens)
                self._offered.append(
                    Offered(at_s=at_s, text=text, output_tokens=rng.randint(*OUTPUT), session=str(space), then=turn)
                )
                histories[talk] += rng.randint(*TURN) // BLOCK
        self.working_set = sum(histories) * BLOCK
        """Tokens, at the end."""
        self.warm_s = next(o.at_s for o in self._offered if o.then == WARM_TURNS)
        self.total: int | None = len(self._offered)

    def arrivals(self) -> Iterator[Offered]:
        return iter(self._offered)

    def ended(self, offered: Offered, now_s: float) -> Sequence[Offered]:
        return ()


def setup(profile: Profile, talks: Talks, tier: str) -> Setup:
    pool = SimPool(
        name="p",
        count=1,
        profile=profile.name,
        model=model(profile),
        gpus=1.0,
        kv_tokens=talks.working_set // WORKING_SET // BLOCK * BLOCK,
        start_s=60.0,
        kv_token_bytes=profile.kv_bytes_per_token or 0,
    )
    sizes = {name: int(share * talks.working_set) for name, share in TIERS[tier].items()}
    worker = WorkerConfig(block_size=BLOCK, max_step_tokens=CHUNK, max_sequences=64)
    pools = (msgspec.structs.replace(pool, **sizes),)
    return Setup(model="m", pools=pools, worker=worker, network=NetworkConfig())


def first_tokens(run: SimulationRun, after_s: float) -> dict[float, float]:
    """Times to first token by arrival."""
    assert all(outcome.ok for outcome in run.outcomes)
    return {round(o.arrived_s, 6): o.ttft_s or 0.0 for o in run.outcomes if o.arrived_s >= after_s - 1e-6}


def reused(profile: Profile, seeds: int, talks: int, gap_s: float) -> None:
    """Part one: all later turns continue a conversation."""
    ratios: dict[str, list[float]] = {}
    for seed in range(seeds):
        offered = Talks(seed, talks, gap_s)
        means = {}
        for tier in TIERS:
            run = simulate(setup(profile, offered, tier), offered)
            means[tier] = statistics.mean(first_tokens(run, offered.warm_s).values())
            hits = sum(o.cached_tokens for o in run.outcomes) / sum(o.prompt_tokens for o in run.outcomes)
            ratios.setdefault(tier, []).append(means[tier] / means["no tier"])
            print(f"  seed {seed} {tier:8} TTFT mean {means[tier] * 1e3:6.1f} ms, hit rate {hits:.0%}", flush=True)
    for tier, found in ratios.items():
        print(f"{tier:8} TTFT mean {statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f}) of recomputing")


def at_all_hit_rates(profile: Profile, seeds: int, talks: int, gap_s: float) -> None:
    """Part two."""
    print("\nshare of prompts that were seen before: median paired TTFT ratio, tier / no tier (mean ratio)")
    for percent in (0, 10, 25, 50, 75, 90, 100):
        told = []
        for tier in list(TIERS)[1:]:
            pairs: list[tuple[float, float]] = []
            for seed in range(seeds):
                offered = Talks(seed, talks, gap_s, percent / 100)
                with_it, without = (
                    first_tokens(simulate(setup(profile, offered, name), offered), offered.warm_s)
                    for name in (tier, "no tier")
                )
                pairs += [(with_it[at_s], without[at_s]) for at_s in without]
            median = statistics.median(one / other for one, other in pairs)
            mean = sum(one for one, _ in pairs) / sum(other for _, other in pairs)
            told.append(f"{tier} {median:.3f} ({mean:.2f})")
        print(f"  {percent:3} %  {', '.join(told)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="qwen3-32b-fp8/h100/tp1")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--talks", type=int, default=48)
    parser.add_argument("--load", type=float, default=0.3, help="share of the time that recomputing everything takes")
    args = parser.parse_args()
    profile = lookup(args.profile)
    alone_s = prefill_s(model(profile).costs, sum(HISTORY) // 2 + TURNS * sum(TURN) // 4, 0, CHUNK)
    told = f"a prompt takes {alone_s * 1e3:.0f} ms to recompute, one comes every {alone_s / args.load:.2f} s"
    print(f"{profile.name}: {told}")
    reused(profile, args.seeds, args.talks, alone_s / args.load)
    at_all_hit_rates(profile, args.seeds, args.talks, alone_s / args.load)


if __name__ == "__main__":
    main()
