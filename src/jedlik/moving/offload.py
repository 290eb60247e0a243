"""Write-behind: what a sequence leaves behind is copied to lower tiers before its blocks may be used again.

Promises: never on the way of a step: an ended sequence keeps its blocks until they are copied, and gives them up at
once where memory is short and the copy has not begun; what waits is bounded. A block is in a tier only once its copy
has ended well. Chains are copied from their beginning on, so that every tier is closed by itself.
"""

from collections import deque

from jedlik.core.config import WorkerConfig
from jedlik.core.effects import Note, WorkerEffect
from jedlik.core.facts import Offloaded
from jedlik.core.ids import BlockId, BlockIndex
from jedlik.core.moves import DEVICE, Move, Moved
from jedlik.kv.eviction import Run
from jedlik.moving.hints import Hints
from jedlik.moving.moves import Job, Moves
from jedlik.moving.tiers import Store, Tiers
from jedlik.scheduling.batch import Batch
from jedlik.scheduling.sequence import Sequence

UNDER_WAY = 256
"""Blocks that are copied at one time, about: more would make fetches wait."""
COPY_DEADLINE_S = 30.0


class Copy:
    """One chain on its way down: from the device (then `sequence` holds it), or from the tier before."""

    __slots__ = ("began_s", "ids", "sequence", "source", "targets")

    def __init__(self, sequence: Sequence | None, ids: list[BlockId], targets: list[Store]) -> None:
        self.sequence, self.ids, self.targets = sequence, ids, targets
        self.source: Store | None = None
        self.began_s = 0.0


class OffloadJob(Job):
    """The move of blocks [found, found + len(slots)) of a copy's chain into one tier."""

    __slots__ = ("above", "copy", "found", "ids", "slots", "source", "source_run", "store", "wanted")
    kind = "offload"

    def __init__(
        self, copy: Copy, store: Store, ids: list[BlockId], found: int, above: Run | None, slots: list[BlockIndex]
    ) -> None:
        self.copy, self.store, self.source = copy, store, copy.source
        self.ids, self.found = ids[: found + len(slots)], found
        self.above, self.slots, self.wanted = above, slots, len(ids) - found
        """The target's run that the blocks follow; the slots that they take; the blocks that were to be copied."""
        self.source_run: Run | None = None
        """The source's run that stays until the move has ended."""
        self.number = 0


