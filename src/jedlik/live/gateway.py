"""The gateway node on asyncio: fulfils `frontend/port.GatewayPort` and `RolesPort` around `nodes/gateway`.

It performs effects and nothing else: messages go to workers, deliveries to the frontend, facts to telemetry, a kicked
worker is cut off and killed. What is decided, and when, is the node's.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from jedlik.core.config import Role
from jedlik.core.effects import Deliver, Drained, GatewayEffect, Kick, Note, ToPlanner, ToWorkerEffect, Wake
from jedlik.core.errors import Bug
from jedlik.core.events import (
    Abandoned,
    Arrived,
    Consumed,
    Cut,
    Drain,
    Flip,
    FromWorker,
    GatewayEvent,
    Woken,
    WorkerLost,
    WorkerMessage,
)
from jedlik.core.facts import Fact, Routed
from jedlik.core.ids import GatewayId, RequestId, WorkerId
from jedlik.core.plans import Report
from jedlik.core.protocol import Card, Counters
from jedlik.live.links import Cluster, Counted, LinkEvent, WorkerLinks
from jedlik.live.turn import Recorder, Turn, WakeTimer


class GatewayDecider(Protocol):
    """The decider that a gateway drives (`nodes/gateway.GatewayNode`)."""

    def handle(self, event: GatewayEvent, now: float) -> list[GatewayEffect]: ...

    def cards(self) -> Sequence[Card]: ...

    def explain(self, request_id: RequestId) -> Sequence[Routed]: ...

    def roles(self) -> list[dict[str, object]]: ...

    def flip_refusal(self, worker: WorkerId, role: Role) -> str | None: ...

    def health(self) -> dict[str, object]: ...


class GatewayTelemetry(Protocol):
    """The counters and logs of a gateway."""

    def fact(self, fact: Fact) -> None: ...

    def heard(self, worker: WorkerId, message: WorkerMessage) -> None: ...

    def counters(self, worker: WorkerId, counters: Counters) -> None: ...

    def lost(self, worker: WorkerId) -> None: ...

    def delivered(self, deliver: Deliver, now: float) -> None: ...

    def kicked(self, worker: WorkerId, reason: str, dead: bool) -> None: ...


class GatewayDriver:
    """One gateway, running. Made inside a running loop."""

    def __init__(
        self,
        gateway: GatewayId,
        node: GatewayDecider,
        cluster: Cluster,
        telemetry: GatewayTelemetry,
        recorder: Recorder[GatewayEvent, GatewayEffect] | None = None,
    ) -> None:
        self._node = node
        self._telemetry = telemetry
        self._deliver: Callable[[Deliver], None] | None = None
        self._report: Callable[[Report], None] = _unread
        self._links = WorkerLinks(gateway, cluster, self._from_links, telemetry.kicked)
        self._turn: Turn[GatewayEvent, GatewayEffect] = Turn(node.handle, self._perform, recorder)
        self._timer = WakeTimer(lambda: self._turn.send(Woken()))
        self._drained = asyncio.Event()

    def send(self, event: Arrived | Abandoned | Cut | Consumed) -> None:
        self._turn.send(event)

    def listen(self, deliver: Callable[[Deliver], None]) -> None:
        self._deliver = deliver

    def reports_to(self, report: Callable[[Report], None]) -> None:
        """Set who reads what this gateway sees; where nobody does, it is dropped."""
        self._report = report

    def cards(self) -> Sequence[Card]:
        return self._node.cards()

    def explain(self, request_id: RequestId) -> Sequence[Routed]:
        return self._node.explain(request_id)

    def roles(self) -> list[dict[str, object]]:
        return self._node.roles()

    def flip(self, worker: WorkerId, role: Role) -> str | None:
        refusal = self._node.flip_refusal(worker, role)
        if refusal is None:
            self._turn.send(Flip(worker, role))
        return refusal

    def health(self) -> dict[str, object]:
        return self._node.health()

    async def run(self) -> None:
        """Run until cancelled. Raises what the node raised: the process must end then."""
        links = asyncio.create_task(self._links.run(), name="worker links")
        try:
            await asyncio.wait((links, self._turn.failed), return_when=asyncio.FIRST_COMPLETED)
            (links if links.done() else self._turn.failed).result()
        finally:
            links.cancel()
            await asyncio.gather(links, return_exceptions=True)
            self._timer.cancel()

    async def drain(self, budget_s: float) -> bool:
        """Admit nothing more and wait for what runs; whether it all finished within the budget. What didn't is told."""
        self._turn.send(Drain())
        try:
            await asyncio.wait_for(self._drained.wait(), budget_s)
        except TimeoutError:
            self._turn.send(Drain(cut=True))
            return False
        return True

    def _from_links(self, event: LinkEvent) -> None:
        if isinstance(event, Counted):
            self._telemetry.counters(event.worker, event.counters)
            return
        if isinstance(event, FromWorker):
            self._telemetry.heard(event.worker, event.message)
        elif isinstance(event, WorkerLost):
            self._telemetry.lost(event.worker)
        self._turn.send(event)

    def _perform(self, effect: GatewayEffect, now: float) -> None:
        match effect:
            case Deliver():
                if self._deliver is None:
                    raise Bug("a delivery before anybody listens")
                self._telemetry.delivered(effect, now)
                self._deliver(effect)
            case ToWorkerEffect():
                self._links.send(effect.worker, effect.message)
            case Note():
                self._telemetry.fact(effect.fact)
            case Wake():
                self._timer.set(effect.at)
            case Kick():
                self._links.kick(effect.worker, effect.reason)
            case ToPlanner():
                self._report(effect.report)
            case Drained():
                self._drained.set()


def _unread(report: Report) -> None:
    """No planner is there."""
