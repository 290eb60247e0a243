"""A worker's connections to workers that it has prefill for it: it is their client, as a gateway is.

A connection is opened with the first message to a worker; what is said before it is up waits. What can't be sent is
told as `WorkerLost`, once per connection, and a later message tries anew. Watches discovery for whoever carries blocks,
too: it is told where workers' memory is reached, and of a worker's end when not a thread of its process is left.
"""

import asyncio
import contextlib
from collections.abc import Callable

from jedlik.core.errors import PeerError
from jedlik.core.events import FromWorker, WorkerJoined, WorkerLost
from jedlik.core.ids import WorkerId
from jedlik.core.protocol import SCHEMA_VERSION, Card, Goodbye, Hello, ToWorker
from jedlik.core.wire import encode
from jedlik.live.links import CARD_S, POLL_S, Link, LinkEvent
from jedlik.net.discovery.local import Joined, LocalDiscovery, Record, ended
from jedlik.net.streams import connect

Met = Callable[[WorkerId, str | None], None]
"""`live/worker.Carrier.met`."""
Tell = Callable[[FromWorker | WorkerLost], None]


class _Asked:
    """One worker that is asked."""

    __slots__ = ("link", "record", "unsent")

    def __init__(self, record: Record, link: Link) -> None:
        self.record, self.link = record, link
        self.unsent: list[bytes] | None = []
        """Waits for the worker's card; None: it has come."""


class PeerLinks:
    """All of them, for one worker."""

    def __init__(self, own: Card, discovery: LocalDiscovery, key: bytes, met: Met, card_s: float = CARD_S) -> None:
        self._own = own
        self._hello = Hello(SCHEMA_VERSION, own.worker, follows=False)
        self._discovery = discovery
        self._key = key
        self._met = met
        self._card_s = card_s
        self._tell: Tell = _unheard
        self._asked: dict[WorkerId, _Asked] = {}
        self._wanted: list[_Asked] = []
        self._leaving: dict[WorkerId, Record] = {}
        self._called = asyncio.Event()

    def listen(self, tell: Tell) -> None:
        """Who is told; before anything is sent."""
        self._tell = tell

    async def run(self) -> None:
        """Watch discovery and keep connections up until cancelled; then say goodbye."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    self._called.clear()
                    self.look()
                    wanted, self._wanted = self._wanted, []
                    for asked in wanted:
                        tasks.create_task(self._connect(asked))
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._called.wait(), POLL_S)
        finally:
            self._say_goodbye()

    def send(self, worker: WorkerId, message: ToWorker) -> None:
        """Now, or as soon as the connection is up; `WorkerLost` follows where that can't be."""
        asked = self._asked.get(worker) or self._ask(worker)
        if asked is None:
            self._tell(WorkerLost(worker, "discovery does not know it"))
        elif asked.unsent is not None:
            asked.unsent.append(encode(message))
        elif asked.link.connection is not None:
            asked.link.connection.send(encode(message))

    def look(self) -> None:
        """What discovery has to say, at once: somebody has heard of a worker that is new."""
        for change in self._discovery.poll():
            worker = WorkerId(change.record.worker)
            if worker == self._own.worker:
                continue
            if isinstance(change, Joined):
                self._leaving.pop(worker, None)
                if change.record.data:
                    self._met(worker, change.record.data)
            else:
                self._leaving[worker] = change.record
        for worker, record in list(self._leaving.items()):
            if ended(record):
                del self._leaving[worker]
                self._met(worker, None)

    def _ask(self, worker: WorkerId) -> _Asked | None:
        record = self._discovery.find(worker)
        if record is None:
            self._discovery.look()  # a gateway may have found it before us
            self.look()
            record = self._discovery.find(worker)
        if record is None:
            return None
        asked = self._asked[worker] = _Asked(record, Link(self._hello, worker, self._heard, self._ended))
        self._wanted.append(asked)
        self._called.set()
        return asked

    async def _connect(self, asked: _Asked) -> None:
        worker = WorkerId(asked.record.worker)
        try:
            await connect(asked.record.address, asked.link, self._key)
            await asyncio.wait_for(asked.link.settled.wait(), self._card_s)
        except PeerError as error:
            self._ended(worker, str(error))
        except TimeoutError:
            if asked.link.connection is not None:
                asked.link.connection.cut(f"no card within {self._card_s:g} s")
            else:
                self._ended(worker, f"no connection within {self._card_s:g} s")

    def _heard(self, event: LinkEvent) -> None:
        if isinstance(event, WorkerJoined):
            self._greeted(event.card)
        elif isinstance(event, FromWorker):
            self._tell(event)

    def _greeted(self, card: Card) -> None:
        """Its blocks must be what ours are, by name and content. Raises PeerError, which cuts the connection."""
        own, asked = self._own, self._asked.get(card.worker)
        if (card.revision, card.hash_check) != (own.revision, own.hash_check):
            raise PeerError(f"{card.worker} has another model revision or cluster key")
        if asked is not None and asked.unsent is not None and asked.link.connection is not None:
            for frame in asked.unsent:
                asked.link.connection.send(frame)
            asked.unsent = None

    def _ended(self, worker: WorkerId, reason: str) -> None:
        if self._asked.pop(worker, None) is not None:
            self._discovery.look()
            self._called.set()
            self._tell(WorkerLost(worker, reason))

    def _say_goodbye(self) -> None:
        for asked in self._asked.values():
            if asked.link.connection is not None:
                asked.link.connection.send(encode(Goodbye()))
                asked.link.connection.close("this worker leaves")


def _unheard(event: FromWorker | WorkerLost) -> None:
    """Nobody listens yet, so nobody has sent."""
