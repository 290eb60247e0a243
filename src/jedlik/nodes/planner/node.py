"""The planner node: reports in, starts and drains out; between them a planner's wish, and limits that always hold.

`handle(event, now)` is the only door. First come `Adopted` (and what follows it) for whoever runs already, then a
`Woken`: only then what still lacks is started. Promised: never more than the budget, whatever a planner wishes; nobody
is started twice; somebody's `Scale` and `Hold` are kept; every decision is said with its reasons. Not promised: that a
wish can be met. Places must include those of all who are adopted. How leases work: `nodes/planner_fleet`.
"""

from collections import deque
from collections.abc import Sequence
from math import inf

from msgspec.structs import replace

from jedlik.core.config import PlannerConfig
from jedlik.core.effects import Note, PlannerEffect, Wake
from jedlik.core.errors import Bug
from jedlik.core.events import (
    Adopted,
    GatewayGone,
    Hold,
    MemberEnded,
    MemberReady,
    PlannerEvent,
    Reported,
    Scale,
    Woken,
)
from jedlik.core.facts import Planned
from jedlik.core.plans import ROLES, Counts, Place, Wish
from jedlik.fleet.loss import Loss
from jedlik.fleet.members import Member
from jedlik.fleet.reconcile import Gap, reconcile
from jedlik.fleet.starts import Starts
from jedlik.nodes.planner import show as show
from jedlik.nodes.planner.fleet import PlannedFleet
from jedlik.nodes.planner.observation import Observation, urgent
from jedlik.nodes.planner.wish import Bounds, Wanted, ask, nonsense
from jedlik.planning.policy import Planner, Situation

EARLY_S = 1.0
"""Between ticks the planner is asked at most this often."""
SAY_S = 60.0
"""The counts that are wanted are reported at least this often."""
DECISIONS = 100


