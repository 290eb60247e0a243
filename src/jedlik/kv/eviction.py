"""Which cached run loses its blocks first: least recently used, or S3-FIFO. Leaf first, whatever the order.

An order knows the runs that nobody holds. Promises: a victim is one of them and has no children. S3-FIFO (Yang et al.,
SOSP 2023) puts what is new into a small queue and what was asked for again into a main one, so that what is read once,
however much of it, passes by what is read often. Here a run leaves its queue while it is held and comes back to its
end, queues weigh blocks, and what was evicted unread is remembered by the name of its first block. Accounting only.
"""

from collections import OrderedDict
from collections.abc import Collection
from typing import Literal, Protocol

from jedlik.core.ids import BlockId
from jedlik.kv.runs import Run

OrderName = Literal["lru", "s3fifo"]

SMALL_SHARE = 0.1
"""Of the blocks cached: what the small queue has above it goes first, then the main one's."""
MOST_HITS = 4
"""The first takes a run to the main queue, each further one spares it once."""


class Order(Protocol):
    """What a pool asks of its order."""

    def add(self, run: Run, first: bool = False) -> None:
        """Nobody holds this run any more; those below it were added before. `first`: it goes before all others now,
        whether it was here already or not."""

    def remove(self, run: Run) -> None:
        """It is held again: it was asked for."""

    def cut(self, run: Run, upper: Run) -> None:
        """The first blocks of a run became another, `upper`, which is held now: they were asked for."""

    def evict(self, most: int) -> tuple[Run, int]:
        """A run without children, and how many of its first blocks stay: the rest, `most` at most, is evicted."""

    def check(self, unheld: Collection[Run]) -> None:
        """Assert the invariants; `unheld` are the runs that ought to be here."""


def order_of(name: OrderName, capacity: int) -> Order:
    """For a pool of `capacity` blocks."""
    return Lru() if name == "lru" else S3Fifo(capacity)


class Lru:
    """By time of release. A child is released before its parent, and so stands before it."""

    def __init__(self) -> None:
        self._runs: OrderedDict[Run, None] = OrderedDict()

    def add(self, run: Run, first: bool = False) -> None:
        self._runs[run] = None
        if first:
            self._runs.move_to_end(run, last=False)

    def remove(self, run: Run) -> None:
        del self._runs[run]

    def cut(self, run: Run, upper: Run) -> None:
        """Its place stays."""

    def evict(self, most: int) -> tuple[Run, int]:
        run = next(iter(self._runs))
        kept = len(run.ids) - most
        if kept > 0:
            return run, kept
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
    """`Run.rank` is how often it was asked for since it came: 0 in the small queue, more in the main one, less in that
    of runs which go first."""

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
            run.rank = max(1, run.rank)
        self._queue(run).add(run)

    def _drop(self, run: Run) -> None:
        queue = self._queue(run)
        if run in queue.runs:
            queue.remove(run)
        run.rank = -1
        self._dropped.add(run)
        self._dropped.runs.move_to_end(run, last=False)

    def remove(self, run: Run) -> None:
        self._queue(run).remove(run)
        run.rank = min(MOST_HITS, max(0, run.rank) + 1)

    def cut(self, run: Run, upper: Run) -> None:
        self._queue(run).blocks -= len(upper.ids)
        upper.rank = min(MOST_HITS, max(0, run.rank) + 1)

    def evict(self, most: int) -> tuple[Run, int]:
        run = self._victim()
        queue = self._queue(run)
        kept = max(0, len(run.ids) - most)
        if queue is self._small:
            self._remember(run.ids[kept], len(run.ids) - kept)
        if kept:
            queue.blocks -= len(run.ids) - kept
        else:
            queue.remove(run)
        return run, kept

    def _victim(self) -> Run:
        """The next of its queue, or what follows it in its chain: that is not kept without it."""
        run = next(iter(self._dropped.runs), None)
        while run is None:
            run = self._unread() if self._small_is_due() else self._seldom_read()
        while run.children:
            run = next(iter(run.children.values()))
        return run

    def _small_is_due(self) -> bool:
        small, main = self._small, self._main
        return not main.runs or small.blocks > SMALL_SHARE * (small.blocks + main.blocks)

    def _unread(self) -> Run | None:
        """The oldest of the small queue; None: it was the beginning of others, and has gone to the main one."""
        run = next(iter(self._small.runs))
        if not run.children:
            return run
        self._small.remove(run)
        run.rank = 1
        self._main.add(run)
        return None

    def _seldom_read(self) -> Run | None:
        """The oldest of the main queue; None: it was spared once more."""
        run = next(iter(self._main.runs))
        if run.rank == 1:
            return run
        run.rank -= 1
        self._main.runs.move_to_end(run)
        return None

    def _remember(self, first: BlockId, blocks: int) -> None:
        self._ghost_blocks += blocks - self._ghosts.pop(first, 0)
        self._ghosts[first] = blocks
        while self._ghost_blocks > self._most_ghost_blocks:
            self._ghost_blocks -= self._ghosts.popitem(last=False)[1]

    def _queue(self, run: Run) -> Queue:
        if run.rank > 0:
            return self._main
        return self._dropped if run.rank else self._small

    def check(self, unheld: Collection[Run]) -> None:
        queues = self._small, self._main, self._dropped
        assert set(unheld) == {run for queue in queues for run in queue.runs}
        for queue in queues:
            assert queue.blocks == sum(len(run.ids) for run in queue.runs)
            assert all(self._queue(run) is queue for run in queue.runs)
        assert all(run.rank <= MOST_HITS for run in unheld)
        assert self._ghost_blocks == sum(self._ghosts.values()) <= self._most_ghost_blocks
