"""The transport `shm`, to a peer of this host: its arena is mapped here, and blocks are copied straight into place.

The arena is mapped when blocks first go there. The peer takes no part. Each call ends by looking whether the peer still
lives: bytes written into a dead worker's memory harm nobody and have not arrived.
"""

import threading
import time
from collections.abc import Callable, Sequence

from jedlik.core.errors import PeerError
from jedlik.core.ids import Handle as Ticket
from jedlik.transfer.arena import ArenaReference, MappedArena, attach, attach_scratch
from jedlik.transfer.messages import MemoryTier
from jedlik.transfer.region import Copier, Mapped, Region, trial_memory
from jedlik.transfer.store import Done, Stop


class ShmTransport:
    """A `Transport` through the peer's mapped arena."""

    path = "shm"
    slice_bytes = 16 << 20

    def __init__(self, reference: ArenaReference, dead: Callable[[], bool], copier: Copier) -> None:
        """`dead` says whether the peer has ended. Raises PeerError where its arena can't be mapped."""
        attach_scratch(reference)
        self._reference = reference
        self._mapping: MappedArena | None = None
        self._closed = False
        self._dead = dead
        self._copier = copier
        self._lock = threading.Lock()

    def push(
        self,
        source: Region,
        source_blocks: Sequence[int],
        tier: MemoryTier,
        target_blocks: Sequence[int],
        ticket: Ticket,
        stop: Stop,
    ) -> Done:
        theirs = self._theirs(tier)
        if theirs is None or self._dead():
            return 0, "gone"
        self._copier.copy(source, source_blocks, theirs, target_blocks)
        return self._result(len(source_blocks))

    def pull(
        self, tier: MemoryTier, source_blocks: Sequence[int], target: Region, target_blocks: Sequence[int], stop: Stop
    ) -> Done:
        theirs = self._theirs(tier)
        if theirs is None or self._dead():
            return 0, "gone"
        self._copier.copy(theirs, source_blocks, target, target_blocks)
        return self._result(len(source_blocks))

    def trial(self, count: int, part_bytes: int) -> float:
        if self._closed:
            raise PeerError("the peer has gone")
        with self._lock:
            scratch = Mapped(attach_scratch(self._reference)[: count * part_bytes], part_bytes)
            ours = Mapped(trial_memory(count * part_bytes), part_bytes)
            indices = list(range(count))
            # Every other part first, so that no two neighbours are copied as one.
            order = indices[::2] + indices[1::2]
            began_s = time.perf_counter()
            self._copier.copy(ours, order, scratch, indices)
            return time.perf_counter() - began_s

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._mapping = None  # unmapped when the last call has let go of it

    def _theirs(self, tier: MemoryTier) -> Mapped | None:
        with self._lock:
            if self._closed:
                return None
            try:
                mapping = self._mapping = self._mapping or attach(self._reference)
            except PeerError:
                return None
            return mapping.device if tier == "device" else mapping.host

    def _result(self, count: int) -> Done:
        return (0, "gone") if self._dead() else (count, "")