class PlannerNode:
    """The planner of one fleet: it takes reports and ends of members, and returns starts, drains and changes of
    role."""

    def __init__(
        self,
        config: PlannerConfig,
        planner: Planner,
        places: Sequence[Place],
        initial: Counts,
        slo: tuple[float | None, float | None] = (None, None),
    ) -> None:
        self._config = config
        self._planner = planner
        self._slo = slo
        self._budget = inf if config.budget is None else config.budget
        self._bounds = Bounds(config, places, initial)
        self._starts = Starts(config.start_s)
        self._fleet = PlannedFleet(places, self._starts, config.drain_s)
        self._observation = Observation()
        self._wanted = self._first = self._bounds.wanted(
            Wish({role: initial.get(role, 0) for role in ROLES}, "the counts at start"), "static"
        )
        self._advice: Wanted | None = None
        """What the planner wishes; followed or not."""
        self._by_hand: Wanted | None = None
        self._trouble = ""
        self._facts: list[Planned] = []
        self._decisions: deque[Planned] = deque(maxlen=DECISIONS)
        self._begun = False
        self._asked_at, self._said_at = -inf, -inf
        self._tick_at = inf
        self._wake_at = inf

    @property
    def planner_name(self) -> str:
        """The name of the planner that this node asks."""
        return self._planner.name

    def handle(self, event: PlannerEvent, now: float) -> list[PlannerEffect]:
        self._happened(event, now)
        if not self._begun:
            return self._effects(now)
        self._fleet.overdue(now)
        if now >= self._tick_at:
            self._tick(now)
        self._close_gap(now)
        effects = self._effects(now)
        due_at = min(self._tick_at, self._fleet.due_s(now))
        if due_at != self._wake_at or isinstance(event, Woken):
            self._wake_at = due_at
            effects.append(Wake(due_at))
        return effects

    def plan(self, now: float) -> dict[str, object]:
        """JSON-able: what is wanted, by whom and why, and what is there."""
        return {
            "now": now,
            "mode": self._config.acts,
            "planner": self._planner.name,
            "split": self._bounds.split,
            "budget": self._config.budget,
            "most": self._bounds.limits.most,
            "gpus": self._fleet.used_gpus(),
            "wanted": dict(self._wanted.counts),
            "wanted_by": self._wanted.by,
            "why": self._wanted.why,
            "by_hand": None if self._by_hand is None else dict(self._by_hand.counts),
            "advice": None if self._advice is None else dict(self._advice.counts),
            "trouble": self._trouble,
            "members": show.members(self._fleet.members, now),
            "pools": show.pools(self._fleet.pools(now)),
            "decisions": show.decisions(self._decisions),
            "start_s": self._starts.expected_s,
            "stale": self._observation.stale(now),
            "demand": show.demand(
                self._observation.last_demand, self._observation.last_period_s, self._observation.waiting()
            ),
        }

    @property
    def members(self) -> Sequence[Member]:
        """One per place; to read only."""
        return self._fleet.members

    @property
    def wanted(self) -> Counts:
        """The counts that hold now."""
        return self._wanted.counts

    def check(self) -> None:
        """Raises Bug where an invariant does not hold."""
        self._fleet.check()
        adopted = any(member.live and member.launched_at is None for member in self.members)
        if not adopted and self._fleet.used_gpus() > self._budget + 1e-9:
            raise Bug(f"{self._fleet.used_gpus()} GPUs are used of {self._budget}")
        most = self._bounds.limits.most
        if sum(self._wanted.counts.values()) > most:
            raise Bug(f"{self._wanted.counts} are wanted where {most} fit")
        if self._begun and not self._wake_at < inf:
            raise Bug("a planner node that nobody will wake")

    # --- what happens ---

    def _happened(self, event: PlannerEvent, now: float) -> None:
        match event:
            case Woken():
                self._begin(now)
            case Reported():
                self._reported(event, now)
            case GatewayGone():
                self._observation.gone(event.gateway)
            case MemberReady():
                self._fleet.ready(event, now)
            case MemberEnded():
                worker = self._fleet.ended(event, now)
                if worker is not None:
                    self._observation.forget(worker)
            case Adopted():
                self._fleet.adopted(event, now)
            case Scale():
                self._scale(event, now)
            case Hold():
                self._fleet.hold(event, now)

    def _begin(self, now: float) -> None:
        """All who ran already have been named."""
        if self._begun:
            return
        self._begun = True
        self._tick_at = now + self._planner.tick_s
        self._choose(now)

    def _reported(self, event: Reported, now: float) -> None:
        self._observation.take(event.report, now)
        self._fleet.seen(self._observation.workers(), now)
        if self._begun and self._config.acts != "off" and urgent(event.report, self._promises()[0]):
            self._tick_at = min(self._tick_at, max(now, self._asked_at + EARLY_S))

    def _scale(self, event: Scale, now: float) -> None:
        """Somebody says how many; counts that can't be are ignored."""
        if event.counts is None:
            self._by_hand = None
        else:
            fault = nonsense(event.counts, split=True)
            if fault:
                self._say_trouble(f"somebody wants {fault}: ignored")
                return
            self._trouble = ""
            self._by_hand = self._bounds.wanted(Wish(dict(event.counts), "set by hand"), "hand")
        self._choose(now)

    # --- what is wanted ---

    def _tick(self, now: float) -> None:
        self._tick_at = now + self._planner.tick_s
        self._leases(now)
        if self._config.acts == "off":
            return
        self._asked_at = now
        answer = ask(self._planner, self._situation(now))
        if isinstance(answer, str):
            self._say_trouble(answer)
            return
        self._trouble = ""
        self._advise(answer, now)
        self._choose(now)

    def _advise(self, wish: Wish, now: float) -> None:
        """Keep the planner's wish, and say it where it is not followed."""
        before = self._advice
        safe = self._fleet.counts() if self._observation.stale(now) else None
        self._advice = self._bounds.wanted(wish, self._planner.name, safe)
        followed = self._config.acts == "on" and self._by_hand is None
        if not followed and (before is None or before.counts != self._advice.counts):
            self._facts.append(self._planned(self._advice, (), now, advice=True))

    def _choose(self, now: float) -> None:
        """Whose counts hold."""
        before = self._wanted
        if self._by_hand is not None:
            self._wanted = self._by_hand
        elif self._config.acts != "on":
            self._wanted = self._first
        elif self._advice is not None:
            self._wanted = self._advice
        else:
            safe = self._fleet.counts() if self._observation.stale(now) else None
            self._wanted = self._bounds.wanted(self._first.wish, "static", safe)
        if self._wanted.counts != before.counts:
            self._said_at = -inf  # say it with what is done about it

    def _situation(self, now: float) -> Situation:
        demand, period_s = self._observation.demand(now)
        waiting, waiting_tokens = self._observation.waiting()
        ttft_s, itl_s = self._promises()
        return Situation(
            now=now,
            period_s=period_s,
            demand=demand,
            waiting=waiting,
            waiting_tokens=waiting_tokens,
            workers=tuple(self._observation.workers().values()),
            pools=self._fleet.pools(now),
            split=self._bounds.split,
            stale=bool(self._observation.stale(now)),
            start_s=self._starts.expected_s,
            slo_ttft_s=ttft_s,
            slo_itl_s=itl_s,
        )

    def _promises(self) -> tuple[float | None, float | None]:
        """As told at the start, else as gateways say."""
        ttft_s, itl_s = self._observation.promises()
        return (ttft_s if self._slo[0] is None else self._slo[0]), (itl_s if self._slo[1] is None else self._slo[1])

    # --- what is done ---

    def _close_gap(self, now: float) -> None:
        def loss(member: Member) -> Loss:
            seen = None if member.worker is None else self._observation.workers().get(member.worker)
            return self._observation.loss(seen, self._config.drain_s, now)

        gap = Gap(self._wanted.counts, self._wanted.wish.flips, self._budget, loss)
        for step in reconcile(self._fleet.members, gap, now):
            self._fleet.perform(step, "too many" if step.kind in ("drain", "cancel", "drop") else "", now)

    def _leases(self, now: float) -> None:
        if not self._observation.stale(now):
            self._fleet.lost(self._observation.heard_at, self._observation.whole_since, now)

    def _effects(self, now: float) -> list[PlannerEffect]:
        """What was done, and why."""
        effects, done = self._fleet.take()
        if self._begun and (done or now >= self._said_at + SAY_S):
            self._said_at = now
            self._facts.append(self._planned(self._wanted, tuple(done), now))
        for fact in self._facts:
            if self._decisions and _repeats(fact, self._decisions[-1]):
                self._decisions.pop()
            self._decisions.append(fact)
        effects += [Note(fact) for fact in self._facts]
        self._facts = []
        return effects

    def _planned(self, wanted: Wanted, done: tuple[str, ...], now: float, advice: bool = False) -> Planned:
        pools = self._fleet.pools(now)
        loops = [
            f"crash loop at {member.name}" for member in self._fleet.members if member.looping and member.committed
        ]
        return Planned(
            at=now,
            planner=wanted.by,
            serving={role: pool.serving for role, pool in pools.items()},
            starting={role: len(pool.starting) for role, pool in pools.items()},
            draining={role: pool.draining for role, pool in pools.items()},
            wanted={role: count for role, count in wanted.counts.items() if count},
            done=done,
            why="; ".join(part for part in (wanted.why, self._trouble, *loops) if part),
            reasons=wanted.wish.reasons,
            advice=advice,
        )

    def _say_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._said_at = -inf


def _repeats(fact: Planned, last: Planned) -> bool:
    """It says again what is wanted, and nothing has been done since it was said."""
    return not fact.done and not last.done and replace(fact, at=last.at) == last
