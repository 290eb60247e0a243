"""The planner node under whatever may happen: limits, numbers of starts and books hold; in the end the wish is met."""

import math
import random
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from planner_given import G, H, Told, demand, id_of, report, seen

from jedlik.core.config import PlannerConfig, Role
from jedlik.core.effects import ChangeRole, End, Launch, Note, PlannerEffect, Retire, Wake
from jedlik.core.events import Adopted, GatewayGone, Hold, MemberEnded, MemberReady, PlannerEvent, Scale, Woken
from jedlik.core.plans import Cause, Place, Wish, WorkerSeen
from jedlik.fleet.desired import gpus_of, most_workers
from jedlik.nodes.planner.node import PlannerNode
from jedlik.planning.policy import Situation

PLACES = [
    Place(name="a", gpus=1.0, path=("h0", "0")),
    Place(name="b", gpus=1.0, path=("h0", "1"), role="prefill"),
    Place(name="c", gpus=1.0, path=("h1", "0"), processes=2),
    Place(name="d", gpus=2.0, path=("h1", "1")),
    Place(name="e"),
    Place(name="f"),
]
CAUSES: list[Cause] = ["asked", "crashed", "killed", "late"]
counts = st.dictionaries(st.sampled_from(["prefill", "decode", "both"]), st.integers(0, 9))
names = st.sampled_from([place.name for place in PLACES])


class Process:
    """One worker, as the world keeps it."""

    def __init__(self, place: Place, start: int, role: Role) -> None:
        self.place, self.start, self.role = place, start, role
        self.left = set(range(place.processes))
        self.up: set[int] = set()
        self.leaving = False

    @property
    def serves(self) -> bool:
        return len(self.up) == self.place.processes


