"""The worker node on asyncio: gateways connect, the node decides, the engine computes.

Steps go to the engine in order and never wait here; an engine may call back from its own thread. A worker becomes
visible in discovery only after it listens, and leaves it before it drains.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol

from jedlik.core.effects import Drained, Note, RunStep, ToGatewayEffect, Wake, WorkerEffect
from jedlik.core.errors import PeerError
from jedlik.core.events import Drain, FromGateway, GatewayJoined, GatewayLost, StepEnded, Woken, WorkerEvent
from jedlik.core.facts import Fact
from jedlik.core.ids import GatewayId, WorkerId
from jedlik.core.moves import CancelMove, Move, Moved, PathsMeasured, Revoke, Revoked, TierOpened
from jedlik.core.protocol import SCHEMA_VERSION, Card, Hello
from jedlik.core.step import Step, StepDone
from jedlik.core.wire import decode_to_worker, encode
from jedlik.live.turn import Recorder, Turn, WakeTimer
from jedlik.net.streams import Connection


class WorkerDecider(Protocol):
    """`nodes/worker.WorkerNode`."""

    def handle(self, event: WorkerEvent, now: float) -> list[WorkerEffect]: ...


class Engine(Protocol):
    """What computes steps, in order, one `StepDone` each."""

    def start(self, on_done: Callable[[StepDone], None]) -> None:
        """`on_done` may be called from any thread, never inside `submit`."""

    def submit(self, step: Step) -> None:
        """Returns at once."""

    def close(self) -> None:
        """Stop; no call of `on_done` after it returns."""


Carried = Moved | Revoked | TierOpened | PathsMeasured


class Carrier(Protocol):
    """What carries blocks between tiers and workers (`transfer/agent`). Calls return at once."""

    def start(self, tell: Callable[[Carried], None]) -> None:
        """`tell` may be called from any thread, never inside one of these calls."""

    def perform(self, effect: Move | CancelMove | Revoke) -> None:
        """As core/moves says: every move is told of once."""

    def met(self, worker: WorkerId, address: str | None) -> None:
        """Where another worker's carrier listens; None: that process has ended, for certain."""

    def close(self) -> None:
        """Stop; nothing is told after it returns."""


class WorkerDriver:
    """One worker, running. Made inside a running loop."""

    def __init__(
        self,
        node: WorkerDecider,
        engine: Engine,
        card: Card,
        note: Callable[[Fact], None],
        recorder: Recorder[WorkerEvent, WorkerEffect] | None = None,
    ) -> None:
        self._engine = engine
        self._card = encode(card)
        self._note = note
        self._links: dict[GatewayId, Connection] = {}
        self._turn: Turn[WorkerEvent, WorkerEffect] = Turn(node.handle, self._perform, recorder)
        self._timer = WakeTimer(lambda: self._turn.send(Woken()))
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._drained = asyncio.Event()

    def listener(self) -> "GatewayLink":
        """For `net.streams.serve`: one per connection."""
        return GatewayLink(self)

    async def run(self) -> None:
        """Compute until cancelled. Raises what the node raised, or PeerError where the engine failed."""
        self._engine.start(self._step_done)
        try:
            self._turn.send(Woken())
            await self._turn.failed
        finally:
            self._timer.cancel()
            for connection in list(self._links.values()):  # before the engine, which may hang
                connection.close("this worker leaves")
            self._engine.close()

    async def drain(self, budget_s: float) -> bool:
        """Admit nothing more and wait for what runs; whether it all finished within the budget."""
        self._turn.send(Drain())
        try:
            await asyncio.wait_for(self._drained.wait(), budget_s)
        except TimeoutError:
            return False
        return True

    def joined(self, gateway: GatewayId, connection: Connection) -> None:
        """A gateway said hello. A connection it had before is replaced."""
        older = self._links.get(gateway)
        if older is not None:
            self.left(gateway, older)
            older.cut("the same gateway connected again")
        self._links[gateway] = connection
        connection.send(self._card)
        self._turn.send(GatewayJoined(gateway))

    def left(self, gateway: GatewayId, connection: Connection) -> None:
        """Its connection ended (ignored for one that was replaced)."""
        if self._links.get(gateway) is connection:
            del self._links[gateway]
            self._turn.send(GatewayLost(gateway))

    def take(self, event: FromGateway) -> None:
        """A message of a gateway that has said hello."""
        self._turn.send(event)

    def _step_done(self, done: StepDone) -> None:
        if threading.get_ident() == self._thread:
            self._step_ended(done)
        else:
            self._loop.call_soon_threadsafe(self._step_ended, done)

    def _step_ended(self, done: StepDone) -> None:
        self._turn.send(StepEnded(done))  # the node tells the gateways first
        if done.error is not None:
            self._turn.fail(PeerError(f"the engine failed: {done.error}"))

    def _perform(self, effect: WorkerEffect, now: float) -> None:
        match effect:
            case RunStep():
                self._engine.submit(effect.step)
            case ToGatewayEffect():
                if (connection := self._links.get(effect.gateway)) is not None:
                    connection.send(encode(effect.message))
            case Wake():
                self._timer.set(effect.at)
            case Note():
                self._note(effect.fact)
            case Drained():
                self._drained.set()


class GatewayLink:
    """A gateway's connection, seen from the worker (a `net.streams.Listener`)."""

    def __init__(self, driver: WorkerDriver) -> None:
        self._driver = driver
        self._gateway: GatewayId | None = None

    def opened(self, connection: Connection) -> None:
        """The gateway speaks first."""

    def received(self, connection: Connection, bodies: list[memoryview]) -> None:
        for body in bodies:
            message = decode_to_worker(body)
            if isinstance(message, Hello):
                self._greet(message, connection)
            elif self._gateway is None:
                raise PeerError(f"{type(message).__name__} before Hello")
            else:
                self._driver.take(FromGateway(self._gateway, message))

    def lost(self, connection: Connection, reason: str) -> None:
        if self._gateway is not None:
            self._driver.left(self._gateway, connection)

    def _greet(self, hello: Hello, connection: Connection) -> None:
        if hello.schema != SCHEMA_VERSION:
            raise PeerError(f"gateway speaks protocol version {hello.schema}, this is {SCHEMA_VERSION}")
        if self._gateway is not None:
            raise PeerError("a second Hello on one connection")
        self._gateway = hello.gateway
        self._driver.joined(hello.gateway, connection)
