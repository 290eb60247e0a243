"""Prefix index: match, facts and memory, in CPU time.

    .venv/bin/python bench/prefix_index.py

500,000 blocks of branching conversations (a shared stem, turns forking off it), 64 workers; each chain is held to 8
different depths (64, 128 ... 512 blocks) at 8 workers, stems by many more. Targets: 512-block match at most 12 us
(median; hit, half, miss), facts at 1.5 M blocks/s or more, at most 200 bytes a block.
"""

import gc
import os
import random
import statistics
import time
import tracemalloc

from jedlik.core.ids import WorkerId
from jedlik.core.protocol import Evicted, Facts, Snapshot, Stored
from jedlik.kv.prefix import PrefixIndex

WORKERS, BLOCKS, LENGTH, DEPTHS = 64, 500_000, 512, 8
MASK = (1 << 64) - 1


def chains(rng: random.Random) -> list[list[int]]:
    """Chains of 512 blocks; three of four fork off an earlier one at a random depth."""
    made: list[list[int]] = []
    blocks = 0
    while blocks < BLOCKS:
        shared = made[rng.randrange(len(made))][: rng.randrange(32, 384)] if made and rng.random() < 0.75 else []
        made.append(shared + [rng.getrandbits(64) for _ in range(LENGTH - len(shared))])
        blocks += LENGTH - len(shared)
    return made


class Feeder:
    """Numbers and digests of what the workers would say."""

    def __init__(self) -> None:
        self.held: dict[WorkerId, dict[int, None]] = {WorkerId(f"w{i}@1"): {} for i in range(WORKERS)}
        self.number = dict.fromkeys(self.held, 0)
        self.digest = dict.fromkeys(self.held, 0)

    def stored(self, worker: WorkerId, chain: list[int]) -> tuple[Facts, int] | None:
        """The message for a chain of which a part may be held already, decoded afresh as from the wire."""
        held = self.held[worker]
        new = [key + 0 for key in chain if key not in held]
        if not new:
            return None
        at = len(chain) - len(new)
        held.update(dict.fromkeys(new))
        self.digest[worker] = (self.digest[worker] + sum(new)) & MASK
        self.number[worker] += 1
        run = Stored(chain[at - 1] if at else None, new)
        return Facts(self.number[worker], [run], self.digest[worker]), len(new)

    def evicted(self, worker: WorkerId, count: int) -> Facts:
        held = self.held[worker]
        keys = [held.popitem()[0] for _ in range(count)]
        self.digest[worker] = (self.digest[worker] - sum(keys)) & MASK
        self.number[worker] += 1
        return Facts(self.number[worker], [Evicted(keys)], self.digest[worker])


def stores(made: list[list[int]], feeder: Feeder, rng: random.Random) -> list[tuple[WorkerId, Facts, int]]:
    """Each chain to 8 depths at 8 workers; stems end up at many more."""
    said = []
    workers = list(feeder.held)
    for chain in made:
        depths = [LENGTH // DEPTHS * (i + 1) for i in range(DEPTHS)]
        for worker, depth in zip(rng.sample(workers, DEPTHS), depths, strict=True):
            message = feeder.stored(worker, chain[:depth])
            if message:
                said.append((worker, *message))
    return said


def spread(name: str, samples: list[float], unit: str) -> None:
    middle, cuts = statistics.median(samples), statistics.quantiles(samples, n=20)
    print(f"{name:28s} median {middle:8.2f} {unit}   p5 {cuts[0]:8.2f}   p95 {cuts[-1]:8.2f}   n {len(samples)}")


def time_matches(index: PrefixIndex, prompts: list[list[int]], most: int | None) -> list[float]:
    """Microseconds to find the `most` deepest holders (None: all); keys are made just before, as hashing makes them."""
    samples = []
    for prompt in prompts:
        keys = [key + 0 for key in prompt]
        start = time.process_time_ns()
        index.match(keys).deepest(most)
        samples.append((time.process_time_ns() - start) / 1000)
    return samples


def main() -> None:
    print("load average", *(f"{load:.2f}" for load in os.getloadavg()))
    rng = random.Random(7)
    made = chains(rng)
    feeder = Feeder()
    said = stores(made, feeder, rng)
    gc.collect()
    gc.freeze()
    index = PrefixIndex(1 << 30)
    for worker in feeder.held:
        index.join(worker)
        index.replace(worker, Snapshot(number=0, chunk=0, last=True, runs=[], digest=0))
    start = time.process_time()
    for worker, facts, _ in said:
        assert index.apply(worker, facts)
    spent = time.process_time() - start
    total = sum(count for _, _, count in said)
    print(f"stored   {total / spent / 1e6:6.2f} M blocks/s ({total:,} facts, {len(index):,} blocks, {spent:.2f} s)")
    hit = [rng.choice(made) for _ in range(2000)]
    cut = LENGTH // 2
    half = [chain[:cut] + [rng.getrandbits(64) for _ in range(LENGTH - cut)] for chain in hit]
    miss = [[rng.getrandbits(64) for _ in chain] for chain in half]
    for most in (8, None):
        for name, prompts in (("hit", hit), ("half", half), ("miss", miss)):
            spread(f"match {name}, {most or 'all'} holders", time_matches(index, prompts, most), "us")
    found = [index.match(chain).deepest() for chain in hit]
    depths, holders = ([len(set(f.values())) for f in found], [len(f) for f in found])
    print(f"a hit has {statistics.median(depths)} different depths and {statistics.median(holders)} holders (medians)")
    turnover(index, feeder)
    memory()


def turnover(index: PrefixIndex, feeder: Feeder) -> None:
    """Half of every worker's cache is evicted, leaf first, in messages of 32 blocks."""
    said = [(w, feeder.evicted(w, 32)) for w, held in feeder.held.items() for _ in range(len(held) // 64)]
    start = time.process_time()
    for worker, facts in said:
        assert index.apply(worker, facts)
    spent = time.process_time() - start
    print(f"evicted  {len(said) * 32 / spent / 1e6:6.2f} M blocks/s ({len(said) * 32:,} facts, {spent:.2f} s)")


def memory() -> None:
    """Bytes per block, keys included, at three sizes (dict growth makes it jump)."""
    for share in (0.7, 0.85, 1.0):
        rng = random.Random(7)
        feeder = Feeder()
        tracemalloc.start()
        index = PrefixIndex(1 << 30)
        for worker in feeder.held:
            index.join(worker)
            index.replace(worker, Snapshot(number=0, chunk=0, last=True, runs=[], digest=0))
        base = tracemalloc.get_traced_memory()[0]
        blocks = 0
        while blocks < share * BLOCKS:
            chain = [rng.getrandbits(64) for _ in range(LENGTH)]
            for worker in rng.sample(list(feeder.number), DEPTHS):
                part = chain[: rng.randrange(1, LENGTH)]
                feeder.number[worker] += 1
                feeder.digest[worker] = (feeder.digest[worker] + sum(part)) & MASK
                index.apply(worker, Facts(feeder.number[worker], [Stored(None, part)], feeder.digest[worker]))
                blocks = len(index)
        del chain, part
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - base
        tracemalloc.stop()
        print(f"memory   {used / blocks:6.1f} bytes/block at {blocks:,} blocks")


if __name__ == "__main__":
    main()
