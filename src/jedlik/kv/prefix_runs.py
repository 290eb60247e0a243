"""A forest of runs: blocks in a row that the same workers hold, cut wherever holders change or chains fork.

Each block is found by its key; a run is cut or joined by relabelling the smaller part at C speed. Runs without children
are kept in the order in which they are to be forgotten. Who holds what, and why, is `prefix_blocks`' business.
"""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

from jedlik.core.errors import Bug

BLOCK_BYTES, RUN_BYTES = 120, 560
"""What a block and a run cost, all structures together (bench/prefix_index measures them)."""


MAX_SHARED_MASKS = 1 << 14


class IndexRun:
    """Blocks in a row. All of them are held by the workers whose bits are in `mask`."""

    __slots__ = ("children", "keys", "mask", "parent")

    def __init__(self, keys: list[int], mask: int, parent: "IndexRun | None") -> None:
        self.keys = keys
        self.mask = mask
        self.parent = parent
        self.children: dict[int, IndexRun] = {}
        """By their first key."""


class RunForest:
    """Runs by block, and what keeps them few and findable."""

    def __init__(self) -> None:
        self.by_key: dict[int, IndexRun] = {}
        self._runs: dict[IndexRun, None] = {}
        self._leaves: OrderedDict[IndexRun, None] = OrderedDict()
        self._unswept: list[IndexRun] = []
        self._masks: dict[int, int] = {}

    def __len__(self) -> int:
        """Blocks."""
        return len(self.by_key)

    def __iter__(self) -> Iterator[IndexRun]:
        return iter(self._runs)

    def size_bytes(self) -> int:
        """Memory, by what was measured."""
        return len(self.by_key) * BLOCK_BYTES + len(self._runs) * RUN_BYTES

    def shared_mask(self, mask: int) -> int:
        """The same set as one object for all runs: less memory to touch in a match."""
        if len(self._masks) >= MAX_SHARED_MASKS:
            self._masks.clear()
        return self._masks.setdefault(mask, mask)

    def grow(self, above: IndexRun | None, keys: list[int], mask: int) -> None:
        """New blocks after the end of `above` (None: a first block)."""
        if above is not None and above.mask == mask and not above.children:
            above.keys += keys
            self._leaves.move_to_end(above)
            self.by_key.update(dict.fromkeys(keys, above))
            return
        run = IndexRun(keys, mask, above)
        self._runs[run] = None
        self._leaves[run] = None
        self.by_key.update(dict.fromkeys(keys, run))
        if above is not None:
            above.children[keys[0]] = run
            self._leaves.pop(above, None)

    def cut(self, run: IndexRun, length: int) -> tuple[IndexRun, IndexRun]:
        """Make two runs of one, the first with `length` blocks. Returns (first, second)."""
        if not 0 < length < len(run.keys):
            raise Bug(f"a run of {len(run.keys)} blocks can't be cut after {length}")
        if length <= len(run.keys) - length + len(run.children):
            head, tail = IndexRun(run.keys[:length], run.mask, run.parent), run
            del tail.keys[:length]
            self._register(head)
            if head.parent is not None:
                head.parent.children[head.keys[0]] = head
        else:
            head, tail = run, IndexRun(run.keys[length:], run.mask, run)
            del head.keys[length:]
            self._register(tail)
            tail.children, head.children = head.children, tail.children
            for child in tail.children.values():
                child.parent = tail
            if head in self._leaves:
                del self._leaves[head]
                self._leaves[tail] = None
        head.children[tail.keys[0]] = tail
        tail.parent = head
        return head, tail

    def _register(self, run: IndexRun) -> None:
        self._runs[run] = None
        self.by_key.update(dict.fromkeys(run.keys, run))
        if self._unswept:
            self._unswept.append(run)

    def join(self, upper: IndexRun | None) -> None:
        """Make a run and its only child one again, if the same workers hold them."""
        if upper is None or len(upper.children) != 1:
            return
        (lower,) = upper.children.values()
        if lower.mask != upper.mask:
            return
        if len(lower.keys) + len(lower.children) <= len(upper.keys):
            self._absorb_lower(upper, lower)
        else:
            self._absorb_upper(upper, lower)

    def _absorb_lower(self, upper: IndexRun, lower: IndexRun) -> None:
        upper.keys += lower.keys
        upper.children = lower.children
        for child in upper.children.values():
            child.parent = upper
        self.by_key.update(dict.fromkeys(lower.keys, upper))
        del self._runs[lower]
        if lower in self._leaves:
            del self._leaves[lower]
            self._leaves[upper] = None

    def _absorb_upper(self, upper: IndexRun, lower: IndexRun) -> None:
        lower.keys[:0] = upper.keys
        lower.parent = upper.parent
        if upper.parent is not None:
            upper.parent.children[upper.keys[0]] = lower
        self.by_key.update(dict.fromkeys(upper.keys, lower))
        del self._runs[upper]

    def shorten(self, run: IndexRun, count: int) -> None:
        """Forget the last `count` blocks of a run without children."""
        if count >= len(run.keys):
            self.remove(run)
            return
        by_key = self.by_key
        for key in run.keys[-count:]:
            del by_key[key]
        del run.keys[-count:]

    def remove(self, run: IndexRun) -> None:
        """Forget a run without children, and those above it that nobody holds and nothing follows."""
        by_key = self.by_key
        above: IndexRun | None = run
        while above is not None:
            run, above = above, above.parent
            for key in run.keys:
                del by_key[key]
            del self._runs[run]
            self._leaves.pop(run, None)
            if above is None:
                return
            del above.children[run.keys[0]]
            if above.children or above.mask:
                break
        assert above is not None
        if above.children:
            self.join(above)
        else:
            self._leaves[above] = None
            self._leaves.move_to_end(above, last=False)

    def trim(self, budget_bytes: int) -> None:
        """Forget from the ends of the oldest leaves until the budget holds."""
        while self._leaves and (excess := self.size_bytes() - budget_bytes) > 0:
            self.shorten(next(iter(self._leaves)), -(-excess // BLOCK_BYTES))

    def begin_sweep(self) -> None:
        self._unswept = list(self._runs)

    def sweep(self, runs: int, dead: int) -> bool:
        """Take the bits `dead` out of the next few runs. True when all are done."""
        unswept = self._unswept
        for run in islice(iter(unswept.pop, None), min(runs, len(unswept))):
            if run in self._runs and run.mask & dead:
                run.mask &= ~dead
                if not run.mask and not run.children:
                    self.remove(run)
        return not unswept

    def check(self) -> None:
        """Every link holds both ways. Slow: for tests."""
        found = 0
        for run in self._runs:
            found += len(run.keys)
            if not run.keys or any(self.by_key.get(key) is not run for key in run.keys):
                raise Bug("prefix index: a run's blocks lead elsewhere")
            if (run in self._leaves) != (not run.children):
                raise Bug("prefix index: leaves differ from the runs without children")
            if run.parent is not None and run.parent.children.get(run.keys[0]) is not run:
                raise Bug("prefix index: a run's parent does not know it")
            for child in run.children.values():
                if child.parent is not run or child not in self._runs or child.mask & ~run.mask & ~self._dead():
                    raise Bug("prefix index: a child is lost, or held by who does not hold its parent")
        if found != len(self.by_key):
            raise Bug(f"prefix index: {len(self.by_key)} keys, {found} blocks in runs")

    def _dead(self) -> int:
        """While a sweep is under way, bits may be gone above and not yet below."""
        return -1 if self._unswept else 0
