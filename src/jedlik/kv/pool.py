"""Paged KV accounting: which blocks of one worker are free, cached or held, and what full blocks contain.

Promises: free + cached + held = capacity; a block is shared only by its full 128-bit identity; eviction is least
recently used and leaf first. Leaf first costs nothing here: whoever holds a block holds its ancestors, and releases
its own last block first, so a child always stands before its parent in the order of release. Does not know tokens,
sequences or the engine's memory. Block 0 is the engine's padding and never given out.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import cast

from jedlik.core.errors import Bug
from jedlik.core.ids import BlockId, BlockIndex
from jedlik.core.protocol import Evicted, Stored
from jedlik.kv.hashing import key_of

DIGEST_MASK = (1 << 64) - 1


class BlockPool:
    """The blocks 1 ... total_blocks - 1 of one cache buffer."""

    def __init__(self, total_blocks: int) -> None:
        if total_blocks < 2:
            raise Bug(f"a pool of {total_blocks} blocks holds nothing: block 0 is reserved")
        self.capacity = total_blocks - 1
        self.digest = 0
        """Sum modulo 2**64 of the keys cached."""
        self._free = list(range(total_blocks - 1, 0, -1))
        self._refs = [0] * total_blocks
        self._ids: list[BlockId | None] = [None] * total_blocks
        self._parents: list[BlockId | None] = [None] * total_blocks
        self._index: dict[BlockId, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._changes: list[Stored | Evicted] = []
        self._last: BlockId | None = None

    @property
    def available_blocks(self) -> int:
        """Free or cached: what could be taken now."""
        return len(self._free) + len(self._cached)

    @property
    def free_blocks(self) -> int:
        return len(self._free)

    @property
    def cached_blocks(self) -> int:
        """Kept for re-use only: nobody holds them."""
        return len(self._cached)

    @property
    def held_blocks(self) -> int:
        return self.capacity - self.available_blocks

    def match(self, ids: Sequence[BlockId]) -> tuple[int, int]:
        """How many of a chain's first blocks are here, and how many of those somebody holds already."""
        found = held = 0
        for block_id in ids:
            index = self._index.get(block_id)
            if index is None:
                break
            found += 1
            held += self._refs[index] > 0
        return found, held

    def share(self, ids: Sequence[BlockId]) -> list[BlockIndex]:
        """Hold as many of a chain's first blocks as are here. The caller holds the chain before them."""
        refs, cached, shared = self._refs, self._cached, []
        for index in map(self._index.get, ids):
            if index is None:
                break
            if not refs[index]:
                del cached[index]
            refs[index] += 1
            shared.append(index)
        return cast("list[BlockIndex]", shared)

    def take(self, blocks: int) -> list[BlockIndex] | None:
        """Hold that many blocks of no content, evicting cached ones where needed; None if there are too few."""
        if blocks > len(self._free) + len(self._cached):
            return None
        taken = []
        for _ in range(blocks):
            index = self._free.pop() if self._free else self._evict()
            self._refs[index] = 1
            taken.append(BlockIndex(index))
        return taken

    def publish(self, block: BlockIndex, block_id: BlockId, parent: BlockId | None) -> bool:
        """Name a held block's content. False if that content is here already: the block stays private.

        The caller holds `parent`'s block as well (None: the chain begins here). It may publish when the step that fills
        the block is handed over: engines run steps in order.
        """
        if block_id in self._index:
            return False
        if not self._refs[block] or self._ids[block] is not None:
            raise Bug(f"block {block} can't be published: refs {self._refs[block]}, id {self._ids[block]!r}")
        self._ids[block], self._parents[block] = block_id, parent
        self._index[block_id] = block
        key = key_of(block_id)
        self.digest = (self.digest + key) & DIGEST_MASK
        run = self._changes[-1] if self._changes else None
        if isinstance(run, Stored) and parent is not None and parent == self._last:
            run.keys.append(key)
        else:
            self._changes.append(Stored(None if parent is None else key_of(parent), [key]))
        self._last = block_id
        return True

    def release(self, blocks: Sequence[BlockIndex]) -> None:
        """Let go of a sequence's table, last block first. Published content stays cached until room is needed."""
        for index in reversed(blocks):
            refs = self._refs[index] - 1
            if refs < 0:
                raise Bug(f"block {index} released more often than held")
            self._refs[index] = refs
            if refs == 0:
                if self._ids[index] is None:
                    self._free.append(index)
                else:
                    self._cached[index] = None

    def take_changes(self) -> list[Stored | Evicted]:
        """What was stored and evicted since the last call, in order; neighbours coalesced."""
        changes, self._changes, self._last = self._changes, [], None
        return changes

    def runs(self) -> list[Stored]:
        """Everything cached or held under a name, parents before children, neighbours coalesced."""
        runs: list[Stored] = []
        last: BlockId | None = None
        for block_id, index in self._index.items():  # in order of publication: a parent is always before its children
            parent = self._parents[index]
            if runs and parent is not None and parent == last:
                runs[-1].keys.append(key_of(block_id))
            else:
                runs.append(Stored(None if parent is None else key_of(parent), [key_of(block_id)]))
            last = block_id
        return runs

    def _evict(self) -> int:
        index, _ = self._cached.popitem(last=False)
        block_id = self._ids[index]
        if block_id is None:
            raise Bug(f"cached block {index} has no content")
        self._ids[index] = self._parents[index] = None
        del self._index[block_id]
        key = key_of(block_id)
        self.digest = (self.digest - key) & DIGEST_MASK
        last = self._changes[-1] if self._changes else None
        if isinstance(last, Evicted):
            last.keys.append(key)
        else:
            self._changes.append(Evicted([key]))
        return index

    def check(self, tables: Iterable[Sequence[BlockIndex]] | None = None) -> None:
        """Assert the invariants; with all tables that hold blocks given, also that every reference is accounted for."""
        free, cached = set(self._free), set(self._cached)
        assert len(free) == len(self._free)
        assert not free & cached
        assert 0 not in free | cached
        for index in range(1, self.capacity + 1):
            assert (self._refs[index] == 0) == (index in free or index in cached), index
            assert not (index in free and self._ids[index] is not None), index
            assert not (index in cached and self._ids[index] is None), index
        assert {i: b for b, i in self._index.items()} == {i: b for i, b in enumerate(self._ids) if b is not None}
        order = {index: at for at, index in enumerate(self._cached)}
        for index in self._index.values():
            parent = self._parents[index]
            if parent is None:
                continue
            above = self._index[parent]  # a KeyError here: evicted before its child
            assert self._refs[above] >= self._refs[index]
            assert above not in order or order[index] < order[above]
        assert self.digest == sum(key_of(b) for b in self._index) & DIGEST_MASK
        if tables is not None:
            refs = [0] * (self.capacity + 1)
            for table in tables:
                for block in table:
                    refs[block] += 1
            assert refs == self._refs
