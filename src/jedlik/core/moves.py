"""Blocks on the move: from where, to where, and what became of it. One `Move` serves hand-off, offload and fetch.

A worker node says what is to be moved (`Move`), something carries it (`transfer/` on a host, the heap in a simulation)
and tells what came of it (`Moved`), once. Until then the blocks on both sides belong to the move: nobody re-uses them,
whatever happens to who wanted them. Only what is told as arrived may be read as KV; anything else is a miss.
"""

from typing import Literal

import msgspec

from jedlik.core.ids import BlockId, Handle, WorkerId

Tier = Literal["device", "host", "disk", "object"]
TIERS: tuple[Tier, ...] = ("device", "host", "disk", "object")
"""Nearest first. Facts about a worker's blocks name a tier by its place here."""

Cause = Literal["", "late", "cancelled", "gone", "corrupt", "stale", "missing", "failed"]
"""Why not all blocks arrived: "" all did; "late": the deadline passed; "gone": the peer or the store is; "corrupt": the
bytes differ from their checksum; "stale": of another generation or identity; "missing": not there; "failed": else."""


class Location(msgspec.Struct, frozen=True, array_like=True):
    """A tier of a worker, as the place of KV blocks. None stands for the worker that sends the message."""

    tier: Tier
    worker: WorkerId | None = None


DEVICE = Location("device")


class Move(msgspec.Struct, frozen=True, kw_only=True, tag="move"):
    """Copy blocks, the first to the first, and so on. Told `Moved` once, whatever happens."""

    number: int
    """Consecutive from 1 within an incarnation of the worker."""
    source: Location
    source_blocks: list[int]
    """Indices in the source's memory or slots; of the object tier, where `ids` name them: empty."""
    target: Location
    target_blocks: list[int]
    ids: list[BlockId]
    """The ids of the blocks, in chain order. They are written beside the data that leaves memory and compared when it
    is read."""
    parent: BlockId | None
    """The block before ids[0] in its chain; None: there is none."""
    deadline_s: float
    """Seconds from now: what has not begun by then is not begun."""
    ticket: Handle = Handle(0)
    """The name of the hand-off, in a push to another worker. A worker takes no writes for tickets it has revoked."""

    @property
    def blocks(self) -> int:
        return max(len(self.source_blocks), len(self.target_blocks), len(self.ids))


class CancelMove(msgspec.Struct, frozen=True, tag="cancel_move"):
    """Nobody wants this move any more: end it soon. `Moved` comes all the same; unknown numbers are a no-op."""

    number: int


class Revoke(msgspec.Struct, frozen=True, tag="revoke"):
    """Take no more writes for these tickets from this worker, which can't be asked any more. Told `Revoked`."""

    worker: WorkerId
    tickets: list[Handle]


class Compare(msgspec.Struct, frozen=True, tag="compare"):
    """Compare what a tier gave back with what was computed here. Told `Compared` once."""

    number: int
    dtype: str
    """The type of the numbers, as in the layout. Values are compared as numbers, since two ways to compute one differ
    in the last bits."""
    blocks: list[int]
    computed: list[int]
    """The blocks on the device that were computed."""


Order = Move | CancelMove | Compare | Revoke
"""The orders of a worker node to the code that carries blocks."""


class Moved(msgspec.Struct, frozen=True, kw_only=True, tag="moved"):
    """A move has ended: neither side's blocks are touched for it any more."""

    number: int
    blocks: int
    """The number of the first blocks that arrived, whole and verified."""
    cause: Cause = ""
    path: str = ""
    """The path that carried it: "shm", "tcp", "nixl", "copy" (inside one worker), "file", "object", "sim"."""
    size_bytes: int = 0
    queued_s: float = 0.0
    """Seconds before it began."""
    elapsed_s: float = 0.0
    """Seconds from its beginning to its end."""


class Revoked(msgspec.Struct, frozen=True, tag="revoked"):
    """A promise that these tickets are written no more: the writer is dead, or can't reach this memory now."""

    worker: WorkerId
    tickets: list[Handle]


class Compared(msgspec.Struct, frozen=True, tag="compared"):
    number: int
    differing: int
    """Blocks that hold something else, not only rounded otherwise."""


class StoredRun(msgspec.Struct, frozen=True, array_like=True):
    """Blocks in a row that a tier holds: ids[0] follows `parent` (None: the root of a chain)."""

    parent: BlockId | None
    ids: list[BlockId]
    slots: list[int]
    """The blocks' slots in the tier; empty for the object tier."""


class TierOpened(msgspec.Struct, frozen=True, tag="tier_opened"):
    """A tier that outlives the worker is ready, with what it holds from before: parents before children."""

    tier: Tier
    runs: list[StoredRun]


class PathCosts(msgspec.Struct, frozen=True, array_like=True):
    """The time that a transfer takes on one path: seconds = blocks * block_s + bytes * byte_s, alone on it."""

    path: str
    """Between workers: "shm" (one host), "tcp" or "nixl" (hosts).

    From own tiers: "host", "disk", "object"; to them: "to host", ...
    """
    block_s: float
    byte_s: float
    open: bool = True
    """False: it failed lately and is not to be used (a tripped circuit breaker)."""


class PathsMeasured(msgspec.Struct, frozen=True, tag="paths_measured"):
    """Probes have measured this worker's paths: the figures replace what was known of the paths named."""

    paths: list[PathCosts]


CarrierReport = Moved | Compared | Revoked | TierOpened | PathsMeasured
"""The events that the code that carries blocks gives to a worker node."""
