"""The planner on asyncio: effects are performed, a node that fails is replaced, a worker that can't start is told."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from jedlik.core.config import Role
from jedlik.core.effects import ChangeRole, End, Launch, PlannerEffect, Retire
from jedlik.core.errors import Bug, ConfigError
from jedlik.core.events import Adopted, Hold, MemberEnded, MemberReady, PlannerEvent, Scale, Woken
from jedlik.core.facts import Fact
from jedlik.core.ids import WorkerId
from jedlik.core.plans import Cause
from jedlik.live.launch import Tell
from jedlik.live.planner import PlannerDriver

W0 = WorkerId("worker-0@a")


class Node:
    """Answers events as scripted, and keeps them."""

    def __init__(self, answers: dict[type, list[PlannerEffect]]) -> None:
        self.answers = answers
        self.seen: list[PlannerEvent] = []

    def handle(self, event: PlannerEvent, now: float) -> list[PlannerEffect]:
        self.seen.append(event)
        if isinstance(event, Hold):
            raise Bug("no such place")
        return self.answers.pop(type(event), [])

    def plan(self, now: float) -> dict[str, object]:
        return {"mode": "on"}


class Told:
    """A launcher and all others who are told, as a list of words."""

    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []
        self.tell: Tell = lambda event, words: None

    def listen(self, tell: Tell) -> None:
        self.tell = tell

    def start(self, name: str, start: int, role: Role) -> None:
        self.said.append(("start", name, start, role))

    def stop(self, name: str, start: int) -> None:
        self.said.append(("stop", name, start))

    def kill(self, name: str, start: int) -> None:
        self.said.append(("kill", name, start))

    async def close(self, budget_s: float) -> None: ...

    def change(self, worker: WorkerId, role: Role) -> None:
        self.said.append(("change", worker, role))

    def fact(self, fact: Fact) -> None: ...

    def ended(self, name: str, words: str) -> None:
        self.said.append(("ended", name, words))


def driven(
    act: Callable[[PlannerDriver, Told], Coroutine[None, None, None]],
    answers: dict[type, list[PlannerEffect]] | None = None,
    fixed: bool = False,
) -> tuple[list[Node], Told]:
    nodes: list[Node] = []
    told = Told()

    def make() -> tuple[Node, None]:
        nodes.append(Node({} if nodes else (answers or {})))
        return nodes[-1], None

    async def run() -> None:
        driver = PlannerDriver(make, told, told.change, told, fixed=fixed)
        await act(driver, told)
        driver.stop()

    asyncio.run(run())
    return nodes, told


def test_effects_are_performed_in_order() -> None:
    effects: list[PlannerEffect] = [
        Launch("worker-0", 1, "both"),
        Retire("worker-1", 2, 5.0),
        End("worker-2", 3),
        ChangeRole(W0, "decode"),
    ]

    async def act(driver: PlannerDriver, told: Told) -> None:
        driver.send(Woken())
        assert driver.plan()["mode"] == "on"

    _, told = driven(act, {Woken: effects})
    assert told.said == [
        ("start", "worker-0", 1, "both"),
        ("stop", "worker-1", 2),
        ("kill", "worker-2", 3),
        ("change", W0, "decode"),
    ]


def test_a_fresh_node_is_told_what_runs_and_what_was_set_by_hand() -> None:
    launches: list[PlannerEffect] = [Launch("worker-0", 1, "both"), Launch("worker-1", 1, "both")]

    async def act(driver: PlannerDriver, told: Told) -> None:
        driver.send(Adopted("worker-2", 4, "both"))
        driver.send(Woken())
        told.tell(MemberReady("worker-0", 1, W0), "")
        driver.send(Scale({"both": 2}))
        driver.send(Hold("worker-9", active=True))
        with pytest.raises(Bug):
            await asyncio.shield(driver.failed)
        told.tell(MemberEnded("worker-1", 1, "crashed"), "ended with code 1")  # while there is no node
        driver.send(Hold("worker-9", active=False))
        driver._by_hand.pop("worker-9")  # a node that failed for it would fail again
        driver.renew()
        assert not driver.failed.done()

    nodes, told = driven(act, {Woken: launches, MemberReady: [ChangeRole(W0, "decode")]})
    assert nodes[1].seen == [
        Adopted("worker-0", 1, "decode"),
        MemberReady("worker-0", 1, W0),
        Adopted("worker-2", 4, "both"),
        Scale({"both": 2}),
        Woken(),
    ]
    assert told.said[-2:] == [("change", W0, "decode"), ("ended", "worker-1", "ended with code 1")]


OTHER, SAME, NOBODY = MemberReady("worker-0", 1, W0), MemberReady("worker-1", 1, W0), None


@pytest.mark.parametrize(
    ("cause", "fixed", "served", "over"),
    [
        ("hopeless", True, NOBODY, True),
        ("hopeless", False, NOBODY, True),
        ("hopeless", True, OTHER, True),
        ("hopeless", False, OTHER, False),
        ("hopeless", True, SAME, False),
        ("crashed", True, NOBODY, True),
        ("crashed", False, NOBODY, True),
        ("crashed", True, OTHER, False),
        ("crashed", True, SAME, False),
        ("killed", True, NOBODY, False),
        ("asked", True, NOBODY, False),
        ("late", True, NOBODY, False),
    ],
)
def test_a_worker_that_can_not_start_ends_a_server_that_needs_it(
    cause: Cause, fixed: bool, served: MemberReady | None, over: bool
) -> None:
    async def act(driver: PlannerDriver, told: Told) -> None:
        if served is not None:
            told.tell(served, "")
        told.tell(MemberEnded("worker-1", 1, cause), "the weights lack x")
        assert driver.failed.done() == over
        if over:
            with pytest.raises(ConfigError, match="worker-1 cannot start: the weights lack x"):
                driver.failed.result()

    driven(act, fixed=fixed)


def test_a_worker_that_served_once_is_never_hopeless() -> None:
    """Its files may be gone for a moment: it is started again, later and later."""

    async def act(driver: PlannerDriver, told: Told) -> None:
        told.tell(SAME, "")
        told.tell(MemberEnded("worker-1", 1, "hopeless"), "no config.json")

    nodes, _ = driven(act, fixed=True)
    assert nodes[0].seen[-1] == MemberEnded("worker-1", 1, "crashed")


def test_workers_that_the_kernel_kills_before_any_serves_end_the_server() -> None:
    """Weights that do not fit into memory: a signal is all there is to see of it."""

    async def act(driver: PlannerDriver, told: Told) -> None:
        for start in (1, 2):
            told.tell(MemberEnded("worker-1", start, "killed"), "was killed by SIGKILL")
            assert not driver.failed.done()
        told.tell(MemberEnded("worker-1", 3, "killed"), "was killed by SIGKILL")
        with pytest.raises(ConfigError, match="memory"):
            driver.failed.result()

    driven(act, fixed=True)
