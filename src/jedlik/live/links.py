"""A gateway's connections to the workers that discovery names.

Each connection is opened with Hello, answered with a Card, and from then on turned into `FromWorker` events. One that
ends is reported once and opened again while the worker's record stands; a kicked worker is never connected to again.
A record that leaves is no death: what is connected stays so, unless the fencer says that the worker is dead. Nodes
watch workers that they know; one that takes a connection and shows no card in time is kicked here.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple

from jedlik.core.errors import PeerError
from jedlik.core.events import FromWorker, WorkerJoined, WorkerLost
from jedlik.core.ids import GatewayId, WorkerId
from jedlik.core.protocol import SCHEMA_VERSION, Card, Counters, Goodbye, Hello, ToWorker
from jedlik.core.wire import decode_to_gateway, encode
from jedlik.net.discovery.contract import Change, Changed, Discovery, Fencer, Joined, Left, Record, Verdict
from jedlik.net.streams import Connection, connect

CARD_S = 5.0
FIRST_RETRY_S, LAST_RETRY_S = 0.1, 5.0
"""The delays before a connection is tried again: the first one, doubled with each failure, and the longest."""


class Counted(NamedTuple):
    """A worker's counters for metrics; the node does not see them."""

    worker: WorkerId
    counters: Counters


LinkEvent = WorkerJoined | WorkerLost | FromWorker | Counted
Tell = Callable[[LinkEvent], None]
Kicked = Callable[[WorkerId, str, bool], None]
"""A call with the worker, the reason, and whether the worker is certainly dead."""


class Cluster(NamedTuple):
    """The means by which processes of one server find each other, and end each other."""

    discovery: Discovery
    fencer: Fencer
    host: str
    """The identity of this process's host, as records have it."""
    key: bytes
    """The cluster key, which peers on other hosts prove to each other."""


