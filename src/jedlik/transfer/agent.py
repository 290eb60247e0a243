"""Carries a worker's moves: copies inside it, pushes to and pulls from peers, and its stores (`live.worker.Carrier`).

    arena = Arena(block_bytes, device_blocks, host_blocks)          # the engine's cache is arena.device.array
    agent = Agent(worker_id, arena, Options(listen="unix:/run/x/w0.data"), stores=[FileStore(...)])
    agent.address                                                   # publish it: peers' agents are told by `met`
    agent.start(tell); agent.perform(move); agent.met(peer, address); agent.close(); arena.close()

Decides nothing about which blocks go where, checks only that they exist. Threads: about two per peer and connection.
"""

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from jedlik.core.errors import JedlikError
from jedlik.core.ids import Handle as Ticket
from jedlik.core.ids import WorkerId
from jedlik.core.moves import (
    CancelMove,
    Cause,
    Compare,
    Compared,
    Move,
    Order,
    PathCosts,
    PathsMeasured,
    Place,
    Revoke,
    Revoked,
    TierOpened,
)
from jedlik.transfer.arena import Arena
from jedlik.transfer.compare import differing
from jedlik.transfer.dial import listen
from jedlik.transfer.gates import Gates
from jedlik.transfer.hosts import local_facts
from jedlik.transfer.incoming import Hosting, Incoming
from jedlik.transfer.lanes import Lane
from jedlik.transfer.ledger import Job, Ledger, Tell
from jedlik.transfer.local import CopyWork, StoreWork
from jedlik.transfer.meeting import Meeting, Options
from jedlik.transfer.messages import SCHEMA, Card, Link, Links, MemoryTier
from jedlik.transfer.nixl import NixlEngine, open_engine
from jedlik.transfer.peers import Ours, Peer
from jedlik.transfer.probe import reading_costs
from jedlik.transfer.processes import this_process
from jedlik.transfer.region import Copier, Region
from jedlik.transfer.store import Store

__all__ = ["Agent", "Options"]
STORE_THREADS = 2


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")


