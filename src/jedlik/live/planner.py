"""The planner node on asyncio: launches and retires workers, has roles changed, tells people what was decided and why.

It performs effects and nothing else. What is decided, and when, is the node's; starting is the launcher's.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from jedlik.core.config import Role
from jedlik.core.effects import ChangeRole, End, Launch, Note, PlannerEffect, Retire, Wake
from jedlik.core.errors import ConfigError
from jedlik.core.events import MemberEnded, MemberReady, PlannerEvent, Woken
from jedlik.core.facts import Fact
from jedlik.core.ids import WorkerId
from jedlik.live.launch import Launcher
from jedlik.live.turn import Recorder, Turn, WakeTimer

Change = Callable[[WorkerId, Role], None]


class PlannerDecider(Protocol):
    """`nodes/planner.PlannerNode`."""

    def handle(self, event: PlannerEvent, now: float) -> list[PlannerEffect]: ...

    def plan(self, now: float) -> dict[str, object]: ...


class Telling(Protocol):
    """What people are told of a fleet (`live/telling`)."""

    def fact(self, fact: Fact) -> None: ...

    def ended(self, name: str, words: str) -> None: ...


class PlannerDriver:
    """One planner, running. Made inside a running loop."""

    def __init__(
        self,
        node: PlannerDecider,
        launcher: Launcher,
        change: Change,
        telling: Telling,
        recorder: Recorder[PlannerEvent, PlannerEffect] | None = None,
        fixed: bool = False,
    ) -> None:
        """`fixed`: nobody scales, so a worker that can't start is the end; else only before any has served."""
        self._node = node
        self._launcher = launcher
        self._change = change
        self._telling = telling
        self._fixed = fixed
        self._loop = asyncio.get_running_loop()
        self._turn: Turn[PlannerEvent, PlannerEffect] = Turn(node.handle, self._perform, recorder)
        self._timer = WakeTimer(lambda: self._turn.send(Woken()))
        self._served = False
        launcher.listen(self._told)

    @property
    def failed(self) -> "asyncio.Future[None]":
        """Gets the exception that ended the planner; never a result."""
        return self._turn.failed

    def send(self, event: PlannerEvent) -> None:
        self._turn.send(event)

    def plan(self) -> dict[str, object]:
        """JSON-able."""
        return self._node.plan(self._loop.time())

    def stop(self) -> None:
        """Nothing is decided any more."""
        self._timer.cancel()
        self._turn.stop()

    def _told(self, event: MemberReady | MemberEnded, words: str) -> None:
        if isinstance(event, MemberEnded):
            self._telling.ended(event.name, words)
            if event.cause == "hopeless" and (self._fixed or not self._served):
                self._turn.fail(ConfigError(f"{event.name} cannot start (see its message above)"))
        else:
            self._served = True
        self._turn.send(event)

    def _perform(self, effect: PlannerEffect, now: float) -> None:
        match effect:
            case Launch():
                self._launcher.start(effect.name, effect.start, effect.role)
            case Retire():
                self._launcher.stop(effect.name, effect.start)
            case End():
                self._launcher.kill(effect.name, effect.start)
            case ChangeRole():
                self._change(effect.worker, effect.role)
            case Wake():
                self._timer.set(effect.at)
            case Note():
                self._telling.fact(effect.fact)
