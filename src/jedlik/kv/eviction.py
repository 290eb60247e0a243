"""The order in which cached runs lose their blocks: least recently used, or S3-FIFO. Leaf first, whatever the order.

An order knows the runs that nobody holds. Promises: a victim is one of them and has no children. S3-FIFO (Yang et al.,
SOSP 2023) puts what is new into a small queue and what was asked for again into a main one, so that what is read once,
however much of it, passes by what is read often. Here a run leaves its queue while it is held and comes back to its
end, queues weigh blocks, and what was evicted unread is remembered by the name of its first block. Accounting only.
"""

from collections import OrderedDict
from collections.abc import Collection
from typing import Literal, Protocol

from jedlik.core.ids import BlockId, BlockIndex

OrderName = Literal["lru", "s3fifo"]

SMALL_SHARE = 0.1
"""The share of the cached blocks that the small queue may hold: what it has above that goes first, then the main
queue's."""
DROPPED = -1
MOST_HITS = 4
"""The first takes a run to the main queue, each further one spares it once."""


class Run:
    """Named blocks in a row. A sequence that holds any of them holds them all, and every run above."""

    __slots__ = ("blocks", "children", "hits", "ids", "parent", "refs")

    def __init__(self, ids: list[BlockId], blocks: list[BlockIndex], parent: "Run | None", refs: int) -> None:
        self.ids, self.blocks, self.parent, self.refs = ids, blocks, parent, refs
        self.children: dict[BlockId, Run] = {}
        """By their first id."""
        self.hits = 0
        """How often it was asked for since it came; an order of eviction may take some away."""


class Order(Protocol):
    """An order of eviction, as a block pool uses it."""

    def add(self, run: Run, first: bool = False) -> None:
        """Nobody holds this run any more; those below it were added before. `first`: it goes before all that were added
        otherwise, even if it was here already."""

    def remove(self, run: Run) -> None:
        """Record that somebody holds the run again."""

    def shrink(self, run: Run, blocks: int) -> None:
        """Record that the run lost so many blocks: they became a run that is held now, or are no more."""

    def evict(self, most: int) -> tuple[Run, int]:
        """A run without children, and how many of its first blocks stay: the rest, `most` at most, is evicted."""

    def check(self, unheld: Collection[Run]) -> None:
        """Assert the invariants; `unheld` are the runs that ought to be here."""


def order_of(name: OrderName, capacity: int) -> Order:
    """Return the order for a pool of `capacity` blocks."""
    return Lru() if name == "lru" else S3Fifo(capacity)


class Lru:
    """The order of release. A child is released before its parent, and so stands before it."""

    def __init__(self) -> None:
        self._runs: OrderedDict[Run, None] = OrderedDict()

    def add(self, run: Run, first: bool = False) -> None:
        self._runs[run] = None
        if first:
            self._runs.move_to_end(run, last=False)

    def remove(self, run: Run) -> None:
        del self._runs[run]

    def shrink(self, run: Run, blocks: int) -> None:
        """A shorter run keeps its place."""

    def evict(self, most: int) -> tuple[Run, int]:
        run = next(iter(self._runs))
        remaining = len(run.ids) - most
        if remaining > 0:
            return run, remaining
        del self._runs[run]
        return run, 0

    def check(self, unheld: Collection[Run]) -> None:
        assert set(unheld) == set(self._runs)
        place = {run: at for at, run in enumerate(self._runs)}
        for run, at in place.items():
            assert run.parent not in place or at < place[run.parent]


class Queue:
    """Runs first in, first out, weighed in blocks."""

    def __init__(self) -> None:
        self.runs: OrderedDict[Run, None] = OrderedDict()
        self.blocks = 0

    def add(self, run: Run) -> None:
        self.runs[run] = None
        self.blocks += len(run.ids)

    def remove(self, run: Run) -> None:
        del self.runs[run]
        self.blocks -= len(run.ids)


class S3Fifo:
    """The order of S3-FIFO. By `Run.hits` a run is in the small queue (0), the main one (more), or that of runs which
    go first (less)."""

    def __init__(self, capacity: int) -> None:
        self._small, self._main, self._dropped = Queue(), Queue(), Queue()
        self._ghosts: OrderedDict[BlockId, int] = OrderedDict()
        """What was evicted unread: the first block's name, and how many followed with it."""
        self._ghost_blocks = 0
        self._most_ghost_blocks = int(capacity * (1 - SMALL_SHARE))

    def add(self, run: Run, first: bool = False) -> None:
        if first:
            self._drop(run)
            return
        ghost = self._ghosts.pop(run.ids[0], 0)
        if ghost:
            self._ghost_blocks -= ghost
            run.hits += 1
        run.hits = min(MOST_HITS, run.hits)
        self._queue(run).add(run)

    def _drop(self, run: Run) -> None:
        queue = self._queue(run)
        if run in queue.runs:
            queue.remove(run)
        run.hits = DROPPED
        self._dropped.add(run)

    def remove(self, run: Run) -> None:
        self._queue(run).remove(run)

    def shrink(self, run: Run, blocks: int) -> None:
        self._queue(run).blocks -= blocks

    def evict(self, most: int) -> tuple[Run, int]:
        run = self._victim()
        queue = self._queue(run)
        remaining = max(0, len(run.ids) - most)
        if queue is self._small:
            self._remember(run.ids[remaining], len(run.ids) - remaining)
        if remaining:
            queue.blocks -= len(run.ids) - remaining
        else:
            queue.remove(run)
        return run, remaining

    def _victim(self) -> Run:
        """The next of its queue, or what follows it in its chain: that is not kept without it."""
        run = next(iter(self._dropped.runs), None)
        if run is None:
            run = next(iter(self._small.runs)) if self._small_is_due() else self._seldom_read()
        while run.children:
            run = next(iter(run.children.values()))
        return run

    def _small_is_due(self) -> bool:
        return self._small.blocks > SMALL_SHARE * (self._small.blocks + self._main.blocks)

    def _seldom_read(self) -> Run:
        """The oldest of the main queue that is not to be spared once more."""
        main = self._main.runs
        while (run := next(iter(main))).hits > 1:
            run.hits -= 1
            main.move_to_end(run)
        return run

    def _remember(self, first: BlockId, blocks: int) -> None:
        self._ghost_blocks += blocks - self._ghosts.pop(first, 0)
        self._ghosts[first] = blocks
        while self._ghost_blocks > self._most_ghost_blocks:
            self._ghost_blocks -= self._ghosts.popitem(last=False)[1]

    def _queue(self, run: Run) -> Queue:
        if run.hits > 0:
            return self._main
        return self._dropped if run.hits else self._small

    def check(self, unheld: Collection[Run]) -> None:
        queues = self._small, self._main, self._dropped
        assert set(unheld) == {run for queue in queues for run in queue.runs}
        for queue in queues:
            assert queue.blocks == sum(len(run.ids) for run in queue.runs)
            assert all(self._queue(run) is queue for run in queue.runs)
        assert all(run.hits <= MOST_HITS for run in unheld)
        assert self._ghost_blocks == sum(self._ghosts.values()) <= self._most_ghost_blocks