class Agent:
    """One worker's. Listens from the moment it is made; to be closed also where it was never started."""

    def __init__(
        self,
        worker: WorkerId,
        arena: Arena,
        options: Options,
        stores: Sequence[Store] = (),
        device: Region | None = None,
        complain: Callable[[str], None] = _to_stderr,
    ) -> None:
        """`device`: the engine's cache where it isn't in the arena (a GPU's). Raises OSError if it can't listen."""
        self.paths = options.paths
        self.without_nixl = ""
        """Why there is no NIXL, where it was looked for."""
        self._worker = worker
        self._memory: dict[str, Region] = {"device": device or arena.device, "host": arena.host}
        self._stores = {store.kind: store for store in stores}
        self._opened: set[str] = set()
        self._opening: list[threading.Thread] = []
        self._complain = complain
        self._copier = Copier()
        self._ledger = Ledger(arena.block_bytes)
        self._gates = Gates()
        self._lock = threading.Lock()
        self._closed = False
        self._peers: dict[WorkerId, Peer] = {}
        self._lanes: dict[str, Lane] = {}
        sock, self.address = listen(options.listen)
        nixl = self._open_nixl(arena, options)
        card = _card(worker, arena, self._memory, options, nixl)
        hosting = Hosting(card, options.key, self._memory, self._gates, self)
        self._incoming = Incoming(sock, hosting)
        self._meeting = Meeting(card, options, self._ledger, self._copier, self._incoming.cut, nixl)
        self._ours = Ours(card, options.key, self._ledger, self._gates, self._meeting)

    def start(self, tell: Tell) -> None:
        """`tell` is called from threads of this agent's, one call at a time, never inside a call of ours."""
        self._ledger.start(tell)
        self._lanes["copy"] = Lane("copy", 1, self._ledger)
        for kind, store in sorted(self._stores.items()):
            self._lanes[kind] = Lane(kind, STORE_THREADS, self._ledger)
            opening = threading.Thread(target=self._open, args=(store,), name=f"jedlik-open-{kind}", daemon=True)
            self._opening.append(opening)
            opening.start()
        self._incoming.start()
        self._ledger.later(self._meeting.measure_own)

    def perform(self, effect: Order) -> None:
        """Returns at once. Whatever is wrong with a move is told by `Moved`."""
        match effect:
            case Move():
                job = self._ledger.enter(effect)
                if cause := self._begin(job):
                    self._ledger.stop(job, cause)
            case CancelMove():
                if (found := self._ledger.find(effect.number)) is not None:
                    self._ledger.stop(found, "cancelled")
            case Revoke():
                self._ledger.later(lambda: self._revoke(effect))
            case Compare():
                self._ledger.later(lambda: self._compare(effect))

    def met(self, worker: WorkerId, address: str | None) -> None:
        """Connect there ahead of need; None: its process has ended, for certain."""
        if worker != self._worker:
            self._peer(worker).met(address)

    def close(self) -> None:
        """Stop every thread, then the stores. Moves that have not ended are not told of."""
        if self._closed:
            return
        self._closed = True
        self._ledger.halt()
        with self._lock:
            peers = list(self._peers.values())
        closing: list[Peer | Lane] = [*peers, *self._lanes.values()]
        for carrying in closing:
            carrying.close()
        for carrying in closing:
            carrying.join()
        self._ledger.abandon()
        self._incoming.close()
        for thread in self._opening:
            thread.join()
        self._meeting.close()
        self._ledger.close()
        for kind, store in sorted(self._stores.items()):
            if kind in self._opened:
                store.close()

    def _begin(self, job: Job) -> Cause:
        """Hand it to a lane; why not."""
        move = job.move
        source, target = self._own(move.source), self._own(move.target)
        if source.worker is not None and target.worker is not None:
            return "failed"
        if not self._sound(move, source, target):
            return "failed"
        if target.worker is not None or source.worker is not None:
            return self._to_peer(job, source, target)
        if source.tier in self._memory and target.tier in self._memory:
            self._ledger.charge(job, "copy", "host")
            self._lanes["copy"].put(job, CopyWork(self._copier, self._memory[source.tier], self._memory[target.tier]))
            return ""
        return self._to_store(job, source, target)

    def _to_store(self, job: Job, source: Place, target: Place) -> Cause:
        writing = source.tier in self._memory
        store, memory = (target.tier, source.tier) if writing else (source.tier, target.tier)
        if memory not in self._memory:
            return "failed"
        if store not in self._opened:
            return "missing"
        found = next(its for kind, its in self._stores.items() if kind == store)
        self._ledger.charge(job, "file" if store == "disk" else store, store)
        self._lanes[store].put(job, StoreWork(found, self._memory[memory], writing=writing))
        return ""

    def _to_peer(self, job: Job, source: Place, target: Place) -> Cause:
        pushing = target.worker is not None
        theirs, ours = (target, source) if pushing else (source, target)
        if ours.tier not in self._memory or theirs.tier not in self._memory or theirs.worker is None:
            return "failed"
        peer = self._peer(theirs.worker)
        peer.submit(job, self._memory[ours.tier], cast(MemoryTier, theirs.tier), pushing=pushing)
        return ""

    def _own(self, place: Place) -> Place:
        return Place(place.tier) if place.worker == self._worker else place

    def _sound(self, move: Move, source: Place, target: Place) -> bool:
        """Whether it says which blocks, as many on both sides, and ours are within our memory."""
        for place, blocks in ((source, move.source_blocks), (target, move.target_blocks)):
            needed = len(move.ids) if place.tier == "object" else move.blocks
            if place.tier == "object" and not blocks:
                if needed != move.blocks:
                    return False
                continue
            if len(blocks) != move.blocks or not blocks:
                return False
            region = self._memory.get(place.tier) if place.worker is None else None
            if region is not None and not (min(blocks) >= 0 and max(blocks) < region.blocks):
                return False
        stored = source.tier not in self._memory or target.tier not in self._memory
        return not stored or len(move.ids) == move.blocks

    def _revoke(self, effect: Revoke) -> None:
        """On the ledger's thread: closing the gate may take a moment."""
        if self._gates.of(effect.worker).close(effect.tickets):
            self._peer(effect.worker).revoke(effect.tickets)
        else:
            self._ledger.say(Revoked(effect.worker, effect.tickets))

    def _compare(self, effect: Compare) -> None:
        device = self._memory["device"]
        found = differing(device, effect.blocks, effect.computed, effect.dtype)
        self._ledger.say(Compared(effect.number, found))

    def _peer(self, worker: WorkerId) -> Peer:
        with self._lock:
            if worker not in self._peers:
                self._peers[worker] = Peer(worker, self._ours)
            return self._peers[worker]

    def greeted(self, card: Card) -> None:
        """For connections of other agents."""
        self._peer(card.worker).heard(card)

    def stop_writing(self, worker: WorkerId, tickets: list[Ticket]) -> None:
        """For connections of other agents."""
        self._peer(worker).stop_writing(tickets)

    def links(self) -> Links:
        """For `jedlik doctor --links`."""
        with self._ledger.lock:
            costs = self._ledger.costs.costs(time.monotonic())
        keys = [(cost, *cost.path.partition(" ")[::2]) for cost in costs]
        found = [Link(to, PathCosts(path, cost.block_s, cost.byte_s, cost.open)) for cost, path, to in keys]
        return Links(local_facts(), found)

    def _open_nixl(self, arena: Arena, options: Options) -> NixlEngine | None:
        """NIXL, where it was installed and there are peers that can't share memory with us."""
        needed = options.listen.startswith("tcp:") or "shm" not in options.paths
        if "nixl" not in options.paths or not needed or self._memory["device"] is not arena.device:
            return None
        engine, self.without_nixl = open_engine(self._worker, arena)
        return engine

    def _open(self, store: Store) -> None:
        try:
            runs = store.open()
        except JedlikError as error:
            self._complain(f"no {store.kind} tier: {error}")
            return
        for note in store.notes:
            self._complain(note)
        if (costs := reading_costs(store, runs, self._ledger.block_bytes)) is not None:
            self._ledger.say(PathsMeasured([costs]))
        self._opened.add(store.kind)
        self._ledger.say(TierOpened(store.kind, runs))


def _card(
    worker: WorkerId, arena: Arena, memory: Mapping[str, Region], options: Options, nixl: NixlEngine | None
) -> Card:
    handle = arena.handle if "shm" in options.paths else None
    blocks = memory["device"].blocks
    nixl_card = None if nixl is None else nixl.card
    return Card(SCHEMA, worker, this_process(), arena.block_bytes, blocks, arena.host.blocks, handle, nixl_card)
