"""What planner tests are made of: planners that answer as told, reports, and a node with its effects in short."""

from collections.abc import Callable, Sequence

from jedlik.core.config import PlannerConfig, Role
from jedlik.core.effects import ChangeRole, End, Launch, Note, PlannerEffect, Retire, Wake
from jedlik.core.events import MemberEnded, MemberReady, PlannerEvent, Reported, Woken
from jedlik.core.facts import MemberMoved, Planned
from jedlik.core.ids import GatewayId, WorkerId
from jedlik.core.plans import Cause, Counts, Demand, Place, Report, Wish, WorkerSeen
from jedlik.core.protocol import StepCosts
from jedlik.nodes.planner.node import PlannerNode
from jedlik.planning.policy import Situation
from seen_given import worker_seen

G, H = GatewayId("gateway@1"), GatewayId("other@1")
Act = Launch | Retire | End | ChangeRole
COSTS = StepCosts.of([0.005, 0.001, 0.0, 0.001, 0.0])


class Told:
    """Wishes what it is told to, and remembers what it was shown."""

    name = "told"
    tick_s = 5.0

    def __init__(self, **counts: int) -> None:
        self.answer: Callable[[Situation], Wish] = lambda situation: Wish({})
        self.seen: list[Situation] = []
        self.wish("as told", True, **counts)

    def wish(self, why: str = "as told", flips: bool = True, **counts: int) -> None:
        wish = Wish(roles(counts), why, flips=flips)
        self.answer = lambda situation: wish

    def decide(self, situation: Situation) -> Wish:
        self.seen.append(situation)
        return self.answer(situation)


def roles(counts: dict[str, int]) -> dict[Role, int]:
    return {role: counts[role] for role in ("prefill", "decode", "both") if role in counts}


def places(count: int, gpus: float = 0.0, processes: int = 1) -> list[Place]:
    return [Place(name=f"w{number}", gpus=gpus, processes=processes) for number in range(count)]


def id_of(name: str, start: int = 1) -> WorkerId:
    return WorkerId(f"{name}@{start}")


def demand(arrived: int = 0, answered: int = 0, output_tokens: int = 0) -> Demand:
    return Demand(
        arrived=arrived,
        prompt_tokens=100 * arrived,
        prompts={20: arrived} if arrived else {},
        answered=answered,
        answered_prompt_tokens=100 * answered,
        cached_tokens=50 * answered,
        output_tokens=output_tokens,
        outputs={10: answered} if answered else {},
        refused=0,
        failed=0,
        met=answered,
        missed_alone=0,
        ttft_sum_s=0.1 * answered,
        itl_sum_s=0.01 * answered,
        itl_count=answered,
    )


def seen(
    worker: WorkerId,
    role: Role = "both",
    trusted: bool = True,
    age_s: float = 0.0,
    waiting_tokens: int = 0,
    costs: StepCosts | None = COSTS,
    hit_tokens: int = 0,
) -> WorkerSeen:
    return worker_seen(
        worker,
        role=role,
        trusted=trusted,
        age_s=age_s,
        waiting=1 if waiting_tokens else 0,
        waiting_tokens=waiting_tokens,
        costs=costs,
        hit_tokens=hit_tokens,
    )


def report(
    at: float,
    workers: Sequence[WorkerSeen] = (),
    gateway: GatewayId = G,
    period_s: float = 1.0,
    asked: Demand | None = None,
    waiting: int = 0,
    slo_ttft_s: float | None = None,
) -> Reported:
    return Reported(
        Report(
            gateway=gateway,
            at=at,
            period_s=period_s,
            demand=asked or demand(),
            waiting=waiting,
            waiting_tokens=100 * waiting,
            in_flight=0,
            workers=list(workers),
            slo_ttft_s=slo_ttft_s,
        )
    )


class Given:
    """A node, its clock, and what it did."""

    def __init__(
        self,
        planner: Told,
        where: Sequence[Place],
        initial: Counts,
        config: PlannerConfig | None = None,
    ) -> None:
        self.config = config or PlannerConfig(mode="on", start_s=60.0)
        self.planner = planner
        self.node = PlannerNode(self.config, planner, where, initial)
        self.now = 0.0

    def on(self, event: PlannerEvent, now: float | None = None) -> list[PlannerEffect]:
        self.now = self.now if now is None else now
        effects = self.node.handle(event, self.now)
        self.node.check()
        return effects

    def acts(self, event: PlannerEvent, now: float | None = None) -> list[Act]:
        """What is to be done, without facts and wakes."""
        return [effect for effect in self.on(event, now) if not isinstance(effect, Note | Wake)]

    def begin(self, *names: str) -> None:
        """Start, with these ready at once."""
        self.on(Woken())
        for name in names:
            self.ready(name)

    def ready(self, name: str, start: int = 1, rank: int = 0) -> list[Act]:
        return self.acts(MemberReady(name, start, id_of(name, start), rank))

    def ended(self, name: str, start: int = 1, cause: Cause = "crashed", rank: int = 0) -> list[Act]:
        return self.acts(MemberEnded(name, start, cause, rank))

    def tick(self, workers: Sequence[WorkerSeen] = ()) -> list[Act]:
        """Five seconds later, with fresh reports."""
        later = self.now + self.planner.tick_s
        return self.acts(report(later, workers, period_s=self.planner.tick_s), later)

    def states(self) -> dict[str, str]:
        """Of places where somebody is, or was."""
        rows = self.node.plan(self.now)["members"]
        assert isinstance(rows, list)
        return {row["name"]: row["state"] for row in rows if row["state"] != "free"}

    def roles(self) -> dict[str, str]:
        rows = self.node.plan(self.now)["members"]
        assert isinstance(rows, list)
        return {row["name"]: row["role"] for row in rows if row["state"] != "free"}

    def why(self, name: str) -> str:
        rows = self.node.plan(self.now)["members"]
        assert isinstance(rows, list)
        return next(str(row["why"]) for row in rows if row["name"] == name)


def planned(effects: Sequence[PlannerEffect]) -> list[Planned]:
    return [one.fact for one in effects if isinstance(one, Note) and isinstance(one.fact, Planned)]


def moved(effects: Sequence[PlannerEffect]) -> list[tuple[str, int, str]]:
    facts = [one.fact for one in effects if isinstance(one, Note)]
    return [(fact.name, fact.start, fact.state) for fact in facts if isinstance(fact, MemberMoved)]
