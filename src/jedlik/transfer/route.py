"""The contract of a way to one peer: `shm`, `tcp`, `nixl`. One conformance suite runs against all of them."""

from collections.abc import Sequence
from typing import Protocol

from jedlik.core.ids import Handle as Ticket
from jedlik.transfer.messages import MemoryTier
from jedlik.transfer.region import Region
from jedlik.transfer.store import Done, Stop


class Route(Protocol):
    """Calls block and come from several threads. What the world does is an answer, not an exception.

    "gone": the peer has ended or can't be reached. "stale": it takes no (more) writes for that ticket. When a call has
    returned, nothing it began touches either side's blocks any more.
    """

    path: str
    slice_bytes: int
    """How much to ask for in one call."""

    def push(
        self,
        source: Region,
        source_blocks: Sequence[int],
        tier: MemoryTier,
        target_blocks: Sequence[int],
        ticket: Ticket,
        stop: Stop,
    ) -> Done:
        """From our memory to the peer's."""

    def pull(
        self,
        tier: MemoryTier,
        source_blocks: Sequence[int],
        target: Region,
        target_blocks: Sequence[int],
        stop: Stop,
    ) -> Done:
        """From the peer's memory to ours."""

    def trial(self, count: int, part_bytes: int) -> float:
        """Seconds to push so many parts, into nobody's blocks. At most 8 MiB. Raises PeerError."""

    def close(self) -> None:
        """Whoever is inside a call comes out of it."""
