"""A worker's connections to workers that it has prefill for it: it is their client, as a gateway is.

A connection is opened with the first message to a worker; messages wait until it is up. What can't be sent is reported
as `WorkerLost`, once per connection, and a later message tries anew. Discovery is watched for whoever transfers blocks,
too: the carrier is told where workers' memory is reached, and of a worker's end when that is certain.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from jedlik.core.errors import PeerError
from jedlik.core.events import FromWorker, WorkerJoined, WorkerLost
from jedlik.core.ids import WorkerId
from jedlik.core.protocol import SCHEMA_VERSION, Card, Hello, ToWorker
from jedlik.core.wire import encode
from jedlik.live.links import CARD_S, Cluster, Jobs, Link, LinkEvent
from jedlik.net.discovery.contract import Changed, Joined, Left, Record

DEATH_POLL_S = 0.1
Met = Callable[[WorkerId, str | None], None]
"""The call `Carrier.met` of `live/worker`."""
Tell = Callable[[FromWorker | WorkerLost], None]


class _Peer:
    """One worker that is asked."""

    __slots__ = ("link", "record", "unsent")

    def __init__(self, record: Record, link: Link) -> None:
        self.record, self.link = record, link
        self.unsent: list[bytes] | None = []
        """The frames that wait for the worker's card; None: it has come."""


class PeerLinks:
    """The connections of one worker to others. Made inside a running loop."""

    def __init__(self, own: Card, cluster: Cluster, met: Met, card_s: float = CARD_S) -> None:
        self._own = own
        self._hello = Hello(SCHEMA_VERSION, own.worker, follows=False)
        self._cluster = cluster
        self._met = met
        self._card_s = card_s
        self._tell: Tell = _unheard
        self._watch = cluster.discovery.watch()
        self._jobs = Jobs()
        self._listed: dict[WorkerId, Record] = {}
        self._peers: dict[WorkerId, _Peer] = {}

    def listen(self, tell: Tell) -> None:
        """Set who gets the events; called before anything is sent."""
        self._tell = tell

    async def run(self) -> None:
        """Watch discovery and keep connections up until cancelled; then say goodbye."""
        self._jobs.start(self._watching)
        try:
            await self._jobs.run()
        finally:
            for peer in self._peers.values():
                peer.link.leave("this worker leaves")

    def send(self, worker: WorkerId, message: ToWorker) -> None:
        """Send now, or as soon as the connection is up; `WorkerLost` follows where that can't be."""
        peer = self._peers.get(worker) or self._connected(worker)
        if peer is None:
            self._tell(WorkerLost(worker, "discovery does not know it"))
        elif peer.unsent is not None:
            peer.unsent.append(encode(message))
        else:
            peer.link.send(encode(message))

    def look(self) -> None:
        """Take what discovery has to say at once: somebody has heard of a worker that is new."""
        for change in self._watch.take():
            if not isinstance(change, Joined | Changed | Left) or change.record.id == self._own.worker:
                continue
            worker = WorkerId(change.record.id)
            if isinstance(change, Left):
                self._listed.pop(worker, None)
                self._jobs.start(partial(self._until_dead, change.record))
                continue
            self._listed[worker] = change.record
            if change.record.data is not None:
                self._met(worker, str(change.record.data))

    async def _watching(self) -> None:
        while True:
            self.look()
            await self._watch.changed()

    async def _until_dead(self, record: Record) -> None:
        """Tell the carrier of a worker's end once that is certain, unless the worker is listed again."""
        worker = WorkerId(record.id)
        while worker not in self._listed:
            if await self._cluster.fencer.look(record) == "dead":
                self._met(worker, None)
                return
            await asyncio.sleep(DEATH_POLL_S)

    def _connected(self, worker: WorkerId) -> _Peer | None:
        """Begin to connect to a worker; None where discovery does not know it."""
        if worker not in self._listed:
            self._watch.refresh()  # a gateway may have found it before us
            self.look()
        record = self._listed.get(worker)
        if record is None:
            return None
        peer = self._peers[worker] = _Peer(record, Link(self._hello, worker, self._heard))
        self._jobs.start(partial(self._follow, worker, peer))
        return peer

    async def _follow(self, worker: WorkerId, peer: _Peer) -> None:
        try:
            reason = await peer.link.follow(peer.record, self._cluster, self._card_s)
        except PeerError as error:
            reason = str(error)
        except TimeoutError:
            reason = f"no card within {self._card_s:g} s"
            peer.link.cut(reason)
        del self._peers[worker]
        self._watch.refresh()
        self._tell(WorkerLost(worker, reason))

    def _heard(self, event: LinkEvent) -> None:
        if isinstance(event, WorkerJoined):
            self._greeted(event.card)
        elif isinstance(event, FromWorker):
            self._tell(event)

    def _greeted(self, card: Card) -> None:
        """Send what waited, if the peer's blocks are as ours are in name and content. Raises PeerError, else."""
        own, peer = self._own, self._peers.get(card.worker)
        if (card.revision, card.hash_check) != (own.revision, own.hash_check):
            raise PeerError(f"{card.worker} has another model revision or cluster key")
        if peer is not None and peer.unsent is not None:
            for frame in peer.unsent:
                peer.link.send(frame)
            peer.unsent = None


def _unheard(event: FromWorker | WorkerLost) -> None:
    """Nobody listens yet, so nobody has sent."""
