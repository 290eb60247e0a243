"""Fetching from lower tiers: a sequence whose prompt is held there waits for its blocks instead of for its turn.

Promises: fetched only where that is expected to be faster than computing (`moving/fetch_plan`); committed in order, and
only what arrived whole; what fails or is late is a miss, and computed; blocks that a late load may still write to are
nobody's until it has ended. What a tier could not give back is forgotten there.
"""

from collections.abc import Iterator
from math import inf

from jedlik.core.config import WorkerConfig
from jedlik.core.effects import Note, WorkerEffect
from jedlik.core.facts import Fetched
from jedlik.core.ids import BlockId, BlockIndex
from jedlik.core.moves import DEVICE, CancelMove, Move, Moved
from jedlik.core.protocol import StepCosts
from jedlik.kv.eviction import Run
from jedlik.moving.fetch_plan import Part, plan
from jedlik.moving.moves import Job, Moves
from jedlik.moving.tiers import Store, Tiers
from jedlik.moving.verify import Verifier
from jedlik.scheduling.batch import Batch
from jedlik.scheduling.booking import SequenceBlocks
from jedlik.scheduling.sequence import Sequence

BAD = ("corrupt", "stale", "missing")
"""Causes which say that the tier does not hold what it was thought to hold."""


class FetchJob(Job):
    """One part of one fetch: blocks [first, last) of the chain, from one tier."""

    __slots__ = ("blocks", "came", "cause", "fetch", "names", "part", "source_run", "store")
    kind = "fetch"

    def __init__(
        self,
        fetch: "Fetch",
        part: Part,
        store: Store,
        names: list[BlockId],
        source_run: Run | None,
        blocks: list[BlockIndex],
    ) -> None:
        self.fetch, self.part, self.store, self.names, self.source_run, self.blocks = (
            fetch,
            part,
            store,
            names,
            source_run,
            blocks,
        )
        self.came = 0
        self.cause: str | None = None
        """None: under way."""
        self.number = 0


class Fetch:
    """The fetch of one sequence: its parts in chain order, and when the sequence stops waiting for them."""

    __slots__ = ("began_s", "due_s", "loads", "sequence")

    def __init__(self, sequence: Sequence, now: float, due_s: float) -> None:
        self.sequence, self.began_s, self.due_s = sequence, now, due_s
        self.loads: list[FetchJob] = []


