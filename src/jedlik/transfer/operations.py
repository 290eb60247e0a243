"""The operations that carry out transfers: local copies, store reads and writes, pushes to and pulls from peers."""

from jedlik.core.moves import Cause
from jedlik.transfer.inflight import InFlight, Transfer
from jedlik.transfer.messages import MemoryTier
from jedlik.transfer.region import Copier, Region, fill_blocks, views_to_read
from jedlik.transfer.store import BlockStore, Done
from jedlik.transfer.transports import PeerTransports, Transport

SLICE_BYTES = 8 << 20
"""The bytes that are copied before anything else gets its turn."""
STORE_SLICE_BYTES = 32 << 20
"""The bytes of one call of a store: it works on many blocks at a time, and looks itself whether to stop."""


class LocalCopy:
    """A copy from memory to memory."""

    def __init__(self, copier: Copier, source: Region, target: Region) -> None:
        self._copier = copier
        self._source, self._target = source, target

    def advance(self, transfer: Transfer) -> Cause | None:
        some, move = transfer.next_slice(SLICE_BYTES), transfer.move
        self._copier.copy(self._source, move.source_blocks[some], self._target, move.target_blocks[some])
        transfer.done = some.stop
        return transfer.outcome()


class StoreAccess:
    """A write from memory to a store (`writing`), or a read back."""

    def __init__(self, store: BlockStore, memory: Region, *, writing: bool) -> None:
        self._store, self._memory, self._writing = store, memory, writing

    def advance(self, transfer: Transfer) -> Cause | None:
        some = transfer.next_slice(STORE_SLICE_BYTES)
        if self._writing:
            done, cause = self._write(transfer, some)
        else:
            done, cause = self._read(transfer, some)
        transfer.done += done
        return cause or transfer.outcome()

    def _write(self, transfer: Transfer, some: slice) -> Done:
        move = transfer.move
        parent = move.ids[some.start - 1] if some.start else move.parent
        buffers = views_to_read(self._memory, move.source_blocks[some])
        return self._store.write(move.target_blocks[some], move.ids[some], parent, buffers, transfer.should_stop)

    def _read(self, transfer: Transfer, some: slice) -> Done:
        slots, ids = transfer.move.source_blocks[some], transfer.move.ids[some]

        def fill(buffers: list[memoryview]) -> Done:
            return self._store.read(slots, ids, buffers, transfer.should_stop)

        return fill_blocks(self._memory, transfer.move.target_blocks[some], fill)


class PeerExchange:
    """A push to a peer, or a pull from it, by one transport after the other until one works."""

    def __init__(
        self, transports: PeerTransports, in_flight: InFlight, memory: Region, tier: MemoryTier, *, pushing: bool
    ) -> None:
        """`memory` is this worker's, `tier` the peer's."""
        self._transports, self._in_flight = transports, in_flight
        self._memory, self._tier, self._pushing = memory, tier, pushing
        self._transport: Transport | None = None
        self._tried: set[str] = set()

    def advance(self, transfer: Transfer) -> Cause | None:
        if self._is_stopped(transfer):
            return "stale"
        transport = self._transport or self._choose(transfer)
        if transport is None:
            return "gone"
        if not transfer.done and not self._exist(transfer):
            return "failed"
        done, cause = self._call(transport, transfer, transfer.next_slice(transport.slice_bytes))
        transfer.done += done
        if cause == "gone" and self._is_stopped(transfer):
            return "stale"  # that is why the connection was cut
        if cause in ("gone", "failed") and not transfer.stop_cause and self._can_switch(transfer, cause):
            return None
        return (transfer.stop_cause or cause) if cause == "cancelled" else (cause or transfer.outcome())

    def _is_stopped(self, transfer: Transfer) -> bool:
        return self._pushing and transfer.move.ticket in self._transports.stopped

    def _exist(self, transfer: Transfer) -> bool:
        """Whether the peer has the transfer's blocks."""
        theirs = transfer.move.target_blocks if self._pushing else transfer.move.source_blocks
        return max(theirs) < self._transports.blocks[self._tier] and min(theirs) >= 0

    def _choose(self, transfer: Transfer) -> Transport | None:
        transport = self._transports.choose(transfer, self._tried)
        if transport is not None:
            self._tried.add(transport.path)
            self._in_flight.charge(transfer, transport.path, self._transports.cost_key(transport.path))
        self._transport = transport
        return transport

    def _can_switch(self, transfer: Transfer, cause: Cause) -> bool:
        """Give up the transport; whether there is another one to try."""
        others = any(transport.path not in self._tried for transport in self._transports.open)
        if self._transports.dead() or not others:
            return False
        self._in_flight.uncharge(transfer, cause)
        self._transport = None
        return True

    def _call(self, transport: Transport, transfer: Transfer, some: slice) -> Done:
        move, stop = transfer.move, transfer.should_stop
        sources, targets = move.source_blocks[some], move.target_blocks[some]
        if self._pushing:
            return transport.push(self._memory, sources, self._tier, targets, move.ticket, stop)
        return transport.pull(self._tier, sources, self._memory, targets, stop)