class Fleets(RuleBasedStateMachine):
    """A world that does what it is told, among much else."""

    @initialize(
        budget=st.sampled_from([None, 3.0, 5.0, 8.0]),
        mode=st.sampled_from(["on", "on", "on", "advise", "off"]),
        initial=st.sampled_from([{"both": 2}, {"prefill": 1, "decode": 1}, {"prefill": 2, "decode": 2, "both": 1}]),
        adopted=st.lists(names, unique=True, max_size=3),
        least=st.integers(0, 4),
    )
    def begin(self, budget: float | None, mode: str, initial: dict[Role, int], adopted: list[str], least: int) -> None:
        self.now = 0.0
        self.places = {place.name: place for place in PLACES}
        self.there: dict[str, Process] = {}
        self.starts = {place.name: 0 for place in PLACES}
        self.held: set[str] = set()
        self.planner = Told(**{str(role): count for role, count in initial.items()})
        self.config = PlannerConfig(mode=mode, budget=budget, min_workers=least, start_s=20.0)  # type: ignore[arg-type]
        self.node = PlannerNode(self.config, self.planner, PLACES, initial)
        self.split = "prefill" in initial
        self.most = math.inf if budget is None else budget
        for number, name in enumerate(adopted):
            self.starts[name] = 3 + number
            self.there[name] = Process(self.places[name], 3 + number, "both")
            self.tell(Adopted(name, 3 + number, "both"))
        self.over = self.used() > self.most
        self.tell(Woken())

    # --- the world ---

    def tell(self, event: PlannerEvent) -> list[PlannerEffect]:
        effects = self.node.handle(event, self.now)
        for effect in effects:
            self.do(effect)
        self.node.check()
        return effects

    def do(self, effect: PlannerEffect) -> None:
        if isinstance(effect, Launch):
            assert effect.name not in self.there, "two at one place"
            assert effect.start == self.starts[effect.name] + 1
            assert effect.name not in self.held
            self.starts[effect.name] += 1
            self.there[effect.name] = Process(self.places[effect.name], effect.start, effect.role)
            assert self.used() <= self.most, "above the budget"
        elif isinstance(effect, Retire | End):
            process = self.there[effect.name]
            assert process.start == effect.start
            process.leaving = True
        elif isinstance(effect, ChangeRole):
            process = self.there[effect.worker.split("@")[0]]
            assert id_of(process.place.name, process.start) == effect.worker
        elif isinstance(effect, Wake):
            assert effect.at > self.now
            self.wake_at = effect.at

    def used(self) -> float:
        return sum(gpus_of(process.place) for process in self.there.values())

    def end(self, name: str, cause: Cause) -> None:
        process = self.there[name]
        rank = min(process.left)
        process.left.discard(rank)
        if not process.left:
            del self.there[name]
        self.tell(MemberEnded(name, process.start, cause, rank))

    def workers(self) -> list[WorkerSeen]:
        return [seen(id_of(name, one.start), one.role) for name, one in sorted(self.there.items()) if one.serves]

    # --- what happens ---

    @rule(seconds=st.floats(0.01, 40.0))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        while self.wake_at <= until:
            self.now = self.wake_at
            self.tell(Woken())
        self.now = until

    @rule(name=names, rank=st.integers(0, 1))
    def process_is_up(self, name: str, rank: int) -> None:
        process = self.there.get(name)
        if process is not None and rank in process.left:
            process.up.add(rank)
            self.tell(MemberReady(name, process.start, id_of(name, process.start), rank))

    @rule(name=names, cause=st.sampled_from(CAUSES))
    def process_ends(self, name: str, cause: Cause) -> None:
        if name in self.there:
            self.end(name, cause)

    @rule(name=names, role=st.sampled_from(["prefill", "decode", "both"]))
    def somebody_changes_its_role(self, name: str, role: Role) -> None:
        if name in self.there:
            self.there[name].role = role

    @rule(name=names, back=st.integers(1, 3), ready=st.booleans())
    def something_late_comes(self, name: str, back: int, ready: bool) -> None:
        start = self.starts[name] - back
        self.tell(MemberReady(name, start, id_of(name, start)) if ready else MemberEnded(name, start, "crashed"))

    @rule(gateway=st.sampled_from([G, H]), waiting=st.integers(0, 3), late=st.booleans())
    def gateway_reports(self, gateway: object, waiting: int, late: bool) -> None:
        at = self.now - 100.0 if late else self.now
        self.tell(report(at, self.workers(), G if gateway == G else H, asked=demand(3, 2, 9), waiting=waiting))

    @rule(gateway=st.sampled_from([G, H]))
    def gateway_ends(self, gateway: object) -> None:
        self.tell(GatewayGone(G if gateway == G else H))

    @rule(wish=counts, flips=st.booleans())
    def planner_wishes(self, wish: dict[str, int], flips: bool) -> None:
        self.planner.wish("random", flips, **wish)

    @rule(nonsense=st.sampled_from([{"both": -1}, {"x": 1}, {"both": 0.5}, None]))
    def planner_fails(self, nonsense: dict[Role, int] | None) -> None:
        def answer(situation: Situation) -> Wish:
            if nonsense is None:
                raise ZeroDivisionError
            return Wish(nonsense)

        self.planner.answer = answer

    @rule(by_hand=st.none() | counts)
    def somebody_scales(self, by_hand: dict[Role, int] | None) -> None:
        self.tell(Scale(by_hand))

    @rule(name=names, held=st.booleans())
    def somebody_holds(self, name: str, held: bool) -> None:
        (self.held.add if held else self.held.discard)(name)
        self.tell(Hold(name, held))

    # --- what holds ---

    @invariant()
    def limits_hold(self) -> None:
        if not hasattr(self, "node"):
            return
        wanted, most = self.node.wanted, most_workers(PLACES, self.config.budget)
        assert min(self.config.min_workers, most) <= sum(wanted.values()) <= most
        if self.split and most >= 2:
            assert wanted["prefill"] >= 1
            assert wanted["decode"] >= 1
        assert self.over or self.used() <= self.most
        self.over = self.over and self.used() > self.most

    @invariant()
    def nothing_more_is_to_be_done(self) -> None:
        if hasattr(self, "node"):
            assert self.wake_at > self.now
            assert all(isinstance(effect, Note | Wake) for effect in self.tell(Woken()))
            assert self.tell(Woken()) == [Wake(self.wake_at)]

    @invariant()
    def books_are_right(self) -> None:
        if not hasattr(self, "node"):
            return
        assert {member.name: member.start for member in self.node.members if member.live} == {
            name: process.start for name, process in self.there.items()
        }

    def teardown(self) -> None:
        """From now on all goes well: what is wanted comes to be."""
        if not hasattr(self, "node"):
            return
        self.planner.answer = lambda situation: Wish({})
        for name in sorted(self.held):
            self.somebody_holds(name, False)
        self.tell(GatewayGone(H))
        for _ in range(60):
            self.now += 5.0
            for name, process in sorted(self.there.items()):
                if process.leaving or len(process.left) < process.place.processes:
                    self.end(name, "asked")
                else:
                    for rank in sorted(process.left - process.up):
                        process.up.add(rank)
                        self.tell(MemberReady(name, process.start, id_of(name, process.start), rank))
            self.obey()
            self.tell(report(self.now, self.workers(), period_s=5.0))
        self.met()

    def obey(self) -> None:
        """Workers take the roles that the books say."""
        for member in self.node.members:
            if member.name in self.there:
                self.there[member.name].role = member.role

    def met(self) -> None:
        wanted = self.node.wanted
        have = dict.fromkeys(wanted, 0)
        for process in self.there.values():
            assert process.serves
            have[process.role] += 1
        fits = self.used() + min([gpus_of(p) for p in PLACES if p.name not in self.there], default=9.0) <= self.most
        if fits:
            assert have == wanted
        assert all(have[role] <= wanted[role] for role in wanted)


TestFleets = Fleets.TestCase
TestFleets.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_thousand_events_in_one_fleet() -> None:
    """A long run, without hypothesis: cheap, and reaches states that need many events."""
    rng = random.Random(7)
    machine = Fleets()
    machine.begin(5.0, "on", {"prefill": 1, "decode": 2}, [], 1)
    for _ in range(1000):
        step = rng.randrange(6)
        name = rng.choice(PLACES).name
        if step == 0:
            machine.time_passes(rng.random() * 20)
        elif step in (1, 2):
            machine.process_is_up(name, rng.randrange(2))
        elif step == 3:
            machine.process_ends(name, rng.choice(CAUSES))
        elif step == 4:
            machine.planner_wishes({"prefill": rng.randrange(5), "decode": rng.randrange(5)}, rng.random() < 0.5)
        else:
            machine.gateway_reports(G, 0, False)
        machine.limits_hold()
        machine.nothing_more_is_to_be_done()
        machine.books_are_right()
    machine.teardown()
    said = machine.node.plan(machine.now)["decisions"]
    assert isinstance(said, list)
    assert len(said) == 100
    assert all(newer["at"] >= older["at"] for newer, older in pairwise(said))
