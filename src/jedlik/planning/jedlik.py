"""jedlik's planner: start what will be lacking when it could be ready, keep what is needed before it could be back.

At each tick the load is forecast at the distance of a start and at those up to a start and a drain; the requirement
curve makes workers of it. Started is what the wish at the time of readiness exceeds what is committed; released is what
no time within the horizon needs. When what is seen is stale or the engine model is not to be believed, nothing is
released. Everything that led to a wish is said with it.
"""

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from jedlik.core.config import Role
from jedlik.core.plans import Promise, Reason, Wish
from jedlik.planning.budget import MissBudget
from jedlik.planning.engine import Engine, Mix, engine_of
from jedlik.planning.forecast import FEW, Forecast, Provision, bins_of
from jedlik.planning.observe import Habits, work_s
from jedlik.planning.policy import Pool, Situation, Terms
from jedlik.planning.requirement import (
    Curve,
    both_curve,
    decode_curve,
    misses,
    prefill_curve,
    prefill_misses,
    slow_share,
)

ACTION_S = 15.0
"""Seconds of a worker that starting or ending one costs beyond its start-up: it comes with an empty cache."""
PATIENCE = 4.0
"""Ticks that a start must take for one more look to cost little beside it."""
WATCHED_BINS = 60
"""A load is watched for so many ticks (five minutes) before anything is released for the first time."""
SLACK_S = 1.0
"""Between a decision and the order."""


class Need(NamedTuple):
    """Workers of one role."""

    soon: int
    """When one that is ordered now would serve."""
    keep: int
    """The most at any time until one that leaves now could be back."""
    soon_load: Provision | None
    now: int
    """Workers for the load that is expected in the next bin."""


class Ahead(NamedTuple):
    """The loads to provide for, whichever role does the work."""

    soon: Provision
    now: Provision
    later: tuple[Provision, ...]
    """The loads until a worker that leaves now could be back."""


