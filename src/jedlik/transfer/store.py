"""The contract of a tier that is not memory: numbered slots of one block each, or an object store.

A store is called from the agent's threads, several at a time, and may block. It never raises for what happens in the
world: it answers how many of the first blocks are done and why not more. Raising is for bugs.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from jedlik.core.ids import BlockId
from jedlik.core.moves import Cause, StoredRun, Tier

Buffer = memoryview
"""One block's bytes (format "B", C-contiguous, exactly block_bytes long). The arena's start at multiples of 4096 where
block_bytes is one; staging buffers always do."""

Stop = Callable[[], bool]
"""A call that returns whether the transfer was cancelled or the agent closes; stores ask between blocks."""

Done = tuple[int, Cause]
"""The number of the first blocks that are done, and why not all are ("" exactly if all are)."""


class BlockStore(Protocol):
    """A tier's store of blocks. A store that needs one owner per folder or bucket prefix sees to that itself."""

    kind: Tier
    """The tier: "disk" or "object"."""
    notes: list[str]
    """Notices for the operator about how `open` went, in sentences."""

    def open(self) -> list[StoredRun]:
        """Make or find the store; return the blocks there from before, parents first. Called once, on a thread.

        Raises ConfigError for what the operator can act on (no permission, no room, another's folder).
        """

    def write(
        self,
        slots: Sequence[int],
        ids: Sequence[BlockId],
        parent: BlockId | None,
        buffers: Sequence[Buffer],
        stop: Stop,
    ) -> Done:
        """Store `buffers[i]` as block `ids[i]` in `slots[i]` (of an object store: `slots` is empty).

        `parent` precedes ids[0]; each id precedes the next. Nobody reads those slots meanwhile. A block counts as done
        once a later `read` finds it; the next `open` says whether it survived a crash.
        """

    def read(self, slots: Sequence[int], ids: Sequence[BlockId], buffers: Sequence[Buffer], stop: Stop) -> Done:
        """Fill `buffers[i]` with block `ids[i]` of `slots[i]`, verified: identity and checksum.

        The contents of buffers beyond the blocks that are done are undefined.
        """

    def close(self) -> None:
        """Close the store, after the last call has returned."""
