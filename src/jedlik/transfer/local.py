"""Moves inside one worker: between its memories, and between memory and its stores."""

from collections.abc import Sequence

from jedlik.core.ids import BlockId
from jedlik.core.moves import Cause
from jedlik.transfer.ledger import Job
from jedlik.transfer.region import Copier, Region, staging_buffers
from jedlik.transfer.store import Done, Store

SLICE_BYTES = 8 << 20
"""Copied before anything else gets its turn."""
STORE_SLICE_BYTES = 32 << 20
"""Stores work on many blocks at a time, and look themselves whether to stop."""


def slice_end(job: Job, slice_bytes: int) -> int:
    """The next slice of a job is [job.done, this)."""
    per_block = max(1, job.size_bytes // max(1, job.blocks))
    return min(job.blocks, job.done + max(1, slice_bytes // per_block))


def whole(job: Job) -> Cause | None:
    """After a slice that went well."""
    return "" if job.done == job.blocks else None


class CopyWork:
    """From memory to memory."""

    def __init__(self, copier: Copier, source: Region, target: Region) -> None:
        self._copier = copier
        self._source, self._target = source, target

    def carry(self, job: Job) -> Cause | None:
        some = slice(job.done, slice_end(job, SLICE_BYTES))
        self._copier.copy(self._source, job.move.source_blocks[some], self._target, job.move.target_blocks[some])
        job.done = some.stop
        return whole(job)


class StoreWork:
    """From memory to a store (`writing`) or back."""

    def __init__(self, store: Store, memory: Region, *, writing: bool) -> None:
        self._store, self._memory, self._writing = store, memory, writing

    def carry(self, job: Job) -> Cause | None:
        move = job.move
        first, end = job.done, slice_end(job, STORE_SLICE_BYTES)
        ids = move.ids[first:end]
        slots, blocks = (
            (move.target_blocks, move.source_blocks) if self._writing else (move.source_blocks, move.target_blocks)
        )
        parent = move.ids[first - 1] if first else move.parent
        call = self._write if self._writing else self._read
        done, cause = call(job, slots[first:end], ids, parent, blocks[first:end])
        job.done += done
        return cause or whole(job)

    def _write(
        self, job: Job, slots: Sequence[int], ids: Sequence[BlockId], parent: BlockId | None, blocks: Sequence[int]
    ) -> Done:
        mapped = self._memory.mapped
        if mapped is not None:
            return self._store.write(slots, ids, parent, mapped.views(blocks), job.stop)
        staging = staging_buffers(len(blocks), self._memory.block_bytes)
        self._memory.read(blocks, staging)
        return self._store.write(slots, ids, parent, staging, job.stop)

    def _read(
        self, job: Job, slots: Sequence[int], ids: Sequence[BlockId], _: BlockId | None, blocks: Sequence[int]
    ) -> Done:
        mapped = self._memory.mapped
        if mapped is not None:
            return self._store.read(slots, ids, mapped.views(blocks), job.stop)
        staging = staging_buffers(len(blocks), self._memory.block_bytes)
        done, cause = self._store.read(slots, ids, staging, job.stop)
        self._memory.write(blocks[:done], staging[:done])
        return done, cause
