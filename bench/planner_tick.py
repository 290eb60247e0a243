"""What one decision of jedlik's planner costs: CPU of `decide` with a full memory, together and split.

.venv/bin/python bench/planner_tick.py
"""

import math
import random
import statistics
import time

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
        arrived=count,
        prompt_tokens=whole,
        prompts=buckets,
        answered=count,
        answered_prompt_tokens=whole,
        cached_tokens=0,
        output_tokens=150 * count,
        outputs={bucket_of(150): count},
        refused=0,
        failed=0,
        met=count,
        missed_alone=0,
        ttft_sum_s=0.1,
        itl_sum_s=0.1,
        itl_count=count,
    )
    workers = tuple(
        WorkerSeen(
            worker=WorkerId(f"{role}@1"),
            name=role,
            role=role,
            draining=False,
            trusted=True,
            age_s=0.1,
            running=8,
            waiting=1,
            waiting_tokens=900,
            context_tokens=24_000,
            held_blocks=0,
            total_blocks=16_000,
            block_size=64,
            max_sequences=256,
            max_step_tokens=8192,
            step_s=0.01,
            costs=engine.costs,
            correction=1.0,
            hit_tokens=0,
        )
        for role in pools
    )
    return Situation(TICK_S * number, TICK_S, demand, 0, 0, workers, pools, "both" not in pools, False, 60.0, 0.2, 0.01)


if __name__ == "__main__":
    main()
