"""Blocks and the bit sets of their holders, for workers whose caches are prefix-closed.

Invariant: along every chain the sets only shrink. So a run or a prompt is cut into spans of equal sets by bisection,
and each span is read or written at C speed. Blocks are forgotten leaf first, which keeps the invariant; a run whose
parent is not held here (forgotten for the budget) is left out for the same reason.
"""

from bisect import bisect_left
from collections.abc import Sequence

from jedlik.core.errors import Bug
from jedlik.kv.prefix_tree import BlockTree

MAX_INTERNED = 1 << 16


class ClosedBlocks:
    """BlockKey -> bit set of holders. Bits are given by the caller; a set is one shared int, whoever uses it."""

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}
        self._tree = BlockTree()
        self._interned: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._masks)

    def holders(self, key: int) -> int:
        """Bits of the workers that hold a block."""
        return self._masks.get(key, 0)

    def keys(self) -> list[int]:
        """All blocks, parents before children."""
        return list(self._masks)

    def store(self, bit: int, parent: int | None, keys: list[int]) -> None:
        """Add `bit` to a run of blocks: keys[0] follows `parent`, each next the one before. Known ones are a no-op."""
        masks = self._masks
        if not keys or (parent is not None and not masks.get(parent, 0) & bit):
            return
        if keys[0] not in masks:
            known, fresh = 0, keys
        else:
            known = self._first_unknown(keys)
            self._share(bit, keys[:known])
            parent, fresh = keys[known - 1], keys[known:]
        if fresh:
            masks.update(dict.fromkeys(fresh, bit))
            self._tree.grow(parent, fresh)

    def _first_unknown(self, keys: list[int]) -> int:
        masks = self._masks
        if keys[-1] in masks:
            return len(keys)
        return bisect_left(keys, True, key=lambda key: key not in masks)

    def _share(self, bit: int, keys: list[int]) -> None:
        """Add `bit` to blocks that are all known already, span by span."""
        masks, at, end = self._masks, 0, len(keys)
        last = masks[keys[-1]]
        while at < end:
            mask = masks[keys[at]]
            stop = end if mask == last else self._span_end(keys, at, mask)
            if not mask & bit:
                masks.update(dict.fromkeys(keys[at:stop], self._intern(mask | bit)))
            at = stop

    def _span_end(self, keys: list[int], at: int, mask: int) -> int:
        masks = self._masks
        return bisect_left(keys, True, lo=at + 1, key=lambda key: masks[key] != mask)

    def evict(self, bit: int, keys: Sequence[int]) -> None:
        """Take `bit` from blocks, leaf first. Unknown ones are a no-op."""
        masks, drop, interned = self._masks, self._tree.drop, self._interned
        for key in keys:
            mask = masks.get(key, 0)
            if mask == bit:
                del masks[key]
                drop(key)
            elif mask & bit:
                rest = mask ^ bit
                masks[key] = interned.setdefault(rest, rest)
        if len(interned) > MAX_INTERNED:
            interned.clear()

    def match(self, keys: Sequence[int], alive: int) -> list[tuple[int, int]]:
        """How deep `keys` (a prompt's blocks in order) are held: (depth in blocks, bits that end there), deepest last.

        Bisects between the changes of the set: about d * log2(n / d) look-ups for n blocks and d different depths.
        """
        get = self._masks.get
        mask = get(keys[0], 0) & alive if keys else 0
        spans: list[tuple[int, int]] = []
        if not mask:
            return spans
        low, high, beyond = 0, len(keys), 0
        todo: list[tuple[int, int]] = []
        probe = high - 1
        while mask:
            if mask == beyond:
                low = high
            elif high - low > 1:
                todo.append((high, beyond))
                high, beyond = probe, get(keys[probe], 0) & alive
                probe = (low + high) >> 1
                continue
            else:
                spans.append((high, mask & ~beyond))
                mask, low = beyond, high
                if not mask:
                    break
            high, beyond = todo.pop()
            probe = (low + high) >> 1
        return spans

    def sweep(self, keys: Sequence[int], dead: int) -> None:
        """Take the bits `dead` out of these blocks, and out of the index what nobody else holds."""
        masks = self._masks
        for key in keys:
            mask = masks.get(key, 0)
            if mask & dead:
                rest = mask & ~dead
                if rest:
                    masks[key] = self._intern(rest)
                else:
                    del masks[key]
                    self._tree.drop(key)

    def trim(self, blocks: int) -> None:
        """Forget leaves, oldest first, until at most `blocks` are left."""
        while len(self._masks) > blocks:
            key = self._tree.oldest_leaf()
            del self._masks[key]
            self._tree.drop(key)

    def _intern(self, mask: int) -> int:
        if len(self._interned) > MAX_INTERNED:
            self._interned.clear()
        return self._interned.setdefault(mask, mask)

    def check(self) -> None:
        """Every block's holders hold its parent; the tree has the same blocks. Slow: for tests."""
        self._tree.check()
        if len(self._tree) != len(self._masks):
            raise Bug(f"prefix index: {len(self._masks)} blocks, but {len(self._tree)} in the tree")
        for key, mask in self._masks.items():
            parent = self._tree.parent(key)
            if not mask or (parent is not None and mask & ~self._masks.get(parent, 0)):
                raise Bug(f"prefix index: block {key:x} is held by {mask:b}, its parent is not")
