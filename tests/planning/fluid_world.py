"""A fleet as a planner's own model describes it, tick by tick: requests all alike arrive at random, the share that the
model says misses, starts take what they take, ends are at once. Quick enough to plan for an hour in a test."""

from collections.abc import Callable, Mapping

import numpy as np

from jedlik.core.config import Role
from jedlik.core.ids import WorkerId
from jedlik.core.plans import Demand, Promise, Wish, WorkerSeen
from jedlik.core.protocol import StepCosts
from jedlik.perf.model import LinearModel
from jedlik.planning.engine import Engine, Lengths, mix_of
from jedlik.planning.jedlik import JedlikPlanner
from jedlik.planning.lengths import bucket_of
from jedlik.planning.policy import Limits, Pool, Situation, Terms
from jedlik.planning.requirement import misses, prefill_misses, slow_share
from seen_given import worker_seen

COSTS = StepCosts(
    base_s=0.008, prefill_token_s=3.5e-5, prefill_pair_s=1.4e-9, decode_sequence_s=3.1e-5, context_token_s=1.5e-8
)
"""About a 32B model on two H200."""
MODEL = LinearModel(COSTS)
ENGINE = Engine(MODEL, 2048, 256, 16_000 * 64)
TICK_S = 10.0
PROMISE = Promise(1.0, 0.03)
PROMPT, ANSWER = 1500, 150
LIMITS = Limits(12, 1, 1, 1)
NOTHING = Demand(
    arrived=0,
    prompt_tokens=0,
    prompts={},
    answered=0,
    answered_prompt_tokens=0,
    cached_tokens=0,
    output_tokens=0,
    outputs={},
    refused=0,
    failed=0,
    met=0,
    missed_alone=0,
    ttft_sum_s=0.0,
    itl_sum_s=0.0,
    itl_count=0,
)
MIX = mix_of(ENGINE, Lengths({bucket_of(PROMPT): 1}, PROMPT), Lengths({bucket_of(ANSWER): 1}, ANSWER), 0.0, 1.0)


def terms(limits: Limits, attainment: float = 0.95) -> Terms:
    """Of a fleet whose profile is known."""
    return Terms(limits, attainment, TICK_S, MODEL, None)


def seen(number: int, role: Role = "both", costs: StepCosts | None = COSTS) -> WorkerSeen:
    """A worker at rest."""
    return worker_seen(
        WorkerId(f"w{number}@1"),
        role=role,
        total_blocks=16_000,
        block_size=64,
        max_sequences=256,
        costs=costs,
    )


def asked(count: int, kept: int | None = None, answer: int = ANSWER) -> Demand:
    """So many came and ended, all alike."""
    return Demand(
        arrived=count,
        prompt_tokens=count * PROMPT,
        prompts={bucket_of(PROMPT): count} if count else {},
        answered=count,
        answered_prompt_tokens=count * PROMPT,
        cached_tokens=0,
        output_tokens=count * answer,
        outputs={bucket_of(answer): count} if count else {},
        refused=0,
        failed=0,
        met=count if kept is None else kept,
        missed_alone=0,
        ttft_sum_s=0.0,
        itl_sum_s=0.0,
        itl_count=0,
    )


def situation(
    now: float, demand: Demand, pools: Mapping[Role, Pool], start_s: float = 60.0, costs: StepCosts | None = COSTS
) -> Situation:
    """A tick at which all is well."""
    workers = tuple(seen(at, role, costs) for role, pool in pools.items() for at in range(min(2, pool.serving)))
    split = "both" not in pools
    return Situation(now, TICK_S, demand, 0, 0, workers, dict(pools), split, False, start_s, *PROMISE[:2])


class World:
    """One fleet and its planner."""

    def __init__(
        self,
        rate: Callable[[float], float],
        initial: Mapping[Role, int],
        *,
        start_s: float = 60.0,
        limits: Limits = LIMITS,
        seed: int = 0,
        costs: StepCosts | None = COSTS,
    ) -> None:
        """`rate`: requests/s at a time; `costs`: what workers say they have learnt."""
        self.planner = JedlikPlanner(terms(limits))
        self.rate, self.start_s, self.costs = rate, start_s, costs
        self.now = 0.0
        self.serving: dict[Role, int] = dict(initial)
        self.starting: dict[Role, list[float]] = {role: [] for role in initial}
        self.actions: list[float] = []
        """When each was ordered."""
        self._random = np.random.default_rng(seed)

    @property
    def committed(self) -> dict[Role, int]:
        return {role: self.serving[role] + len(self.starting[role]) for role in self.serving}

    def look(self) -> Situation:
        """The next tick."""
        self.now += TICK_S
        for role, due in self.starting.items():
            self.serving[role] += sum(at <= self.now for at in due)
            self.starting[role] = [at for at in due if at > self.now]
        count = int(self._random.poisson(self.rate(self.now) * TICK_S))
        kept = round(count * (1 - self._missed(count / TICK_S)))
        pools = {
            role: Pool(self.serving[role], tuple(sorted(at - self.now for at in self.starting[role])))
            for role in self.serving
        }
        return situation(self.now, asked(count, kept), pools, self.start_s, self.costs)

    def obey(self, wish: Wish) -> None:
        """Flips are of workers that serve, and take no time; what starts is ended before what serves."""
        change = {role: wish.counts[role] - have for role, have in self.committed.items()}
        flips = min(max(0, *change.values()), max(0, -min(change.values()))) if len(change) > 1 else 0
        for role, more in change.items():
            flipped = min(flips, self.serving[role]) if more < 0 else flips
            self.serving[role] += flipped if more > 0 else -flipped if more < 0 else 0
            left = more - flipped if more > 0 else more + flipped
            self.starting[role] += [self.now + self.start_s] * left
            ended = max(0, -left)
            self.serving[role] -= max(0, ended - len(self.starting[role]))
            del self.starting[role][max(0, len(self.starting[role]) - ended) :]
            self.actions += [self.now] * abs(left)

    def run(self, until_s: float) -> list[Wish]:
        """The wish of every tick, each obeyed."""
        wishes = []
        while self.now < until_s:
            wish = self.planner.decide(self.look())
            self.planner.check()
            self.obey(wish)
            assert self.committed == wish.counts
            wishes.append(wish)
        return wishes

    def _missed(self, rate: float) -> float:
        """Share of requests."""
        if "both" in self.serving:
            return misses(MIX, ENGINE, self.serving["both"], rate, PROMISE) if self.serving["both"] else 1.0
        prefill, decode = self.serving["prefill"], self.serving["decode"]
        if not prefill or not decode:
            return 1.0
        late = prefill_misses(MIX, prefill, rate, PROMISE)
        return 1 - (1 - late) * (1 - slow_share(MIX, ENGINE, decode, rate, PROMISE))
