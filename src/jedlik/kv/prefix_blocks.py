"""The holders of blocks: `ClosedBlocks` for workers whose caches are prefix-closed, `OpenBlocks` for all others.

A cache is prefix-closed if it holds a block only with all blocks before it. Then the set of holders only shrinks along
a chain, and a prompt is matched run by run: one step where holders change or chains fork, and a bisection in the last
run. Blocks are forgotten leaf first, which keeps the invariant. A run is not stored for a worker that the index
does not know to hold its parent (it may have been forgotten for the budget).

`OpenBlocks` has no order to bisect on, so it walks. Both have the same methods.
"""

from collections import OrderedDict
from collections.abc import Sequence

from jedlik.kv.hashing import shared_length
from jedlik.kv.prefix_runs import IndexRun, RunForest

OPEN_BLOCK_BYTES = 240
"""The memory of one block: its key, its entry, and its place in the order."""


class ClosedBlocks:
    """BlockKey -> bit set of holders. Bits are given by the caller."""

    def __init__(self) -> None:
        self.forest = RunForest()

    def __len__(self) -> int:
        return len(self.forest)

    def holders(self, key: int) -> int:
        """Bits of the workers that hold a block."""
        run = self.forest.by_key.get(key)
        return run.mask if run else 0

    def store(self, bit: int, parent: int | None, keys: list[int]) -> None:
        """Add `bit` to a run of blocks: keys[0] follows `parent`, each next the one before. Known ones are a no-op.

        Worker B stores 1 2 3 7, where A holds 1 to 5. The known run is cut where B leaves it, and B's rest grows below:

            [1 2 3 4 5] A   becomes   [1 2 3] AB -+- [4 5] A
                                                  +- [7] B

        When B stores 4 5 as well, the two runs have the same holders again and are joined.
        """
        forest, above = self.forest, None
        if parent is not None:
            above = forest.by_key.get(parent)
            if above is None or not above.mask & bit:
                return
        at = 0
        while at < len(keys) and (run := forest.by_key.get(keys[at])) is not None:
            start = 0 if run.keys[0] == keys[at] else run.keys.index(keys[at])
            shared = shared_length(run.keys, start, keys, at)
            if not run.mask & bit:
                if start:  # this worker holds a block without those before it
                    return
                if shared < len(run.keys):
                    run, _ = forest.cut(run, shared)
                run.mask = forest.shared_mask(run.mask | bit)
                above = self._join_around(run)
            else:
                above = run
            at += shared
        if at < len(keys):
            before = keys[at - 1] if at else parent
            if above is not None and before is not None and above.keys[-1] != before:
                above, _ = forest.cut(above, above.keys.index(before) + 1)
            forest.grow(above, keys[at:], bit)

    def _join_around(self, run: IndexRun) -> IndexRun:
        """Undo cuts that no longer divide anything; returns the run that now has this one's last block."""
        key = run.keys[-1]
        self.forest.join(run)
        self.forest.join(self.forest.by_key[key].parent)
        return self.forest.by_key[key]

    def evict(self, bit: int, keys: Sequence[int]) -> None:
        """Take `bit` from blocks, leaf first. Unknown ones are a no-op, and so are those that have a held child."""
        by_key, at = self.forest.by_key, 0
        while at < len(keys):
            run = by_key.get(keys[at])
            if run is None or not run.mask & bit or run.keys[-1] != keys[at] or _held_below(run, bit):
                at += 1
                continue
            count = _from_end(run.keys, keys, at)
            at += count
            if run.mask == bit and not run.children:
                self.forest.shorten(run, count)
                continue
            if count < len(run.keys):
                _, run = self.forest.cut(run, len(run.keys) - count)
            run.mask = self.forest.shared_mask(run.mask ^ bit)
            if run.mask or run.children:
                self.forest.join(run)
            else:
                self.forest.remove(run)

    def match(self, keys: Sequence[int], alive: int) -> list[tuple[int, int]]:
        """Return how deep a prompt's blocks `keys` are held: (depth in blocks, bits that end there), deepest last."""
        path, depth = self._path(keys)
        spans: list[tuple[int, int]] = []
        mask, at = alive, 0
        for run in path:
            now = mask & run.mask
            if now != mask:
                if at:
                    spans.append((at, mask ^ now))
                mask = now
                if not mask:
                    return spans
            at += len(run.keys)
        if depth:
            spans.append((depth, mask))
        return spans

    def _path(self, keys: Sequence[int]) -> tuple[list[IndexRun], int]:
        """The runs that a prompt goes through, first to last, and how many of its blocks they cover.

        From its last block upwards if that is known, else forward: a block found has all before it in common.
        """
        get, path, at, end = self.forest.by_key.get, [], 0, len(keys)
        run = get(keys[-1]) if keys else None
        if run is not None:
            while run is not None:
                path.append(run)
                run = run.parent
            path.reverse()
            return path, end
        while at < end and (run := get(keys[at])) is not None:
            path.append(run)
            at += len(run.keys)
        if not path:
            return path, 0
        start = at - len(path[-1].keys)
        return path, start + shared_length(path[-1].keys, 0, keys, start)


def _from_end(run: list[int], keys: Sequence[int], at: int) -> int:
    """How many of keys[at:] are the end of a run, read backwards."""
    most = min(len(run), len(keys) - at)
    if run[-most] == keys[at + most - 1] and list(keys[at : at + most]) == run[: -most - 1 : -1]:
        return most
    count = 0
    while count < most and run[-1 - count] == keys[at + count]:
        count += 1
    return count


def _held_below(run: IndexRun, bit: int) -> bool:
    return any(child.mask & bit for child in run.children.values())


class OpenBlocks:
    """BlockKey -> bit set of holders, without order. Same calls as `ClosedBlocks`."""

    def __init__(self) -> None:
        self._masks: OrderedDict[int, int] = OrderedDict()
        self._unswept: list[int] = []

    def __len__(self) -> int:
        return len(self._masks)

    def holders(self, key: int) -> int:
        """Bits of the workers that hold a block."""
        return self._masks.get(key, 0)

    def store(self, bit: int, keys: Sequence[int]) -> None:
        for key in keys:
            self._masks[key] = self._masks.get(key, 0) | bit

    def begin_sweep(self) -> None:
        self._unswept = list(self._masks)

    def sweep(self, blocks: int, dead: int) -> bool:
        """Take the bits `dead` out of the next few blocks. True when all are done."""
        self.evict(dead, self._unswept[-blocks:])
        del self._unswept[-blocks:]
        return not self._unswept

    def evict(self, bits: int, keys: Sequence[int]) -> None:
        """Take bits out of these blocks; unknown ones are a no-op."""
        for key in keys:
            rest = self._masks.get(key, 0) & ~bits
            if rest:
                self._masks[key] = rest
            else:
                self._masks.pop(key, None)

    def match(self, keys: Sequence[int], alive: int) -> list[tuple[int, int]]:
        """(depth in blocks, bits that end there), deepest last."""
        spans: list[tuple[int, int]] = []
        mask = alive
        for depth, key in enumerate(keys):
            now = self._masks.get(key, 0) & mask
            if now != mask:
                if depth:
                    spans.append((depth, mask & ~now))
                mask = now
            if not mask:
                return spans
        return [*spans, (len(keys), mask)] if keys else spans

    def size_bytes(self) -> int:
        """Return the memory of all blocks, roughly."""
        return len(self._masks) * OPEN_BLOCK_BYTES

    def trim(self, budget_bytes: int) -> None:
        """Forget the oldest until the budget holds."""
        while self._masks and self.size_bytes() > budget_bytes:
            self._masks.popitem(last=False)
