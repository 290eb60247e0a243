"""Paged KV accounting: which blocks of one worker are free, cached or held, and what full blocks contain.

Named blocks form a forest of runs: blocks in a row that the same sequences hold, so that sharing, naming, releasing and
evicting cost per run, with one pass at C speed over its blocks. Promises: free + cached + held = capacity; a block is
shared only by its full 128-bit identity; eviction is leaf first, in an order of `eviction`'s: whoever holds a run holds
those above it, and releases its own last run first.

    [1 2 3] -+- [4 5]       sequence A holds blocks 1 2 3 4 5, sequence B holds 1 2 3 6
             +- [6]
    [7 8]                   cached: no sequence holds this run

A sequence that shares only blocks 1 and 2 cuts the first run: `_cut` makes [1 2] and leaves [3] below it, so that a run
is always held as a whole. `publish` names blocks that a sequence has filled. They lengthen its own last run where no
other sequence holds that and nothing follows it; else they become a run below it.

The pool accounts for an engine's memory and, as well, for the slots of a slower tier. It knows neither tokens nor
sequences nor the memory itself. Block 0 is padding and never given out.
"""

from collections.abc import Iterable, Iterator, Sequence

from jedlik.core.errors import Bug
from jedlik.core.ids import BlockId, BlockIndex
from jedlik.core.moves import StoredRun
from jedlik.core.protocol import Evicted, Stored
from jedlik.kv.eviction import OrderName, Run, order_of
from jedlik.kv.hashing import key_of, keys_of, shared_length

DIGEST_MASK = (1 << 64) - 1


