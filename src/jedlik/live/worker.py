"""The worker node on asyncio: gateways connect, the node decides, the engine computes, blocks are carried.

Steps go to the engine in order and never wait here; engine and carrier may call back from threads of their own. A
worker becomes visible in discovery only after it listens, and leaves it before it drains.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

from jedlik.core.effects import Drained, Note, RunStep, ToClient, ToWorkerEffect, Wake, WorkerEffect
from jedlik.core.errors import Bug, PeerError
from jedlik.core.events import ClientJoined, ClientLost, Drain, FromClient, StepEnded, Woken, WorkerEvent
from jedlik.core.facts import Fact
from jedlik.core.ids import ClientId, WorkerId
from jedlik.core.moves import (
    CancelMove,
    CarrierReport,
    Compare,
    Move,
    Order,
    Revoke,
)
from jedlik.core.protocol import SCHEMA_VERSION, Card, Counters, Hello, Load, Submit
from jedlik.core.step import Step, StepDone
from jedlik.core.wire import decode_to_worker, encode
from jedlik.live.peers import PeerLinks
from jedlik.live.turn import Recorder, Turn, WakeTimer
from jedlik.net.streams import Connection


class WorkerDecider(Protocol):
    """A worker node, as its driver calls it: `nodes/worker.WorkerNode`."""

    def handle(self, event: WorkerEvent, now: float) -> list[WorkerEffect]: ...


class StepEngine(Protocol):
    """An engine as a driver uses it: it computes steps in order, with one `StepDone` each."""

    def start(self, on_done: Callable[[StepDone], None]) -> None:
        """`on_done` may be called from any thread, never inside `submit`."""

    def submit(self, step: Step) -> None:
        """Take a step. It returns at once."""

    def close(self) -> None:
        """Stop; no call of `on_done` after it returns."""


class BlockCarrier(Protocol):
    """The code that carries blocks between tiers and workers (`transfer/agent`). Calls return at once."""

    def start(self, tell: Callable[[CarrierReport], None]) -> None:
        """`tell` may be called from any thread, never inside one of these calls."""

    def perform(self, effect: Order) -> None:
        """Carry out an order. Every move is reported once, as core/moves says."""

    def met(self, worker: WorkerId, address: str | None) -> None:
        """Learn where another worker's carrier listens; None: that process has ended, for certain."""

    def close(self) -> None:
        """Stop; nothing is told after it returns."""


class WorkerTransfers(NamedTuple):
    """The means by which a worker gets blocks from other workers and takes them to its tiers."""

    carrier: BlockCarrier
    peers: PeerLinks


class WorkerTelemetry(Protocol):
    """The counts of a worker's facts (`telemetry/kv`)."""

    def fact(self, fact: Fact) -> None: ...

    def asked(self, submit: Submit) -> None:
        """Another worker is asked for a prompt's blocks."""

    def counters(self) -> Counters:
        """All that was counted; the same object while nothing has changed."""


