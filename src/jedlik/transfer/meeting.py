"""What happens when agents meet: the ways to each other are made and measured."""

from collections.abc import Callable

import msgspec

from jedlik.core.errors import PeerError
from jedlik.core.ids import WorkerId
from jedlik.core.moves import PathCosts, PathsMeasured
from jedlik.transfer.dial import dial
from jedlik.transfer.ledger import Ledger
from jedlik.transfer.messages import Card, Hello, Wire
from jedlik.transfer.nixl import NixlEngine, NixlRoute
from jedlik.transfer.peers import Peer
from jedlik.transfer.probe import CopyTrial, probe
from jedlik.transfer.region import Copier
from jedlik.transfer.route import Route
from jedlik.transfer.shm import ShmRoute
from jedlik.transfer.tcp import TcpRoute


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How an agent meets others."""

    listen: str
    """`unix:PATH` in a private directory, or `tcp:HOST:PORT` (port 0: any)."""
    key: bytes = b""
    """Of the cluster; proved by both sides on TCP."""
    paths: tuple[str, ...] = ("shm", "nixl", "tcp")
    """Which ways to peers may be used."""
    probe: bool = True
    """Measure paths, at start and when a peer is met first."""


class Meeting:
    """One agent's (`peers.Calls`)."""

    def __init__(
        self,
        card: Card,
        options: Options,
        ledger: Ledger,
        copier: Copier,
        cut: Callable[[WorkerId], None],
        nixl: NixlEngine | None,
    ) -> None:
        """`cut`: ends the connections of a dead worker."""
        self._card = card
        self._options = options
        self._ledger = ledger
        self._copier = copier
        self._cut = cut
        self._nixl = nixl
        self._probed: set[WorkerId] = set()

    def routes(self, peer: Peer) -> list[Route]:
        theirs = peer.card
        found: list[Route] = []
        if theirs is None:
            return found
        if "shm" in self._options.paths and theirs.arena is not None and self._reaches(theirs):
            try:
                found.append(ShmRoute(theirs.arena, peer.dead, self._copier))
            except PeerError:
                pass  # another way then: same host, but its memory is not for us (user, namespace)
        if self._nixl is not None and theirs.nixl is not None:
            try:
                found.append(NixlRoute(self._nixl, theirs, peer.dead))
            except PeerError:
                pass  # no common network: another way then
        if "tcp" in self._options.paths:
            found.append(TcpRoute(lambda: self._data_wire(peer), peer.dead))
        return found

    def welcomed(self, peer: Peer) -> None:
        """Measure the ways to it, the first time."""
        if not self._options.probe or peer.worker in self._probed:
            return
        self._probed.add(peer.worker)
        told = []
        for route in peer.ways.routes:
            costs = probe(route.path, route.trial)
            with self._ledger.lock:
                self._ledger.costs.measured(PathCosts(peer.ways.key(route.path), *_figures(costs)))
            told.append(costs)
        self._ledger.say(PathsMeasured(told))

    def ended(self, peer: Peer) -> None:
        self._cut(peer.worker)

    def measure_own(self) -> None:
        """Copies between the memories of this worker."""
        if self._options.probe:
            costs = probe("host", CopyTrial(self._copier))
            with self._ledger.lock:
                self._ledger.costs.measured(costs)
            self._ledger.say(PathsMeasured([costs]))

    def close(self) -> None:
        """After every route."""
        if self._nixl is not None:
            self._nixl.close()

    def _reaches(self, theirs: Card) -> bool:
        """Whether all its memory is in the arena (a GPU's is not)."""
        arena = theirs.arena
        same_host = theirs.process.host == self._card.process.host
        return same_host and arena is not None and arena.device_blocks == theirs.device_blocks

    def _data_wire(self, peer: Peer) -> Wire:
        if peer.address is None:
            raise PeerError("nobody has said where it listens")
        wire, welcome = dial(peer.address, self._options.key, Hello(self._card, peer.worker, "data"))
        peer.ways.stopped.update(welcome.stopped)
        return wire


def _figures(costs: PathCosts) -> tuple[float, float, bool]:
    return costs.block_s, costs.byte_s, costs.open