class BlockPool:
    """The blocks 1 ... total_blocks - 1 of one cache buffer."""

    def __init__(self, total_blocks: int, order: OrderName = "lru") -> None:
        if total_blocks < 2:
            raise Bug(f"a pool of {total_blocks} blocks holds nothing: block 0 is reserved")
        self.capacity = total_blocks - 1
        self.digest = 0
        """Sum modulo 2**64 of the keys cached."""
        self.cached_blocks = 0
        """Kept for re-use only: nobody holds them."""
        self._free = [BlockIndex(index) for index in range(total_blocks - 1, 0, -1)]
        self._heads: dict[BlockId, Run] = {}
        """Every run, by its first id: what follows the end of a run that somebody holds is always a head."""
        self._roots: dict[BlockId, Run] = {}
        self._order = order_of(order, self.capacity)
        """Of the runs that nobody holds."""
        self.changes: list[Stored | Evicted] = []
        self.version = 0
        """Changes with whatever `match` depends on: the same version gives the same match."""
        self._last: BlockId | None = None

    @property
    def available_blocks(self) -> int:
        """Free or cached: what could be taken now."""
        return len(self._free) + self.cached_blocks

    @property
    def free_blocks(self) -> int:
        return len(self._free)

    @property
    def held_blocks(self) -> int:
        return self.capacity - len(self._free) - self.cached_blocks

    def match(self, ids: Sequence[BlockId]) -> tuple[int, int]:
        """Return how many of a chain's first blocks are here, and how many of those a sequence holds already."""
        found = referenced = 0
        while found < len(ids) and (run := self._heads.get(ids[found])) is not None:
            shared = shared_length(run.ids, 0, ids, found)
            found += shared
            if run.refs:
                referenced += shared
            if shared < len(run.ids):
                break
        return found, referenced

    def share(self, above: Run | None, ids: Sequence[BlockId]) -> tuple[Run | None, list[BlockIndex]]:
        """Hold as many of a chain's next blocks as are here, after `above`, which the caller holds (None: the first).

        Returns the last run now held, and the blocks gained.
        """
        self.version += 1
        heads, gained = self._heads, list[BlockIndex]()
        while len(gained) < len(ids) and (run := heads.get(ids[len(gained)])) is not None:
            shared = shared_length(run.ids, 0, ids, len(gained))
            if shared < len(run.ids):
                run = self._cut(run, shared)
            elif not run.refs:
                self._order.remove(run)
                self.cached_blocks -= shared
            run.refs += 1
            run.hits += 1
            gained += run.blocks
            above = run
        return above, gained

    def take(self, blocks: int) -> list[BlockIndex] | None:
        """Hold that many blocks of no content, evicting cached ones where needed; None if there are too few."""
        free = self._free
        if blocks > len(free) + self.cached_blocks:
            return None
        taken = free[: -blocks - 1 : -1]
        del free[len(free) - len(taken) :]
        while len(taken) < blocks:
            taken += self._evict(blocks - len(taken))
        return taken

    def publish(self, above: Run | None, ids: list[BlockId], blocks: list[BlockIndex]) -> Run | None:
        """Name the content of held blocks, which follows `above`; returns the run that they are in now.

        None if that content is here already: the blocks stay private. (Where the first is not, none is: nothing is kept
        without what comes before it.) It may be called when the step that fills the blocks is handed over: engines run
        steps in order.
        """
        if ids[0] in self._heads:
            return None
        self.version += 1
        keys = keys_of(b"".join(ids))
        self.digest = (self.digest + sum(keys)) & DIGEST_MASK
        parent = above.ids[-1] if above is not None else None
        last = self.changes[-1] if self.changes else None
        if isinstance(last, Stored) and parent is not None and parent == self._last:
            last.keys.extend(keys)
        else:
            self.changes.append(Stored(None if parent is None else key_of(parent), keys))
        self._last = ids[-1]
        if above is not None and above.refs == 1 and not above.children:
            above.ids += ids
            above.blocks += blocks
            return above
        return self._attach(Run(ids, blocks, above, 1))

    def release(self, last: Run | None, private: Sequence[BlockIndex]) -> None:
        """Let go of a sequence's runs, `last` and those above it, and of its blocks without a name.

        Named content stays cached until room is needed.
        """
        self._free += reversed(private)
        self.version += 1
        while last is not None:
            last.refs -= 1
            if not last.refs:
                self._order.add(last)
                self.cached_blocks += len(last.ids)
            elif last.refs < 0:
                raise Bug(f"a run of {len(last.ids)} blocks was released more often than held")
            last = last.parent

    def drop(self, last: Run | None) -> None:
        """A chain just released, of which `last` was the last run, will not be asked for: it goes before all others.

        But for what somebody holds, and what other chains begin with.
        """
        chain: list[Run] = []
        while last is not None and not last.refs and len(last.children) == bool(chain):
            chain.append(last)
            last = last.parent
        for run in reversed(chain):
            self._order.add(run, first=True)

    def restore(self, stored: Iterable[StoredRun]) -> None:
        """Fill an empty pool with what its memory had before: cached, held by nobody, told as stored.

        Parents come before children, what was used longest ago first. Left out: a run that follows nothing here, and
        the rest of a run from a slot on that is no slot of this pool or taken by an earlier block. A run without slots
        (of a tier where names are enough) gets any.
        """
        if len(self._free) != self.capacity:
            raise Bug(f"restoring into a pool of which {self.capacity - len(self._free)} blocks are in use")
        self.version += 1
        free, place = set(self._free), dict[BlockId, Run | None]()
        spare = (index for index in reversed(self._free) if index in free)
        for run in stored:
            self._restore_run(run, spare, free, place)
        self._free = sorted(free, reverse=True)
        for root in self._roots.values():
            for restored in reversed(list(self._walk([root]))):
                restored.refs = 0
                self._order.add(restored)
                self.cached_blocks += len(restored.ids)

    def _restore_run(
        self, run: StoredRun, spare: Iterable[int], free: set[BlockIndex], place: dict[BlockId, Run | None]
    ) -> None:
        """Under a reference of nobody's; `place` says which run has a block."""
        known = 0
        while known < len(run.ids) and run.ids[known] in place:
            known += 1
        parent = run.ids[known - 1] if known else run.parent
        above = None if parent is None else place.get(parent)
        if parent is not None and above is None:
            return
        blocks = list[BlockIndex]()
        slots = run.slots[known:] if run.slots else spare
        for name, slot in zip(run.ids[known:], slots, strict=False):
            if name in place or slot not in free:
                break
            blocks.append(BlockIndex(slot))
            free.remove(blocks[-1])
            place[name] = None
        if not blocks:
            return
        if parent is not None and above is not None and above.ids[-1] != parent:
            above = self._cut(above, above.ids.index(parent) + 1)
            place.update(dict.fromkeys(above.ids, above))
        ids = run.ids[known : known + len(blocks)]
        place.update(dict.fromkeys(ids, self.publish(above, ids, blocks)))

    def forget(self, ids: Sequence[BlockId], known: int) -> None:
        """Drop the blocks of a chain after its first `known` ones, and all that follow them: their content is wrong.

        Blocks that a sequence holds stay, because that sequence verifies its own reads.
        """
        at, run = 0, self._heads.get(ids[0]) if known < len(ids) else None
        while run is not None and at + len(run.ids) <= known:
            at += len(run.ids)
            run = self._heads.get(ids[at]) if at < len(ids) else None
        if run is None or run.refs or run.ids[known - at] != ids[known]:
            return
        below = list(self._walk(run.children.values() if at < known else [run]))
        for gone in reversed(below):
            self._order.remove(gone)
            self._free += self._unname(gone, 0)
        if at < known:
            self._order.shrink(run, len(run.ids) - (known - at))
            self._free += self._unname(run, known - at)

    def lookup(self, ids: Sequence[BlockId]) -> list[BlockIndex]:
        """Return the slots of a chain's first blocks, as far as they are here. `take` may evict them."""
        found = list[BlockIndex]()
        while len(found) < len(ids) and (run := self._heads.get(ids[len(found)])) is not None:
            shared = shared_length(run.ids, 0, ids, len(found))
            found += run.blocks[:shared]
            if shared < len(run.ids):
                break
        return found

    def take_changes(self) -> list[Stored | Evicted]:
        """Return what was stored and evicted since the last call, in order, with neighbours joined."""
        changes, self.changes, self._last = self.changes, [], None
        return changes

    def runs(self) -> list[Stored]:
        """Everything cached or held under a name, parents before children."""
        return [
            Stored(None if r.parent is None else key_of(r.parent.ids[-1]), keys_of(b"".join(r.ids)))
            for r in self._walk(self._roots.values())
        ]

    def _attach(self, run: Run) -> Run:
        siblings = self._roots if run.parent is None else run.parent.children
        siblings[run.ids[0]] = self._heads[run.ids[0]] = run
        return run

    def _cut(self, run: Run, length: int) -> Run:
        """Make a run of the first blocks of another; its holders hold both. The new one is not cached: it is wanted."""
        upper = Run(run.ids[:length], run.blocks[:length], run.parent, run.refs)
        del run.ids[:length], run.blocks[:length]
        self._attach(upper)
        run.parent = upper
        self._attach(run)
        if not run.refs:
            self._order.shrink(run, length)
            self.cached_blocks -= length
        return upper

    def _evict(self, most: int) -> list[BlockIndex]:
        """Take blocks from the end of the run whose turn it is."""
        return self._unname(*self._order.evict(most))

    def _unname(self, run: Run, keep: int) -> list[BlockIndex]:
        """Forget an unheld run's blocks but for the first `keep`, and tell; returns them, the last one first."""
        if run.children:
            raise Bug("a run is to be evicted before what follows it")
        self.version += 1
        taken, keys = run.blocks[keep:], keys_of(b"".join(run.ids[keep:]))
        taken.reverse()
        keys.reverse()
        if keep:
            del run.ids[keep:], run.blocks[keep:]
        else:
            del self._heads[run.ids[0]]
            del (self._roots if run.parent is None else run.parent.children)[run.ids[0]]
        self.cached_blocks -= len(taken)
        self.digest = (self.digest - sum(keys)) & DIGEST_MASK
        last = self.changes[-1] if self.changes else None
        if isinstance(last, Evicted):
            last.keys.extend(keys)
        else:
            self.changes.append(Evicted(keys))
        return taken

    def _walk(self, runs: Iterable[Run]) -> Iterator[Run]:
        waiting = list(runs)[::-1]
        while waiting:
            run = waiting.pop()
            yield run
            waiting += reversed(run.children.values())

    def check(self, tables: Iterable[Sequence[BlockIndex]] | None = None) -> None:
        """Assert the invariants; with all tables that hold blocks given, also that every reference is accounted for."""
        runs = list(self._walk(self._roots.values()))
        assert {run.ids[0]: run for run in runs} == self._heads
        unheld = [run for run in runs if not run.refs]
        self._order.check(unheld)
        assert self.cached_blocks == sum(len(run.ids) for run in unheld)
        for run in runs:
            assert run.ids
            assert len(run.ids) == len(run.blocks)
            above = run.parent
            if above is not None:
                assert above.refs >= sum(child.refs for child in above.children.values())
                assert above.children[run.ids[0]] is run
        named = [block for run in runs for block in run.blocks]
        assert len(set(named)) == len(named)
        assert len(set(self._free)) == len(self._free)
        assert not {0, *self._free} & set(named)
        assert self.digest == sum(key_of(b) for run in runs for b in run.ids) & DIGEST_MASK
        if tables is not None:
            refs = [0] * (self.capacity + 1)
            for table in tables:
                for block in table:
                    refs[block] += 1
            assert all(refs[block] == run.refs for run in runs for block in run.blocks)
            assert all(refs[block] == 0 for block in self._free)
            private = set(range(1, self.capacity + 1)).difference(named, self._free)
            assert all(refs[block] == 1 for block in private)