class JedlikPlanner:
    """jedlik's planner of one fleet."""

    name = "jedlik"

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self.tick_s = terms.tick_s
        self._habits = Habits()
        self._learnt = MissBudget(terms.attainment)
        self._load = Forecast()
        self._part_s = self._part_work_s = 0.0
        self._engine: Engine | None = None
        self._predicted: deque[float] = deque(maxlen=8)
        """Shares of requests that should miss, at the loads of the last ticks on the workers that served then."""
        self._recent: dict[Role, deque[tuple[float, int, int]]] = {}
        """(time, needed soon, to keep) of the last decisions, oldest first."""

    def decide(self, situation: Situation) -> Wish:
        """Take what was seen, answer with counts."""
        engine = self._engine = self._engine_of(situation)
        if situation.period_s > 0:
            self._habits.take(situation.demand, situation.period_s)
        mix = None if engine is None else self._habits.mix(engine, situation.slo_ttft_s)
        if engine is not None and mix is not None and situation.period_s > 0:
            self._learn(situation, engine, mix)
            self._count(situation, engine, mix)
        have = {role: pool.committed for role, pool in situation.pools.items()}
        if not situation.split:
            have = {"both": sum(have.values())}
        if engine is None or mix is None or not self._habits.known or len(self._load) < FEW:
            return Wish(have, "too little has been seen to decide: as it is")
        if not mix.kinds or mix.total_s <= 0:
            return Wish(have, "no request could keep the promised time to first token: as it is")
        promise = Promise(situation.slo_ttft_s, situation.slo_itl_s)
        if situation.split:
            return self._split(situation, engine, mix, promise)
        return self._together(situation, engine, mix, promise)

    # --- what is seen ---

    def _engine_of(self, situation: Situation) -> Engine | None:
        prompt = self._habits.prompt_tokens * (1 - self._habits.cached_share)
        return engine_of(situation.workers, self._terms.model, prompt) or self._engine

    def _learn(self, situation: Situation, engine: Engine, mix: Mix) -> None:
        """From what was kept and missed, unless the limits are to blame."""
        demand, period_s, pools = situation.demand, situation.period_s, situation.pools
        if self._habits.known:
            rate = demand.arrived / period_s / self._learnt.factor
            predicted = predict(pools, mix, engine, rate, Promise(situation.slo_ttft_s, situation.slo_itl_s))
            self._predicted += [] if predicted is None else [predicted]
        missed = demand.attainable - demand.met
        full = sum(pool.committed for pool in pools.values()) >= self._terms.limits.most
        if not (full and missed > self._learnt.wanted * demand.attainable):
            self._learnt.learn(demand.attainable, missed, self._predicted, period_s)

    def _count(self, situation: Situation, engine: Engine, mix: Mix) -> None:
        """The load that came, in even bins."""
        self._part_s += situation.period_s
        self._part_work_s += work_s(situation.demand, engine, self._habits.cached_share)
        bin_s = self._terms.tick_s
        if self._part_s >= bin_s * 0.99:
            each = self._part_work_s / self._part_s
            per_request = mix.prefill_square / mix.prefill_s if mix.prefill_s > 0 else 0.0
            for _ in range(max(1, round(self._part_s / bin_s))):
                self._load.push(each, each * per_request / bin_s)
            self._part_s = self._part_work_s = 0.0

    # --- what is needed ---

    def _together(self, situation: Situation, engine: Engine, mix: Mix, promise: Promise) -> Wish:
        pool = situation.pools.get("both", Pool())
        curve = both_curve(mix, engine, promise, self._learnt.level)
        need = self._need("both", curve, self._ahead(situation, engine, mix), situation, mix)
        limits = self._terms.limits
        wanted = max(
            limits.least, min(limits.most, decided(pool.committed, need, self._cautious(situation, engine, mix)))
        )
        why = sentence("both", pool.committed, wanted, need, situation)
        reasons = (*self._reasons(situation, engine, mix, curve, pool.committed), *of_need("", need))
        return Wish({"both": wanted}, why, reasons)

    def _split(self, situation: Situation, engine: Engine, mix: Mix, promise: Promise) -> Wish:
        bearable = self._learnt.level / 2
        limits, cautious = self._terms.limits, self._cautious(situation, engine, mix)
        curves: dict[Role, Curve] = {
            "prefill": prefill_curve(mix, promise, bearable),
            "decode": decode_curve(mix, engine, promise, bearable),
        }
        least: dict[Role, int] = {"prefill": limits.least_prefill, "decode": limits.least_decode}
        ahead = self._ahead(situation, engine, mix)
        counts: dict[Role, int] = {}
        needs: dict[Role, Need] = {}
        have: dict[Role, int] = {}
        for role, curve in curves.items():
            pool = situation.pools.get(role, Pool())
            need = needs[role] = self._need(role, curve, ahead, situation, mix)
            have[role] = pool.committed
            counts[role] = max(least[role], decided(pool.committed, need, cautious))
        flip(counts, have, needs, least)
        shrink(counts, least, limits.most)
        why = "; ".join(sentence(role, have[role], counts[role], needs[role], situation) for role in counts)
        reasons = self._reasons(situation, engine, mix, curves["prefill"], sum(have.values()))
        for role, need in needs.items():
            reasons = (*reasons, *of_need(f"{role} ", need))
        return Wish(counts, why, reasons)

    def _ahead(self, situation: Situation, engine: Engine, mix: Mix) -> Ahead:
        bin_s = self._terms.tick_s
        start = bins_of(situation.start_s + SLACK_S, bin_s)
        drain_s = mix.answer_tokens * engine.step_s(1, mix.context_tokens)
        back = bins_of(situation.start_s + drain_s + ACTION_S, bin_s)
        last = self._load.last or 0.0

        def provided(bins: int) -> Provision:
            return self._load.provide(bins, self._learnt.level, back) or Provision(last, last, "last", 0.0)

        later = sorted({max(1, (start + back) // 2), back})
        return Ahead(provided(start), provided(1), tuple(provided(bins) for bins in later))

    def _need(self, role: Role, curve: Curve, ahead: Ahead, situation: Situation, mix: Mix) -> Need:
        more = backlog(situation, role) / (situation.start_s + self._terms.tick_s)

        def workers(provision: Provision, extra: float = 0.0) -> int:
            rate = (provision.load / mix.prefill_s + extra) / self._learnt.factor
            return curve.workers(rate, self._terms.limits.most)

        soon, now = workers(ahead.soon, more), workers(ahead.now, more)
        keep = max(soon, now, *(workers(provision) for provision in ahead.later))
        return self._steady(role, Need(soon, keep, ahead.soon, now), situation)

    def _steady(self, role: Role, need: Need, situation: Situation) -> Need:
        """Start what two looks agree on, where a start takes much longer than to look again; keep what any look lately
        said: an order that is taken back was for nothing, the more so the longer a start takes."""
        recent = self._recent.setdefault(role, deque())
        recent.append((situation.now, need.soon, need.keep))
        while recent[0][0] < situation.now - ACTION_S - situation.start_s / 2:
            recent.popleft()
        soon = need.soon
        if situation.start_s > PATIENCE * self._terms.tick_s and situation.waiting == 0:
            soon = min(soon for _, soon, _ in list(recent)[-2:])
        return need._replace(soon=soon, keep=max(keep for _, _, keep in recent))

    def _cautious(self, situation: Situation, engine: Engine, mix: Mix) -> bool:
        """Nothing is to be released."""
        credible = engine.credible(mix.prefill_s, situation.slo_ttft_s)
        return situation.stale or not credible or len(self._load) < WATCHED_BINS

    # --- what is said ---

    def _reasons(
        self, situation: Situation, engine: Engine, mix: Mix, curve: Curve, committed: int
    ) -> tuple[Reason, ...]:
        demand = situation.demand
        rate = demand.arrived / situation.period_s if situation.period_s > 0 else None
        attainable = demand.attainable
        full = curve.rate(max(1, committed)) / max(1, committed)
        return (
            Reason("arrivals", rate, "requests/s"),
            Reason("prefill of a request", mix.prefill_s, "s"),
            Reason("answer", mix.answer_tokens, "tokens"),
            Reason("cached", self._habits.cached_share, "share"),
            Reason("waiting at gateways", float(situation.waiting), "requests"),
            Reason("kept", demand.met / attainable if attainable > 0 else None, "share"),
            Reason("attainable", mix.attainable, "share"),
            Reason("planned to miss", self._learnt.level, "share"),
            Reason("predicted to miss", self._predicted[-1] if self._predicted else None, "share"),
            Reason("a worker takes, over the model", self._learnt.factor, "times"),
            Reason("one of them takes", full * self._learnt.factor, "requests/s"),
            Reason("start-up", situation.start_s, "s"),
            Reason("prefill model off by", engine.prefill_factor, "times"),
            Reason("decode model off by", engine.decode_factor, "times"),
        )

    def check(self) -> None:
        """Check the parts of the planner."""
        self._learnt.check()


def predict(pools: Mapping[Role, Pool], mix: Mix, engine: Engine, rate: float, promise: Promise) -> float | None:
    """Share of requests that should miss at this rate on what serves; None: nobody who could tell does."""
    both, prefill, decode = (pools.get(role, Pool()).serving for role in ("both", "prefill", "decode"))
    if both:
        return misses(mix, engine, both, rate, promise)
    if not prefill or not decode:
        return None
    late = prefill_misses(mix, prefill, rate, promise)
    return 1 - (1 - late) * (1 - slow_share(mix, engine, decode, rate, promise))


def backlog(situation: Situation, role: Role) -> float:
    """Requests that wait for workers of a role, at those workers and (but for decoding) at the gateways: as many as
    could not be begun within the promised time at the rate at which they come."""
    waiting = sum(worker.waiting for worker in situation.workers if worker.role == role)
    if role != "decode":
        waiting += situation.waiting
    rate = situation.demand.arrived / situation.period_s if situation.period_s > 0 else 0.0
    return max(0.0, waiting - rate * (situation.slo_ttft_s or 0.0))


def decided(committed: int, need: Need, cautious: bool) -> int:
    """Start what is lacking; release what nothing will need; else as it is."""
    if need.soon > committed:
        return need.soon
    if need.keep < committed and not cautious:
        return need.keep
    return committed


def flip(counts: dict[Role, int], have: dict[Role, int], needs: dict[Role, Need], least: dict[Role, int]) -> None:
    """Take workers that one role lacks from the other, where that does not need them now: a flip takes no start."""
    pairs: tuple[tuple[Role, Role], ...] = (("prefill", "decode"), ("decode", "prefill"))
    for lacking, other in pairs:
        short = counts[lacking] - have[lacking]
        spare = counts[other] - max(least[other], needs[other].now, needs[other].soon)
        if short > 0 and spare > 0 and counts[other] <= have[other]:
            counts[other] -= min(short, spare)


def shrink(counts: dict[Role, int], least: dict[Role, int], most: int) -> None:
    """Shrink counts to what there may be. The larger share of what is wanted above the least goes first."""
    while sum(counts.values()) > most:
        role = max(counts, key=lambda one: (counts[one] - least[one], counts[one], one))
        if counts[role] <= least[role]:
            return
        counts[role] -= 1


def of_need(prefix: str, need: Need) -> tuple[Reason, ...]:
    """Return a need as numbers."""
    load = need.soon_load
    reasons = (
        ()
        if load is None
        else (
            Reason(f"{prefix}load expected at start-up", load.expected, "workers busy"),
            Reason(f"{prefix}load provided for ({load.expert})", load.load, "workers busy"),
        )
    )
    return (
        *reasons,
        Reason(f"{prefix}needed now", float(need.now), "workers"),
        Reason(f"{prefix}needed when one could be ready", float(need.soon), "workers"),
        Reason(f"{prefix}needed until one could be back", float(need.keep), "workers"),
    )


def sentence(role: Role, committed: int, wanted: int, need: Need, situation: Situation) -> str:
    """Return the reason for a count, as a sentence."""
    of = "" if role == "both" else f"{role}: "
    if wanted > committed:
        return f"{of}{need.soon} will be needed in {situation.start_s:.0f} s, {committed} are there or on their way"
    if wanted < committed:
        return f"{of}no more than {need.keep} will be needed before one could be back, {committed} are there"
    if situation.stale:
        return f"{of}reports are missing: nothing is released"
    if need.keep < committed:
        return f"{of}{committed} are kept: what is seen is not to be trusted, or it is the least"
    return f"{of}{committed} are right: {need.soon} needed soon, up to {need.keep} before one could be back"
