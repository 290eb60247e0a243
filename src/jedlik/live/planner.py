"""The planner node on asyncio: launches and retires workers, has roles changed, tells people what was decided and why.

It performs effects and nothing else. What is decided, and when, is the node's; starting is the launcher's. A node that
failed can't be trusted any more: another one is made in its place and told what runs and what somebody has set by hand.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from jedlik.core.config import Role
from jedlik.core.effects import ChangeRole, End, Launch, Note, PlannerEffect, Retire, Wake
from jedlik.core.errors import ConfigError
from jedlik.core.events import Adopted, Hold, MemberEnded, MemberReady, PlannerEvent, Scale, Woken
from jedlik.core.facts import Fact, MemberMoved, Planned
from jedlik.core.ids import WorkerId
from jedlik.core.plans import ROLES, Counts, Reason
from jedlik.live.child import Say
from jedlik.live.launch import Launcher
from jedlik.live.turn import Recorder, Turn, WakeTimer

MOST_KILLS = 3
"""The number of workers killed before any has served that ends the server.

The kernel kills processes that take more memory than there is.
"""
MEMORY = "where memory is short, give fewer --workers or less --kv-cache-bytes"
Change = Callable[[WorkerId, Role], None]
MOST_REASONS = 6
AS_ASKED = "static"
"""The planner's name where nobody decides: the counts at start hold."""
AGAIN = " again "
"""A part of what is done about a worker that ended by itself, which has a line of its own."""


class News(Protocol):
    """The lines about a fleet that people read (`FleetNews`)."""

    def fact(self, fact: Fact) -> None: ...

    def ended(self, name: str, words: str) -> None: ...


class PlannerDecider(Protocol):
    """The decider that a planner drives (`nodes/planner.PlannerNode`)."""

    def handle(self, event: PlannerEvent, now: float) -> list[PlannerEffect]: ...

    def plan(self, now: float) -> dict[str, object]: ...


Made = tuple[PlannerDecider, Recorder[PlannerEvent, PlannerEffect] | None]


class _Member(msgspec.Struct):
    """A worker that runs."""

    start: int
    role: Role
    worker: WorkerId | None = None
    """Since it serves."""


class PlannerDriver:
    """One planner, running. Made inside a running loop."""

    def __init__(
        self,
        make: Callable[[], Made],
        launcher: Launcher,
        change: Change,
        news: News,
        fixed: bool = False,
    ) -> None:
        """`make`: a fresh node, and what keeps its log. `fixed`: nobody scales, so a worker that can't start is the
        end, also where others serve.
        """
        self._make = make
        self._launcher = launcher
        self._change = change
        self._news = news
        self._fixed = fixed
        self._loop = asyncio.get_running_loop()
        self._timer = WakeTimer(lambda: self._turn.send(Woken()))
        self._members: dict[str, _Member] = {}
        self._by_hand: dict[str, Scale | Hold] = {}
        """The last of each: counts, and by place."""
        self._served: set[str] = set()
        """Workers that have served."""
        self._kills = 0
        """The number of workers killed while none has served."""
        self._begin()
        launcher.listen(self._member_event)

    @property
    def failed(self) -> "asyncio.Future[None]":
        """Gets the exception that ended the node; never a result."""
        return self._turn.failed

    def send(self, event: PlannerEvent) -> None:
        if isinstance(event, Adopted):
            self._members[event.name] = _Member(event.start, event.role)
        elif isinstance(event, Scale | Hold):
            self._by_hand[event.name if isinstance(event, Hold) else ""] = event
        self._turn.send(event)

    def by_hand(self) -> list[Scale | Hold]:
        """Return the events by which somebody set something: sent again, they hold again."""
        return [event for _, event in sorted(self._by_hand.items())]

    def plan(self) -> dict[str, object]:
        """Return what is planned, and why, as JSON-able values."""
        return self._node.plan(self._loop.time())

    def renew(self) -> None:
        """Go on with a fresh node."""
        self._timer.cancel()
        self._begin()
        for name, member in sorted(self._members.items()):
            self._turn.send(Adopted(name, member.start, member.role))
            if member.worker is not None:
                self._turn.send(MemberReady(name, member.start, member.worker))
        for event in self.by_hand():
            self._turn.send(event)
        self._turn.send(Woken())

    def stop(self) -> None:
        """Nothing is decided any more."""
        self._timer.cancel()
        self._turn.stop()

    def _begin(self) -> None:
        self._node, recorder = self._make()
        self._turn: Turn[PlannerEvent, PlannerEffect] = Turn(self._node.handle, self._perform, recorder)

    def _member_event(self, event: MemberReady | MemberEnded, words: str) -> None:
        member = self._members.get(event.name)
        mine = member is not None and member.start == event.start
        if isinstance(event, MemberReady):
            self._served.add(event.name)
            if member is not None and mine:
                member.worker = event.worker
        else:
            self._news.ended(event.name, words)
            if mine:
                del self._members[event.name]
            event = self._judged(event, words)
        self._turn.send(event)

    def _judged(self, event: MemberEnded, words: str) -> MemberEnded:
        """A server ends with the worker that it can't start. One that has served before is tried again instead."""
        if event.name in self._served:
            return msgspec.structs.replace(event, cause="crashed") if event.cause == "hopeless" else event
        if event.cause == "killed" and not self._served:
            self._kills += 1
        over = event.cause == "hopeless" and self._fixed
        if over or (not self._served and (event.cause in ("hopeless", "crashed") or self._kills >= MOST_KILLS)):
            memory = f", {self._kills} times before any worker served: {MEMORY}" if self._kills else ""
            self._turn.fail(ConfigError(f"{event.name} cannot start: {words}{memory}"))
        return event

    def _perform(self, effect: PlannerEffect, now: float) -> None:
        match effect:
            case Launch():
                self._members[effect.name] = _Member(effect.start, effect.role)
                self._launcher.start(effect.name, effect.start, effect.role)
            case Retire():
                self._launcher.stop(effect.name, effect.start)
            case End():
                self._launcher.kill(effect.name, effect.start)
            case ChangeRole():
                self._turned(effect)
            case Wake():
                self._timer.set(effect.at)
            case Note():
                self._news.fact(effect.fact)

    def _turned(self, change: ChangeRole) -> None:
        for member in self._members.values():
            if member.worker == change.worker:
                member.role = change.role
        self._change(change.worker, change.role)


