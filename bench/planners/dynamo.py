"""dynamo: NVIDIA Dynamo's planner (1.6.1) with SLA targets, throughput and load scaling on, at its defaults.

Source: planner/core/{throughput_scaling,load_scaling,budget}.py and the Planner Guide. Every 180 s the demand of the
next 180 s is predicted and divided by what one engine can do under the SLOs; the result, at most 8 from what is ready,
is the floor of load scaling. Every 5 s each engine's next TTFT and ITL are estimated: +1 where all miss, -1 where all
keep 80 % with the load of one worker more; nothing while workers start or end. No lookahead over start-up, no
quantile, no role flips: as published. What jedlik's gateways hold back counts as queued, in equal parts at all engines;
Dynamo's router would have queued it there.
"""

from collections import deque
from collections.abc import Callable
from math import ceil

import capacity as engines
from baseline import fitted, roles_of, serving, wish
from capacity import Asked, Engine
from dynamo_load import Scales, Seen
from predictors import AutoRegressive, Predictor

from jedlik.core.config import Role
from jedlik.core.plans import Counts, Demand, Reason, Wish
from jedlik.planning.policy import Situation, Terms

LOAD_S = 5.0
THROUGHPUT_S = 180.0
MOST_AT_ONCE = 8
LEAST_OBSERVATIONS = 5
SAMPLES = 64
"""Of ticks, whose mean prompt and answer stand for the next request in load scaling."""


class Traffic:
    """What came since the last throughput decision, and what is expected to come."""

    def __init__(self, predictor: Callable[[], Predictor]) -> None:
        self._requests, self._prompt, self._output = predictor(), predictor(), predictor()
        self._sums = [0] * 6
        self._last = Asked(0.0, 0.0)
        self._recent: deque[tuple[int, int, int, int]] = deque(maxlen=SAMPLES)

    def add(self, demand: Demand) -> None:
        parts = (demand.arrived, demand.prompt_tokens, demand.answered, demand.output_tokens)
        if any(parts):
            self._recent.append(parts)
        more = (*parts, demand.answered_prompt_tokens, demand.cached_tokens)
        self._sums = [total + part for total, part in zip(self._sums, more, strict=True)]

    def predicted(self, window_s: float) -> tuple[float, Asked]:
        """(requests per second, a usual one) of the next window; what was seen since the last is taken in."""
        arrived, prompts, answered, outputs, answered_prompts, cached = self._sums
        self._sums = [0] * 6
        last = self._last
        self._last = Asked(  # an idle window says nothing of lengths: the last ones are carried on
            prompts / arrived if arrived else last.prompt_tokens,
            outputs / answered if answered else last.output_tokens,
            cached / answered_prompts if answered_prompts else last.hit,
        )
        self._requests.add(arrived)
        self._prompt.add(self._last.prompt_tokens)
        self._output.add(self._last.output_tokens)
        usual = Asked(self._prompt.next(), self._output.next(), self._last.hit)
        return self._requests.next() / window_s, usual

    @property
    def usual(self) -> Asked | None:
        """For load scaling: lengths of late, the hit rate of the last window; None: nothing has been answered."""
        arrived, prompts, answered, outputs = (
            (sum(part) for part in zip(*self._recent, strict=True)) if self._recent else (0,) * 4
        )
        return Asked(prompts / arrived, outputs / answered, self._last.hit) if arrived and answered else None