class Jobs:
    """Coroutines that plain calls start. Made inside a running loop."""

    def __init__(self) -> None:
        self._new: asyncio.Queue[Callable[[], Coroutine[Any, Any, None]]] = asyncio.Queue()

    def start(self, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a job as soon as `run` runs."""
        self._new.put_nowait(job)

    async def run(self) -> None:
        """Run jobs until cancelled. Raises what the first of them raised, in a group."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task((await self._new.get())())


class Link:
    """One connection to one worker incarnation (a `net.streams.Listener`)."""

    def __init__(self, hello: Hello, worker: WorkerId, tell: Tell) -> None:
        self._hello = hello
        self._worker = worker
        self._tell = tell
        self.carded = False
        """Whether the worker has shown its card."""
        self.settled = asyncio.Event()
        """Set when the worker has shown its card, or is gone."""
        self.connection: Connection | None = None
        self._gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def follow(self, record: Record, cluster: Cluster, card_s: float) -> str:
        """Connect, and return why the connection ended when it has. Raises PeerError where there is none.

        Raises TimeoutError, with the connection still open, where the worker shows no card in `card_s` seconds.
        """
        address = record.address_from(cluster.host)
        if address is None:
            raise PeerError(f"{record.id} has no address that this host can reach")
        connection = await connect(address, self, cluster.key)
        try:
            async with asyncio.timeout(card_s):
                await self.settled.wait()
        except TimeoutError:
            if self.connection is None:
                connection.cut("no proof of the cluster key")
            raise
        return await self._gone

    def send(self, frame: bytes) -> None:
        """Send a frame; it is dropped where the connection is not up (its loss is on the way)."""
        if self.connection is not None:
            self.connection.send(frame)

    def cut(self, reason: str) -> None:
        """Drop the connection at once."""
        if self.connection is not None:
            self.connection.cut(reason)

    def leave(self, reason: str) -> None:
        """Say goodbye and close the connection."""
        self.send(encode(Goodbye()))
        if self.connection is not None:
            self.connection.close(reason)

    def opened(self, connection: Connection) -> None:
        self.connection = connection
        connection.send(encode(self._hello))

    def received(self, connection: Connection, bodies: list[memoryview]) -> None:
        for body in bodies:
            message = decode_to_gateway(body)
            if isinstance(message, Card):
                self._show(message)
            elif not self.carded:
                raise PeerError(f"{self._worker} sent {type(message).__name__} before its card")
            elif isinstance(message, Counters):
                self._tell(Counted(self._worker, message))
            else:
                self._tell(FromWorker(self._worker, message))

    def lost(self, connection: Connection, reason: str) -> None:
        self.settled.set()
        if self.carded:
            self._tell(WorkerLost(self._worker, reason))
        if not self._gone.done():
            self._gone.set_result(reason)

    def _show(self, card: Card) -> None:
        if self.carded or card.worker != self._worker:
            raise PeerError(f"{self._worker} showed an unexpected card of {card.worker}")
        self.carded = True
        self.settled.set()
        self._tell(WorkerJoined(card))


class WorkerLinks:
    """The connections of one gateway to all workers. Made inside a running loop."""

    def __init__(
        self, gateway: GatewayId, cluster: Cluster, tell: Tell, kicked: Kicked, card_s: float = CARD_S
    ) -> None:
        self._hello = Hello(SCHEMA_VERSION, gateway)
        self._cluster = cluster
        self._tell = tell
        self._report_kick = kicked
        self._card_s = card_s
        self._watch = cluster.discovery.watch()
        self._jobs = Jobs()
        self._listed: dict[WorkerId, Record] = {}
        """The workers that discovery names."""
        self._followed: dict[WorkerId, Record] = {}
        """The workers that are connected to, or shall be: a record that has left stays here while its link is up."""
        self._links: dict[WorkerId, Link] = {}
        self._kicked: set[WorkerId] = set()

    async def run(self) -> None:
        """Watch discovery and keep connections up until cancelled; then say goodbye."""
        self._jobs.start(self._watching)
        try:
            await self._jobs.run()
        finally:
            for link in self._links.values():
                link.leave("this gateway leaves")

    def send(self, worker: WorkerId, message: ToWorker) -> None:
        """Send to a worker that is connected; to one that is not, nothing happens (its loss is on the way)."""
        link = self._links.get(worker)
        if link is not None:
            link.send(encode(message))

    def kick(self, worker: WorkerId, reason: str) -> None:
        """Cut a worker off for good and have it ended."""
        self._kicked.add(worker)
        record = self._followed.get(worker)
        self._cut(worker, reason)
        self._jobs.start(partial(self._end, worker, record, reason))

    async def _watching(self) -> None:
        while True:
            for change in self._watch.take():
                self._take(change)
            await self._watch.changed()

    def _take(self, change: Change) -> None:
        if not isinstance(change, Joined | Changed | Left) or change.record.kind != "worker":
            return
        worker = WorkerId(change.record.id)
        if isinstance(change, Left):
            self._listed.pop(worker, None)
            self._jobs.start(partial(self._cut_if_dead, change.record))
            return
        self._listed[worker] = change.record
        if worker not in self._followed and worker not in self._kicked:
            self._followed[worker] = change.record
            self._jobs.start(partial(self._follow, worker))

    async def _follow(self, worker: WorkerId) -> None:
        """Connect to a worker again and again, for as long as it is listed."""
        delay_s = FIRST_RETRY_S
        while worker in self._listed and worker not in self._kicked:
            record = self._followed[worker] = self._listed[worker]
            link = self._links[worker] = Link(self._hello, worker, self._tell)
            try:
                await link.follow(record, self._cluster, self._card_s)
            except PeerError:
                pass  # the record is stale, or the worker just starting: discovery will say
            except TimeoutError:
                self.kick(worker, f"no card within {self._card_s:g} s")
            finally:
                del self._links[worker]
            self._watch.refresh()
            delay_s = FIRST_RETRY_S if link.carded else min(2 * delay_s, LAST_RETRY_S)
            await asyncio.sleep(delay_s)
        del self._followed[worker]

    async def _cut_if_dead(self, record: Record) -> None:
        if await self._cluster.fencer.look(record) == "dead":
            self._cut(WorkerId(record.id), "its process has ended")

    async def _end(self, worker: WorkerId, record: Record | None, reason: str) -> None:
        verdict: Verdict = "unknown" if record is None else await self._cluster.fencer.end(record)
        self._report_kick(worker, reason, verdict == "dead")

    def _cut(self, worker: WorkerId, reason: str) -> None:
        link = self._links.get(worker)
        if link is not None:
            link.cut(reason)