class Fetches:
    """The fetches of one worker, from the choice of blocks to their commit."""

    def __init__(
        self,
        config: WorkerConfig,
        batch: Batch,
        booking: SequenceBlocks,
        tiers: Tiers,
        moves: Moves,
        verifier: Verifier,
    ) -> None:
        self._batch, self._booking, self._tiers, self._moves = batch, booking, tiers, moves
        self._verifier = verifier
        self._pool, self._config = booking.pool, config
        self._open: dict[int, Fetch] = {}
        """The open fetches, by the number of their sequence."""
        self._loads: dict[int, FetchJob] = {}
        """The loads under way, by the number of their move, including those of fetches that were given up."""
        self.due_s = inf
        """The time before which no fetch is late."""

    def begin(self, s: Sequence, costs: StepCosts | None, now: float, out: list[WorkerEffect]) -> bool:
        """Fetch what a new sequence can have sooner than compute. False: nothing, or there is no room for it."""
        parts = self._planned(s, costs, now)
        if not parts or not self._batch.may_adopt(s):
            return False
        match = self._booking.match(s)
        room = min(self._batch.room(), self._pool.available_blocks - (match.found - match.in_use))  # adopting, too
        if room <= 0:
            return False
        self._booking.open(s)
        s.cached_tokens += self._booking.adopt(s)
        fetch = self._open[s.number] = Fetch(s, now, now + self._config.load_deadline_s)
        self.due_s = min(self.due_s, fetch.due_s)
        self._batch.depart(s)
        for path, first, last in parts:
            count = min(last - first, room)
            if count:
                room -= count
                self._load(fetch, Part(path, first, first + count), out)
        return True

    def ended(self, s: Sequence, out: list[WorkerEffect]) -> None:
        """The sequence has ended: nobody waits for its blocks any more."""
        fetch = self._open.pop(s.number, None)
        if fetch is not None:
            self._give_up(fetch, out)

    def expire(self, now: float, out: list[WorkerEffect]) -> None:
        """End what is late: it is a miss."""
        if now < self.due_s:
            return
        for fetch in [fetch for fetch in self._open.values() if fetch.due_s <= now]:
            for load in fetch.loads:
                if load.cause is None:
                    self._tell(fetch, load, 0, "late", now, out)
            self._give_up(fetch, out)
            self._arrive(fetch)
        self.due_s = min((fetch.due_s for fetch in self._open.values()), default=inf)

    def _planned(self, s: Sequence, costs: StepCosts | None, now: float) -> list[Part]:
        if s.reads_prompt or not len(self._tiers):
            return []
        match = self._booking.match(s)
        return plan(
            match.found,
            self._tiers.depths(match.ids),
            s.known,
            block_size=self._booking.block_size,
            block_bytes=self._moves.block_bytes,
            costs=costs,
            paths=self._moves.paths,
            now=now,
            max_step_tokens=self._config.max_step_tokens,
        )

    def _load(self, fetch: Fetch, part: Part, out: list[WorkerEffect]) -> None:
        s, store = fetch.sequence, self._tiers.named(part.path)
        names = s.block_ids[: part.last]
        source_run, slots = store.pool.share(None, names)
        blocks = self._batch.reserve(part.last - part.first)
        load = FetchJob(fetch, part, store, names, source_run, blocks)
        fetch.loads.append(load)
        parent = names[part.first - 1] if part.first else None
        move = Move(
            number=0,
            source=store.place,
            source_blocks=store.slots(slots[part.first : part.last]),
            target=DEVICE,
            target_blocks=list(blocks),
            ids=names[part.first :],
            parent=parent,
            deadline_s=max(0.0, fetch.due_s - fetch.began_s),
        )
        self._moves.begin(move, load, out)
        self._loads[load.number] = load

    def transferred(self, load: FetchJob, outcome: Moved, now: float, out: list[WorkerEffect]) -> None:
        """Take what a load has brought, or what has become of it."""
        fetch, s, store = load.fetch, load.fetch.sequence, load.store
        del self._loads[load.number]
        store.pool.release(load.source_run, [])
        load.came, load.cause = outcome.blocks, outcome.cause or ""
        if outcome.cause in BAD:
            store.pool.forget(load.names, load.part.first + outcome.blocks)
        if self._open.get(s.number) is not fetch:
            self._free(load)
        elif not outcome.cause and self._verifier.wants(store, s):
            self._verifier.keep(s, store, load.names, load.part.first, load.blocks)
            load.blocks, load.came, load.cause = [], 0, "shadow"
            self._tell(fetch, load, 0, "shadow", now, out)
            self._commit(fetch, out)
        else:
            self._tell(fetch, load, outcome.blocks, outcome.cause, now, out)
            self._commit(fetch, out)

    def _commit(self, fetch: Fetch, out: list[WorkerEffect]) -> None:
        """Hand over what has arrived, in order; the sequence goes on once nothing more can come."""
        s, size = fetch.sequence, self._booking.block_size
        while fetch.loads and fetch.loads[0].cause is not None:
            load = fetch.loads.pop(0)
            arrived, load.blocks = load.blocks[: load.came], load.blocks[load.came :]
            if arrived:
                self._batch.land(s, arrived, (load.part.first + load.came) * size)
                s.cached_tokens += load.came * size
            self._free(load)
            if load.cause:
                self._give_up(fetch, out)
        if not fetch.loads:
            self._open.pop(s.number, None)
            self._arrive(fetch)

    def _give_up(self, fetch: Fetch, out: list[WorkerEffect]) -> None:
        """What is under way still is nobody's; its blocks come back when it has ended."""
        self._open.pop(fetch.sequence.number, None)
        for load in fetch.loads:
            if load.cause is None:
                out.append(CancelMove(load.number))
            else:
                self._free(load)
        fetch.loads = []

    def _arrive(self, fetch: Fetch) -> None:
        s = fetch.sequence
        if s.number not in self._batch.arriving:
            return
        if s.number < 0:  # fetched ahead, for nobody yet
            self._batch.end(s)
        else:
            self._batch.arrive(s)

    def _free(self, load: FetchJob) -> None:
        self._batch.unreserve(load.blocks)
        load.blocks = []

    def _tell(self, fetch: Fetch, load: FetchJob, blocks: int, cause: str, now: float, out: list[WorkerEffect]) -> None:
        wanted = load.part.last - load.part.first
        request_id = fetch.sequence.submit.request_id
        out.append(
            Note(
                Fetched(
                    request_id=request_id,
                    tier=load.store.tier,
                    wanted=wanted,
                    blocks=blocks,
                    cause=cause,
                    elapsed_s=now - fetch.began_s,
                )
            )
        )

    def reserved(self) -> Iterator[list[BlockIndex]]:
        """Iterate over the blocks that loads may write to, or that have arrived out of turn; `check` counts them."""
        yield from (load.blocks for load in self._loads.values())
        for fetch in self._open.values():
            yield from (load.blocks for load in fetch.loads if load.cause is not None)

    def __len__(self) -> int:
        """Return the number of sequences that wait for blocks."""
        return len(self._open)

    def check(self) -> None:
        """Assert that every load under way is known, and that no fetch is due before `due_s`."""
        assert self._moves.jobs("fetch") == set(self._loads.values())
        assert all(f.sequence.number == number and f.loads for number, f in self._open.items())
        assert all(f.due_s >= self.due_s for f in self._open.values())