class WorkerDriver:
    """One worker, running. Made inside a running loop."""

    def __init__(
        self,
        node: WorkerDecider,
        engine: StepEngine,
        card: Card,
        telemetry: WorkerTelemetry,
        recorder: Recorder[WorkerEvent, WorkerEffect] | None = None,
        transfers: WorkerTransfers | None = None,
    ) -> None:
        """`transfers`: for a worker that has tiers or takes part in hand-offs."""
        self._engine = engine
        self._card = encode(card)
        self._telemetry = telemetry
        self._transfers = transfers
        self._sent_counters: dict[ClientId, Counters] = {}
        """The last counters that each client got."""
        self._links: dict[ClientId, Connection] = {}
        self._turn: Turn[WorkerEvent, WorkerEffect] = Turn(node.handle, self._perform, recorder)
        self._timer = WakeTimer(lambda: self._turn.send(Woken()))
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._drained = asyncio.Event()

    def listener(self) -> "ClientLink":
        """Return the listener of one connection, for `net.streams.serve`."""
        return ClientLink(self)

    async def run(self) -> None:
        """Compute until cancelled. Raises what the node raised, or PeerError where the engine failed."""
        self._engine.start(self._step_done)
        watched: list[asyncio.Future[None]] = [self._turn.failed]
        if self._transfers is not None:
            self._transfers.peers.listen(self._turn.send)
            self._transfers.carrier.start(self._carried)
            watched.append(asyncio.create_task(self._transfers.peers.run(), name="peer links"))
        try:
            self._turn.send(Woken())
            done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            self._timer.cancel()
            self._turn.stop()
            await self._leave(watched[1:])

    async def _leave(self, tasks: "list[asyncio.Future[None]]") -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        leaving = list(self._links.values())
        for connection in leaving:  # before the engine, which may hang
            connection.close("this worker leaves")
        await asyncio.gather(*(connection.closed() for connection in leaving))
        if self._transfers is not None:
            self._transfers.carrier.close()
        self._engine.close()

    async def drain(self, budget_s: float) -> bool:
        """Admit nothing more and wait for what runs; whether it all finished within the budget."""
        self._turn.send(Drain())
        try:
            await asyncio.wait_for(self._drained.wait(), budget_s)
        except TimeoutError:
            return False
        return True

    def joined(self, client: ClientId, connection: Connection, follows: bool) -> None:
        """A gateway, or a worker that asks, said hello. A connection it had before is replaced."""
        older = self._links.get(client)
        if older is not None:
            self.client_left(client, older)
            older.cut("the same client connected again")
        self._links[client] = connection
        connection.send(self._card)
        if self._transfers is not None and not follows:
            self._transfers.peers.look()  # blocks may have to go there at once
        self._turn.send(ClientJoined(client, follows))

    def client_left(self, client: ClientId, connection: Connection) -> None:
        """Record that a client's connection ended. It is ignored for one that was replaced."""
        if self._links.get(client) is connection:
            del self._links[client]
            self._sent_counters.pop(client, None)
            self._turn.send(ClientLost(client))

    def take(self, event: FromClient) -> None:
        """A message of a gateway that has said hello."""
        self._turn.send(event)

    def _step_done(self, done: StepDone) -> None:
        if threading.get_ident() == self._thread:
            self._step_ended(done)
        else:
            self._loop.call_soon_threadsafe(self._step_ended, done)

    def _carried(self, event: CarrierReport) -> None:
        if threading.get_ident() == self._thread:
            self._turn.send(event)
        else:
            self._loop.call_soon_threadsafe(self._turn.send, event)

    def _step_ended(self, done: StepDone) -> None:
        self._turn.send(StepEnded(done))  # the node tells the gateways first
        if done.error is not None:
            self._turn.fail(PeerError(f"the engine failed: {done.error}"))

    def _perform(self, effect: WorkerEffect, now: float) -> None:
        match effect:
            case RunStep():
                self._engine.submit(effect.step)
            case ToClient():
                if (connection := self._links.get(effect.client)) is not None:
                    connection.send(encode(effect.message))
                    if isinstance(effect.message, Load):
                        self._count(effect.client, connection)
            case Wake():
                self._timer.set(effect.at)
            case Note():
                self._telemetry.fact(effect.fact)
            case Move() | CancelMove() | Compare() | Revoke():
                self._reached().carrier.perform(effect)
            case ToWorkerEffect():
                self._reached().peers.send(effect.worker, effect.message)
                if isinstance(effect.message, Submit):
                    self._telemetry.asked(effect.message)
            case Drained():
                self._drained.set()

    def _reached(self) -> WorkerTransfers:
        if self._transfers is None:
            raise Bug("blocks are to be moved, and nothing here can")
        return self._transfers

    def _count(self, client: ClientId, connection: Connection) -> None:
        """Counters travel with load reports, if they have changed."""
        counters = self._telemetry.counters()
        if self._sent_counters.get(client) is not counters:
            self._sent_counters[client] = counters
            connection.send(encode(counters))


class ClientLink:
    """A client's connection, seen from the worker (a `net.streams.Listener`)."""

    def __init__(self, driver: WorkerDriver) -> None:
        self._driver = driver
        self._client: ClientId | None = None

    def opened(self, connection: Connection) -> None:
        """The gateway speaks first."""

    def received(self, connection: Connection, bodies: list[memoryview]) -> None:
        for body in bodies:
            message = decode_to_worker(body)
            if isinstance(message, Hello):
                self._greet(message, connection)
            elif self._client is None:
                raise PeerError(f"{type(message).__name__} before Hello")
            else:
                self._driver.take(FromClient(self._client, message))

    def lost(self, connection: Connection, reason: str) -> None:
        if self._client is not None:
            self._driver.client_left(self._client, connection)

    def _greet(self, hello: Hello, connection: Connection) -> None:
        if hello.schema != SCHEMA_VERSION:
            raise PeerError(f"gateway speaks protocol version {hello.schema}, this is {SCHEMA_VERSION}")
        if self._client is not None:
            raise PeerError("a second Hello on one connection")
        self._client = hello.client
        self._driver.joined(hello.client, connection, hello.follows)
