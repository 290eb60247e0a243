"""What the agent needs of a tier that is not memory: numbered slots of one block each, or an object store.

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
"""Whether the move was cancelled or the agent closes: looked at between blocks."""

Done = tuple[int, Cause]
"""How many of the first blocks are done, and why not all: ("" exactly if all are)."""


class BlockStore(Protocol):
    """A tier's slots. One owner per folder or bucket prefix, where it needs one, is the store's own business."""

    kind: Tier
    """"disk" or "object"."""
    notes: list[str]
    """What the operator should know of how `open` went, in sentences."""

    def open(self) -> list[StoredRun]:
        """Once, before anything else, on a thread: make or find what is kept; what is there from before, parents first.

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
        """Keep `buffers[i]` as block `ids[i]` in `slots[i]` (of an object store: `slots` is empty).

        `parent` precedes ids[0]; each id precedes the next. Nobody reads those slots meanwhile. A block counts as done
        once a later `read` finds it; whether it survives a crash is told by the next `open`.
        """

    def read(self, slots: Sequence[int], ids: Sequence[BlockId], buffers: Sequence[Buffer], stop: Stop) -> Done:
        """Fill `buffers[i]` with block `ids[i]` of `slots[i]`, verified: identity and checksum.

        What lies in buffers beyond the blocks told as done is undefined.
        """

    def close(self) -> None:
        """After the last call has returned."""
