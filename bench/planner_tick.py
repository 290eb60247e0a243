"""What one decision of jedlik's planner costs: CPU of `decide` with a full memory, together and split.

.venv/bin/python bench/planner_tick.py
"""

import math
import random
import statistics
import time

from msgspec.structs import astuple

from jedlik.core.config import Role
from jedlik.core.ids import WorkerId
from jedlik.core.plans import Demand, WorkerSeen
from jedlik.perf.model import StepModel
from jedlik.perf.profile import model
from jedlik.planning.forecast import HISTORY
from jedlik.planning.jedlik import JedlikPlanner
from jedlik.planning.lengths import bucket_of
from jedlik.planning.policy import Limits, Pool, Situation, Terms
from jedlik.profiles.catalogue import lookup

PROFILE = "llama-3.1-8b-fp8/h200/tp1-vllm"
TICK_S, MEASURED, LENGTHS = 5.0, 100, 12


def main() -> None:
    engine = model(lookup(PROFILE))
    apart: tuple[tuple[Role, ...], ...] = (("both",), ("prefill", "decode"))
    for roles in apart:
        spent_ms = ticks(engine, {role: Pool(5) for role in roles})
        low, mid, high = spent_ms[0], statistics.median(spent_ms), spent_ms[-1]
        print(
            f"{' and '.join(roles)}: {mid:.2f} ms of CPU a decision ({low:.2f}-{high:.2f}), {HISTORY} ticks remembered"
        )


def ticks(engine: StepModel, pools: dict[Role, Pool]) -> list[float]:
    """Milliseconds, ascending."""
    planner = JedlikPlanner(Terms(Limits(64, 1, 1, 1), 0.95, TICK_S, engine, None))
    chance, spent_ms = random.Random(1), []
    for number in range(HISTORY + MEASURED):
        asked = situation(number, engine, pools, chance)
        began = time.process_time()
        planner.decide(asked)
        spent_ms.append(1e3 * (time.process_time() - began))
    return sorted(spent_ms[-MEASURED:])


def situation(number: int, engine: StepModel, pools: dict[Role, Pool], chance: random.Random) -> Situation:
    count = round(TICK_S * (25 - 20 * math.cos(number / 20)) * chance.uniform(0.8, 1.2))
    prompts = [round(3000 * chance.lognormvariate(0, 0.8)) for _ in range(LENGTHS)]
    buckets: dict[int, int] = {}
    for tokens in prompts:
        buckets[bucket_of(tokens)] = buckets.get(bucket_of(tokens), 0) + max(1, count // LENGTHS)
    whole = sum(prompts) * max(1, count // LENGTHS)
    demand = Demand(
        count, whole, buckets, count, whole, 0, 150 * count, {bucket_of(150): count}, 0, 0, count, 0, 0.1, 0.1, count
    )
    workers = tuple(
        WorkerSeen(
            WorkerId(f"{role}@1"), role, role, False, True, 0.1, 8, 1, 900, 24_000, 0, 16_000, 64, 256, 8192, 0.01,
            astuple(engine.costs), 1.0, 0,
        )
        for role in pools
    )  # fmt: skip
    return Situation(TICK_S * number, TICK_S, demand, 0, 0, workers, pools, "both" not in pools, False, 60.0, 0.2, 0.01)


if __name__ == "__main__":
    main()
