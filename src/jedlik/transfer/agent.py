"""Carries out a worker's moves: copies inside it, pushes to and pulls from peers, and its stores.

    arena = Arena(block_bytes, device_blocks, host_blocks)          # the engine's cache is arena.device.array
    agent = Agent(worker_id, arena, AgentOptions(listen="unix:/run/x/w0.data"), stores=[FileStore(...)])
    agent.address                                                   # publish it: peers' agents learn it by `met`
    agent.start(notify); agent.perform(move); agent.met(peer, address); agent.close(); arena.close()

An agent decides nothing about which blocks go where, and checks only that they exist. Threads: about two for each peer
and connection.
"""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from jedlik.core.errors import JedlikError
from jedlik.core.ids import WorkerId
from jedlik.core.moves import (
    CancelMove,
    Cause,
    Compare,
    Compared,
    Location,
    Move,
    Order,
    PathsMeasured,
    Revoke,
    Revoked,
    TierOpened,
)
from jedlik.transfer.arena import Arena
from jedlik.transfer.connection import listen
from jedlik.transfer.inflight import Notify, Transfer, TransferQueue
from jedlik.transfer.messages import AgentCard, MemoryTier
from jedlik.transfer.nixl import NixlEngine, open_engine
from jedlik.transfer.operations import LocalCopy, StoreAccess
from jedlik.transfer.peers import PeerAgent, Peers
from jedlik.transfer.processes import this_process
from jedlik.transfer.region import Region, differing
from jedlik.transfer.server import AgentServer
from jedlik.transfer.store import BlockStore
from jedlik.transfer.transports import AgentOptions, AgentState, CopyTrial, probe, reading_costs

__all__ = ["Agent", "AgentOptions"]
STORE_THREADS = 2


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")


