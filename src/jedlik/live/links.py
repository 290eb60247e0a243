"""A gateway's connections to the workers that discovery names.

Each is opened with Hello, shown a Card, and from then on turned into `FromWorker` events. A connection that ends is
reported once and opened again while the worker's record stands; a kicked worker is never connected to again. Nodes
watch workers they know; one that takes a connection and shows no card in time is unknown to them and is kicked here.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from jedlik.core.errors import PeerError
from jedlik.core.events import FromWorker, WorkerJoined, WorkerLost
from jedlik.core.ids import GatewayId, WorkerId
from jedlik.core.protocol import SCHEMA_VERSION, Card, Counters, Goodbye, Hello, ToWorker
from jedlik.core.wire import decode_to_gateway, encode
from jedlik.net.discovery.local import Joined, LocalDiscovery, Record, alive, kill
from jedlik.net.streams import Connection, connect

POLL_S = 0.1
CARD_S = 5.0


class Counted(NamedTuple):
    """For metrics, past the node."""

    worker: WorkerId
    counters: Counters


LinkEvent = WorkerJoined | WorkerLost | FromWorker | Counted
Tell = Callable[[LinkEvent], None]
Kicked = Callable[[WorkerId, str, bool], None]
"""(worker, reason, whether its process was killed)."""
Ended = Callable[[WorkerId, str], None]
"""(worker, reason): the connection is gone, whether a card was shown or not."""


class Link:
    """One connection to one worker incarnation (a `net.streams.Listener`)."""

    def __init__(self, hello: Hello, worker: WorkerId, tell: Tell, ended: Ended) -> None:
        self._hello = hello
        self._worker = worker
        self._tell = tell
        self._ended = ended
        self._carded = False
        self.settled = asyncio.Event()
        """It has shown its card, or is gone."""
        self.connection: Connection | None = None

    def opened(self, connection: Connection) -> None:
        self.connection = connection
        connection.send(encode(self._hello))

    def received(self, connection: Connection, bodies: list[memoryview]) -> None:
        for body in bodies:
            message = decode_to_gateway(body)
            if isinstance(message, Card):
                self._show(message)
            elif not self._carded:
                raise PeerError(f"{self._worker} sent {type(message).__name__} before its card")
            elif isinstance(message, Counters):
                self._tell(Counted(self._worker, message))
            else:
                self._tell(FromWorker(self._worker, message))

    def lost(self, connection: Connection, reason: str) -> None:
        self.settled.set()
        if self._carded:
            self._tell(WorkerLost(self._worker, reason))
        self._ended(self._worker, reason)

    def _show(self, card: Card) -> None:
        if self._carded or card.worker != self._worker:
            raise PeerError(f"{self._worker} showed an unexpected card of {card.worker}")
        self._carded = True
        self.settled.set()
        self._tell(WorkerJoined(card))


class WorkerLinks:
    """All of them, for one gateway."""

    def __init__(
        self,
        gateway: GatewayId,
        discovery: LocalDiscovery,
        key: bytes,
        tell: Tell,
        kicked: Kicked,
        card_s: float = CARD_S,
    ) -> None:
        self._hello = Hello(SCHEMA_VERSION, gateway)
        self._discovery = discovery
        self._key = key
        self._tell = tell
        self._told_kicked = kicked
        self._card_s = card_s
        self._links: dict[WorkerId, Link] = {}
        self._kicked: set[WorkerId] = set()
        self._leaving: dict[WorkerId, Record] = {}
        """Workers that discovery names no more although they run: they finish what they have."""

    async def run(self) -> None:
        """Watch discovery and keep connections up until cancelled; then say goodbye."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    for change in self._discovery.poll():
                        if isinstance(change, Joined):
                            tasks.create_task(self._connect(change.record))
                        elif alive(change.record) and change.record.worker in self._links:
                            self._leaving[WorkerId(change.record.worker)] = change.record
                        else:
                            self._cut(WorkerId(change.record.worker), "its process has ended")
                    await asyncio.sleep(POLL_S)
        finally:
            self._say_goodbye()

    def send(self, worker: WorkerId, message: ToWorker) -> None:
        """To a worker that is connected; to one that is not, nothing happens (its loss is on the way)."""
        link = self._links.get(worker)
        if link is not None and link.connection is not None:
            link.connection.send(encode(message))

    def kick(self, worker: WorkerId, reason: str) -> None:
        """Cut a worker off and kill it, if it is a process of this host's run directory."""
        self._kicked.add(worker)
        self._cut(worker, reason)
        record = self._discovery.find(worker) or self._leaving.get(worker)
        self._told_kicked(worker, reason, record is not None and kill(record))

    async def _connect(self, record: Record) -> None:
        worker = WorkerId(record.worker)
        if worker in self._links or worker in self._kicked:
            return
        link = self._links[worker] = Link(self._hello, worker, self._tell, self._ended)
        try:
            await connect(record.address, link, self._key)
            await asyncio.wait_for(link.settled.wait(), self._card_s)
        except PeerError:
            self._ended(worker, "")  # the record is stale or the worker just starting: discovery will say
        except TimeoutError:
            self.kick(worker, f"no card within {self._card_s:g} s")

    def _ended(self, worker: WorkerId, reason: str) -> None:
        self._links.pop(worker, None)
        self._leaving.pop(worker, None)
        self._discovery.forget(worker)

    def _cut(self, worker: WorkerId, reason: str) -> None:
        link = self._links.get(worker)
        if link is not None and link.connection is not None:
            link.connection.cut(reason)

    def _say_goodbye(self) -> None:
        for link in self._links.values():
            if link.connection is not None:
                link.connection.send(encode(Goodbye()))
                link.connection.close("this gateway leaves")