class FleetNews:
    """Tells people what happens to the fleet, a line each: decisions with reasons, and workers that end or start again.

    Nothing is said of a decision that only does what was asked for at start. `GET /plan` has the rest.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._how: dict[str, str] = {}
        """How workers' processes ended, until it is known what follows."""

    def ended(self, name: str, words: str) -> None:
        """A process of this worker has ended; the facts that follow say what becomes of the worker."""
        self._how[name] = words

    def fact(self, fact: Fact) -> None:
        if isinstance(fact, MemberMoved):
            self._member_moved(fact)
        elif isinstance(fact, Planned):
            self._decided(fact)

    def _member_moved(self, fact: MemberMoved) -> None:
        how = self._how.pop(fact.name, None) if fact.state in ("waiting", "ended", "held") else None
        if how is None:
            return
        if fact.state == "waiting":
            _, _, when = fact.why.partition("; ")
            loop = "; its output says why" if "crash loop" in when else ""
            self._say(f"{fact.name} {how}; starting it again ({when or fact.why}){loop}")
        else:
            self._say(f"{fact.name} {how} ({fact.why})")

    def _decided(self, fact: Planned) -> None:
        reasons = ", ".join(shown(reason) for reason in fact.reasons[:MOST_REASONS])
        because = f"{fact.why} ({reasons})" if reasons else fact.why
        done = "; ".join(step for step in fact.done if AGAIN not in step)
        if fact.advice:
            self._say(f"{fact.planner} would have {counted(fact.wanted)} instead of {counted(fact.serving)}. {because}")
        elif done and fact.planner != AS_ASKED:
            self._say(f"{fact.planner}: {done}. {because}")


def counted(counts: Counts) -> str:
    """Return counts in words, such as `2 prefill and 1 decode`, or `3 workers`."""
    apart = [f"{counts[role]} {role}" for role in ROLES if role != "both" and counts.get(role)]
    both = counts.get("both", 0)
    if both or not apart:
        apart.append(f"{both} worker{'s' * (both != 1)}")
    return " and ".join(apart)


def shown(reason: Reason) -> str:
    """Return a reason in words, such as `rate 3.2 1/s`."""
    value = "unknown" if reason.value is None else f"{reason.value:.4g}"
    return f"{reason.name} {value}{' ' + reason.unit if reason.unit else ''}"