class Offloads:
    """The offloads of one worker."""

    def __init__(self, config: WorkerConfig, batch: Batch, hints: Hints, tiers: Tiers, moves: Moves) -> None:
        self._batch, self._hints, self._tiers, self._moves = batch, hints, tiers, moves
        self._most = config.offload_blocks
        self._waiting: deque[Copy] = deque()
        self._queued = self._copying = 0
        """Blocks."""
        self._known: set[int] = set()
        """Numbers of kept sequences that are looked after."""

    def __len__(self) -> int:
        return len(self._waiting) + self._copying

    @property
    def holding(self) -> bool:
        """Blocks of ended sequences are being copied: they come back soon."""
        return bool(self._known)

    def advance(self, now: float, out: list[WorkerEffect]) -> None:
        """Take on sequences that have ended since, and begin what may begin."""
        looked_after = self._known.union(self._hints.pinned())
        for s in [s for s in self._batch.lingering.values() if s.number not in looked_after]:
            self._take_on(s, now, out)
        while self._waiting and self._copying < UNDER_WAY:
            copy = self._waiting.popleft()
            self._queued -= len(copy.ids)
            self._next(copy, now, out)

    def make_room(self, now: float, out: list[WorkerEffect]) -> bool:
        """Memory is short: what has not begun to be copied is let go. False: there was no such thing."""
        dropped = [copy for copy in self._waiting if copy.sequence is not None]
        for copy in dropped:
            self._waiting.remove(copy)
            self._queued -= len(copy.ids)
            out.append(offloaded(copy, copy.targets[0], wanted=len(copy.ids), blocks=0, cause="dropped", now=now))
            self._let_go(copy, now)
        return bool(dropped)

    def _take_on(self, s: Sequence, now: float, out: list[WorkerEffect]) -> None:
        self._known.add(s.number)
        ids = s.block_ids[: s.published]
        copy = Copy(s, ids, list(self._tiers))
        hint = s.submit.hint
        if not copy.targets or not ids or not (s.admitted and s.computed) or (hint is not None and hint.final):
            self._let_go(copy, now)
        elif self._queued + len(ids) > self._most:
            out.append(offloaded(copy, copy.targets[0], wanted=len(ids), blocks=0, cause="dropped", now=now))
            self._let_go(copy, now)
        else:
            self._waiting.append(copy)
            self._queued += len(ids)

    def _next(self, copy: Copy, now: float, out: list[WorkerEffect]) -> None:
        """On to the next tier down, past those that have it all or do not want it."""
        copy.began_s = now
        while copy.targets:
            store = copy.targets.pop(0)
            ids = copy.ids[: store.admitted(copy.ids)]
            found = store.pool.match(ids)[0]
            if found < len(ids) and self._begin(copy, store, ids, found, now, out):
                return
            touched = store.pool.share(None, ids[:found])[0]
            store.pool.release(touched, [])  # what is asked for again stays longer
            if store.tier == "host" and found == len(copy.ids):
                self._comes_from(copy, store, now)
        self._let_go(copy, now)

    def _begin(
        self, copy: Copy, store: Store, ids: list[BlockId], found: int, now: float, out: list[WorkerEffect]
    ) -> bool:
        pool, source = store.pool, copy.source
        above = pool.share(None, ids[:found])[0]
        wanted = len(ids) - found
        slots = pool.take(min(wanted, pool.available_blocks)) or []
        if not slots:
            pool.release(above, [])
            out.append(offloaded(copy, store, wanted=wanted, blocks=0, cause="full", now=now))
            return False
        job = OffloadJob(copy, store, ids, found, above, slots)
        ids, blocks = job.ids, list[int]()
        if source is not None:
            job.source_run, at = source.pool.share(None, ids)
            blocks = source.slots(at[found:])
            if len(at) < len(ids):  # it left that tier meanwhile
                source.pool.release(job.source_run, [])
                pool.release(above, slots)
                return False
        elif copy.sequence is not None:
            blocks = list(copy.sequence.blocks[found : len(ids)])
        place = DEVICE if source is None else source.place
        parent = ids[found - 1] if found else None
        move = Move(
            number=0,
            source=place,
            source_blocks=blocks,
            target=store.place,
            target_blocks=store.slots(slots),
            ids=ids[found:],
            parent=parent,
            deadline_s=COPY_DEADLINE_S,
        )
        self._copying += len(slots)
        self._moves.begin(move, job, out)
        return True

    def transferred(self, job: OffloadJob, outcome: Moved, now: float, out: list[WorkerEffect]) -> None:
        """Publish in the tier what has arrived there, and go on with the copy."""
        copy, store, pool, slots, found = job.copy, job.store, job.store.pool, job.slots, job.found
        self._copying -= len(slots)
        if job.source is not None:
            job.source.pool.release(job.source_run, [])
        arrived, run = outcome.blocks, None
        if arrived:
            run = pool.publish(job.above, job.ids[found : found + arrived], slots[:arrived])
        pool.release(run or job.above, slots[arrived:] if run else slots)
        out.append(offloaded(copy, store, wanted=job.wanted, blocks=arrived, cause=outcome.cause, now=now))
        if store.tier == "host" and found + arrived == len(copy.ids):
            self._comes_from(copy, store, now)
        self._next(copy, now, out)

    def _comes_from(self, copy: Copy, store: Store, now: float) -> None:
        """All of it is in host memory: from there on down, and the device's blocks are free."""
        copy.source = store
        self._let_go(copy, now)

    def _let_go(self, copy: Copy, now: float) -> None:
        s, copy.sequence = copy.sequence, None
        if s is not None:
            self._known.discard(s.number)
            self._hints.leave(s, now)

    def check(self) -> None:
        assert self._known.union(self._hints.pinned()) == self._batch.lingering.keys()
        assert self._queued == sum(len(copy.ids) for copy in self._waiting)
        jobs = [job for job in self._moves.jobs("offload") if isinstance(job, OffloadJob)]
        assert self._copying == sum(len(job.slots) for job in jobs)


def offloaded(copy: Copy, store: Store, *, wanted: int, blocks: int, cause: str, now: float) -> Note:
    """Return the note that a copy to a tier has ended, with `blocks` of the `wanted` ones."""
    return Note(Offloaded(tier=store.tier, wanted=wanted, blocks=blocks, cause=cause, elapsed_s=now - copy.began_s))