class Dynamo:
    """Fulfils `policy.Planner`."""

    name = "dynamo"
    tick_s = LOAD_S

    def __init__(self, initial: Counts, terms: Terms, predictor: Callable[[], Predictor] = AutoRegressive) -> None:
        self._terms = terms
        self._wanted: dict[Role, int] = dict(initial)
        self._traffic = Traffic(predictor)
        self._floors: dict[Role, int] = {}
        self._observations = 0
        self._loaded_s: float | None = None
        self._predicted_s: float | None = None

    def decide(self, situation: Situation) -> Wish:
        now = situation.now
        self._traffic.add(situation.demand)
        if self._predicted_s is None:
            self._predicted_s = now - situation.period_s
        if self._loaded_s is not None and now - self._loaded_s < LOAD_S - 1e-6:
            return wish(self._wanted, "between two ticks")
        self._loaded_s = now
        reasons: list[Reason] = []
        if now - self._predicted_s >= THROUGHPUT_S - 1e-6:
            self._throughput(situation, now - self._predicted_s, reasons)
            self._predicted_s = now
        why = self._load(situation, reasons)
        reasons += [Reason(f"{role} floor", float(floor)) for role, floor in self._floors.items()]
        return wish(self._wanted, why, *reasons)

    def _throughput(self, situation: Situation, window_s: float, reasons: list[Reason]) -> None:
        """New floors. Where the engine is not known yet: as before."""
        rate, usual = self._traffic.predicted(window_s)
        reasons += [
            Reason("predicted rate", rate, "1/s"),
            Reason("predicted prompt", usual.prompt_tokens, "tokens"),
            Reason("predicted answer", usual.output_tokens, "tokens"),
            Reason("hit rate", usual.hit),
        ]
        floors: dict[Role, int] = {}
        for role in roles_of(situation):
            engine = engines.engine_of(self._terms, serving(situation, role))
            if engine is None or usual.prompt_tokens <= 0 or usual.output_tokens <= 0:
                return
            capacity = self._capacity(role, engine, usual, situation)
            ready = situation.pools[role].serving if role in situation.pools else 0
            needed = ceil(rate / capacity - 1e-9) if capacity > 0 else ready
            floors[role] = min(max(needed, ready - MOST_AT_ONCE), ready + MOST_AT_ONCE)
            reasons.append(Reason(f"{role} engine rate", capacity, "1/s"))
        self._floors = floors

    @staticmethod
    def _capacity(role: Role, engine: Engine, usual: Asked, situation: Situation) -> float:
        ttft_s, itl_s = situation.slo_ttft_s, situation.slo_itl_s
        if role == "prefill":
            return engines.prefill_capacity(engine, usual, ttft_s).rate
        if role == "decode":
            return engines.decode_capacity(engine, usual, itl_s).rate
        return engines.aggregated_capacity(engine, usual, ttft_s, itl_s).rate

    def _load(self, situation: Situation, reasons: list[Reason]) -> str:
        """New counts; what was done, in words."""
        roles = roles_of(situation)
        seen = {role: serving(situation, role) for role in roles}
        self._observations += sum(len(workers) for workers in seen.values())
        pools = [situation.pools[role] for role in roles if role in situation.pools]
        if situation.stale:
            return "metrics are stale: hold"
        if len(pools) < len(roles) or any(pool.starting or pool.draining for pool in pools):
            return "workers are starting or ending: hold"
        if any(len(seen[role]) != situation.pools[role].serving for role in roles):
            return "not every worker reports: hold"
        ready = {role: situation.pools[role].serving for role in roles}
        counts = {role: ready[role] + self._step(role, situation, reasons) for role in roles}
        counts = {role: max(count, self._floors.get(role, 1)) for role, count in counts.items()}
        self._wanted = fitted(counts, self._terms.limits)
        return "load scaling above the throughput floor"

    def _step(self, role: Role, situation: Situation, reasons: list[Reason]) -> int:
        """+1, -1 or 0."""
        workers = serving(situation, role)
        usual = self._traffic.usual
        engine = engines.engine_of(self._terms, workers)
        if usual is None or engine is None or not workers or self._observations < LEAST_OBSERVATIONS:
            return 0
        held = situation.waiting_tokens * (1 - usual.hit) / len(workers) if role != "decode" else 0.0
        seen = [Seen(one.waiting_tokens + held, one.running, one.context_tokens) for one in workers]
        scales = Scales(role, engine, usual, situation.slo_ttft_s, situation.slo_itl_s)
        step, estimates = scales.step(seen)
        reasons += [Reason(f"{role} {name}", value, "s") for name, value in estimates]
        return step