class Agent:
    """One worker's agent. It listens from the moment it is made; close it also where it was never started."""

    def __init__(
        self,
        worker: WorkerId,
        arena: Arena,
        options: AgentOptions,
        stores: Sequence[BlockStore] = (),
        device: Region | None = None,
        complain: Callable[[str], None] = _to_stderr,
    ) -> None:
        """`device`: the engine's cache where it isn't in the arena (a GPU's). Raises OSError if it can't listen."""
        self.paths = options.paths
        self.without_nixl = ""
        """The reason why there is no NIXL, where it was looked for."""
        self._worker = worker
        self._memory: dict[str, Region] = {"device": device or arena.device, "host": arena.host}
        self._stores = {store.kind: store for store in stores}
        self._opened: set[str] = set()
        self._opening: list[threading.Thread] = []
        self._complain = complain
        self._closed = False
        self._queues: dict[str, TransferQueue] = {}
        sock, self.address = listen(options.listen)
        nixl = self._open_nixl(arena, options)
        card = _card(worker, arena, self._memory, options, nixl)
        self._state = AgentState(card, options, self._memory, nixl)
        self._in_flight = self._state.in_flight
        self._peers = Peers(self._state, lambda peer: self._server.cut(peer))
        self._server = AgentServer(sock, self._state, self._peers)

    def start(self, notify: Notify) -> None:
        """Begin to work. `notify` is called on this agent's threads, one call at a time, never inside its methods."""
        self._in_flight.start(notify)
        self._queues["copy"] = TransferQueue("copy", 1, self._in_flight)
        for kind, store in sorted(self._stores.items()):
            self._queues[kind] = TransferQueue(kind, STORE_THREADS, self._in_flight)
            opening = threading.Thread(target=self._open, args=(store,), name=f"jedlik-open-{kind}", daemon=True)
            self._opening.append(opening)
            opening.start()
        self._server.start()
        self._in_flight.run_soon(self._measure_copies)

    def perform(self, effect: Order) -> None:
        """Carry out an order. Returns at once; whatever is wrong with a move is reported by `Moved`."""
        match effect:
            case Move():
                transfer = self._in_flight.add(effect)
                if cause := self._begin(transfer):
                    self._in_flight.stop(transfer, cause)
            case CancelMove():
                if (found := self._in_flight.find(effect.number)) is not None:
                    self._in_flight.stop(found, "cancelled")
            case Revoke():
                self._in_flight.run_soon(lambda: self._revoke(effect))
            case Compare():
                self._in_flight.run_soon(lambda: self._compare(effect))

    def met(self, worker: WorkerId, address: str | None) -> None:
        """Connect to a worker's agent ahead of need; None: the worker's process has ended, for certain."""
        if worker != self._worker:
            self._peers.of(worker).met(address)

    def close(self) -> None:
        """Stop every thread, then the stores. Moves that have not ended are not reported."""
        if self._closed:
            return
        self._closed = True
        self._in_flight.stop_all()
        closing: list[PeerAgent | TransferQueue] = [*self._peers.all(), *self._queues.values()]
        for carrying in closing:
            carrying.close()
        for carrying in closing:
            carrying.join()
        self._in_flight.abandon()
        self._server.close()
        for thread in self._opening:
            thread.join()
        if self._state.nixl is not None:
            self._state.nixl.close()
        self._in_flight.close()
        for kind, store in sorted(self._stores.items()):
            if kind in self._opened:
                store.close()

    def _begin(self, transfer: Transfer) -> Cause:
        """Hand a transfer to a queue; return why not."""
        move = transfer.move
        source, target = self._own(move.source), self._own(move.target)
        if (source.worker is not None and target.worker is not None) or not self._sound(move, source, target):
            return "failed"
        if target.worker is not None or source.worker is not None:
            return self._to_peer(transfer, source, target)
        if source.tier in self._memory and target.tier in self._memory:
            copy = LocalCopy(self._state.copier, self._memory[source.tier], self._memory[target.tier])
            self._in_flight.charge(transfer, "copy", "host")
            self._queues["copy"].put(transfer, copy)
            return ""
        return self._to_store(transfer, source, target)

    def _to_store(self, transfer: Transfer, source: Location, target: Location) -> Cause:
        writing = source.tier in self._memory
        kind, memory = (target.tier, source.tier) if writing else (source.tier, target.tier)
        if memory not in self._memory:
            return "failed"
        if kind not in self._opened:
            return "missing"
        self._in_flight.charge(transfer, "file" if kind == "disk" else kind, kind)
        access = StoreAccess(self._stores[kind], self._memory[memory], writing=writing)
        self._queues[kind].put(transfer, access)
        return ""

    def _to_peer(self, transfer: Transfer, source: Location, target: Location) -> Cause:
        theirs, ours = (target, source) if target.worker is not None else (source, target)
        if ours.tier not in self._memory or theirs.tier not in self._memory or theirs.worker is None:
            return "failed"
        self._peers.submit(transfer, theirs.worker, ours.tier, cast(MemoryTier, theirs.tier))
        return ""

    def _own(self, place: Location) -> Location:
        return Location(place.tier) if place.worker == self._worker else place

    def _sound(self, move: Move, source: Location, target: Location) -> bool:
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
        """On the table's thread: closing the fence may take a moment."""
        if self._state.fences.of(effect.worker).close(effect.tickets):
            self._peers.of(effect.worker).revoke(effect.tickets)
        else:
            self._in_flight.report(Revoked(effect.worker, effect.tickets))

    def _compare(self, effect: Compare) -> None:
        found = differing(self._memory["device"], effect.blocks, effect.computed, effect.dtype)
        self._in_flight.report(Compared(effect.number, found))

    def _measure_copies(self) -> None:
        """Measure copies between the memories of this worker."""
        if self._state.options.probe:
            costs = probe("host", CopyTrial(self._state.copier))
            with self._in_flight.lock:
                self._in_flight.costs.measured(costs)
            self._in_flight.report(PathsMeasured([costs]))

    def _open_nixl(self, arena: Arena, options: AgentOptions) -> NixlEngine | None:
        """NIXL, where it was installed and there are peers that can't share memory with us."""
        needed = options.listen.startswith("tcp:") or "shm" not in options.paths
        if "nixl" not in options.paths or not needed or self._memory["device"] is not arena.device:
            return None
        engine, self.without_nixl = open_engine(self._worker, arena)
        return engine

    def _open(self, store: BlockStore) -> None:
        try:
            runs = store.open()
        except JedlikError as error:
            self._complain(f"no {store.kind} tier: {error}")
            return
        for note in store.notes:
            self._complain(note)
        if (costs := reading_costs(store, runs, self._in_flight.block_bytes)) is not None:
            self._in_flight.report(PathsMeasured([costs]))
        self._opened.add(store.kind)
        self._in_flight.report(TierOpened(store.kind, runs))


def _card(
    worker: WorkerId, arena: Arena, memory: Mapping[str, Region], options: AgentOptions, nixl: NixlEngine | None
) -> AgentCard:
    return AgentCard(
        worker=worker,
        process=this_process(),
        block_bytes=arena.block_bytes,
        device_blocks=memory["device"].blocks,
        host_blocks=arena.host.blocks,
        arena=arena.reference if "shm" in options.paths else None,
        nixl=None if nixl is None else nixl.card,
    )
