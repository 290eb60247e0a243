"""The prefix index: which worker holds how much of a prompt, fed by the workers' numbered facts.

A worker incarnation gets a bit per snapshot; when it leaves, the bit is masked at once, swept out slice by slice, and
only then used again. Whether all facts were seen is judged by numbers and by a digest over the facts themselves, kept
beside the index: blocks forgotten here for the byte budget, or runs left out, do not make it wrong.
"""

from collections.abc import Mapping, Sequence

from jedlik.core.errors import Bug
from jedlik.core.ids import WorkerId
from jedlik.core.protocol import Evicted, Facts, Snapshot, Stored
from jedlik.kv.prefix_blocks import ClosedBlocks
from jedlik.kv.prefix_open import OpenBlocks

SWEEP_RUNS = 64
"""Runs of blocks looked at per call of `sweep`."""
DIGEST_MASK = (1 << 64) - 1


class Feed:
    """How far one worker's facts have been followed."""

    __slots__ = ("bit", "chunk", "closed", "digest", "number", "synced")

    def __init__(self, bit: int, closed: bool) -> None:
        self.bit = bit
        self.closed = closed
        self.synced = False
        self.number = 0
        self.chunk = 0
        """The next one expected of a snapshot that is under way."""
        self.digest = 0


class Match:
    """How deep each worker holds a prompt's blocks; decoded only as far as one asks. Good until the index changes."""

    __slots__ = ("_feeds", "_owners", "_spans")

    def __init__(
        self, spans: list[tuple[int, int]], owners: Mapping[int, WorkerId], feeds: Mapping[WorkerId, Feed]
    ) -> None:
        self._spans = spans
        self._owners = owners
        self._feeds = feeds

    def empty(self) -> bool:
        """Nobody holds the first block."""
        return not self._spans

    def deepest(self, most: int | None = None) -> dict[WorkerId, int]:
        """Depth in blocks (at least 1) of the workers that hold most, deepest first, ties in order of their bits."""
        depths: dict[WorkerId, int] = {}
        owners = self._owners
        for depth, bits in reversed(self._spans):
            while bits:
                low = bits & -bits
                bits ^= low
                depths[owners[low]] = depth
                if len(depths) == most:
                    return depths
        return depths

    def most(self) -> tuple[int, int]:
        """(depth in blocks of the workers that hold most, how many they are); (0, 0) if nobody holds anything."""
        depth = self._spans[-1][0] if self._spans else 0
        return depth, sum([bits.bit_count() for at, bits in self._spans if at == depth])

    def depth(self, worker: WorkerId) -> int:
        """Depth in blocks at one worker; 0 for one that holds nothing."""
        bit = self._feeds[worker].bit if worker in self._feeds else 0
        for depth, bits in self._spans:
            if bits & bit:
                return depth
        return 0


class PrefixIndex:
    """Follows workers' caches within a byte budget, and tells how much of a prompt each has."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._closed = ClosedBlocks()
        self._open = OpenBlocks()
        self._feeds: dict[WorkerId, Feed] = {}
        self._owners: dict[int, WorkerId] = {}
        """By bit; only bits that count."""
        self._free_bits: list[int] = []
        self._bits = 0
        """How many were ever made."""
        self._alive_closed = 0
        self._alive_open = 0
        self._dead = 0
        """Bits that left since the sweep under way began: the next one's work."""
        self._sweeping = 0

    def __len__(self) -> int:
        """Blocks known."""
        return len(self._closed) + len(self._open)

    def size_bytes(self) -> int:
        """Memory, as far as it grows with the blocks."""
        return self._closed.forest.size_bytes() + self._open.size_bytes()

    def join(self, worker: WorkerId, prefix_closed: bool = True) -> None:
        """Follow a worker from its first snapshot on."""
        if worker in self._feeds:
            raise Bug(f"prefix index: {worker} joined twice; leave() comes between")
        self._feeds[worker] = Feed(0, prefix_closed)
        self._renew(worker)

    def leave(self, worker: WorkerId) -> None:
        """Forget a worker at once; its blocks go slice by slice. Unknown workers are a no-op."""
        feed = self._feeds.pop(worker, None)
        if feed is not None:
            self._retire(feed)

    def apply(self, worker: WorkerId, facts: Facts) -> bool:
        """Take the next changes of a worker. False: it is out of step and must send a snapshot."""
        feed = self._feeds.get(worker)
        if feed is None or (feed.synced and facts.number <= feed.number):
            return True
        if not feed.synced or facts.number != feed.number + 1:
            feed.synced = False
            return False
        feed.number = facts.number
        for fact in facts.facts:
            if isinstance(fact, Stored):
                self._store(feed, fact)
            else:
                self._evict(feed, fact)
        feed.synced = feed.digest & DIGEST_MASK == facts.digest
        self._trim()
        return feed.synced

    def replace(self, worker: WorkerId, snapshot: Snapshot) -> bool:
        """Take a chunk of a snapshot; the first drops all that was known. False: ask for another snapshot."""
        feed = self._feeds.get(worker)
        if feed is None:
            return True
        if snapshot.chunk == 0:
            self._renew(worker)
        elif snapshot.chunk != feed.chunk or snapshot.number != feed.number or feed.synced:
            return feed.synced
        feed.chunk = snapshot.chunk + 1
        feed.number = snapshot.number
        for run in snapshot.runs:
            self._store(feed, run)
        self._trim()
        if snapshot.last:
            feed.synced = feed.digest & DIGEST_MASK == snapshot.digest
            feed.chunk = 0
            return feed.synced
        return True

    def match(self, keys: Sequence[int]) -> Match:
        """How deep each worker holds the chain `keys`."""
        spans = self._closed.match(keys, self._alive_closed)
        if self._alive_open:
            spans += self._open.match(keys, self._alive_open)
            spans.sort()
        return Match(spans, self._owners, self._feeds)

    def sweep(self, runs: int = SWEEP_RUNS) -> bool:
        """Clear up behind workers that left, at most `runs` runs of blocks. False when there is nothing to do."""
        if not self._sweeping:
            if not self._dead:
                return False
            self._sweeping, self._dead = self._dead, 0
            self._closed.forest.begin_sweep()
            self._open.begin_sweep()
        closed = self._closed.forest.sweep(runs, self._sweeping)
        if self._open.sweep(runs, self._sweeping) and closed:
            self._free_bits.extend(_bits(self._sweeping))
            self._sweeping = 0
        return True

    def synced(self, worker: WorkerId) -> bool:
        """All facts of this worker so far have been followed."""
        return worker in self._feeds and self._feeds[worker].synced

    def holds(self, worker: WorkerId, key: int) -> bool:
        """Whether the index says that a worker holds a block."""
        feed = self._feeds[worker]
        return bool((self._closed if feed.closed else self._open).holders(key) & feed.bit)

    def check(self) -> None:
        """Invariants of the whole index. Slow: for tests."""
        self._closed.forest.check()
        if self._alive_closed | self._alive_open != sum(self._owners):
            raise Bug("prefix index: live bits and owners differ")
        if {feed.bit: worker for worker, feed in self._feeds.items()} != self._owners:
            raise Bug("prefix index: a worker's bit belongs to another")
        used = sum(self._owners) | self._dead | self._sweeping
        if any(used & bit for bit in self._free_bits) or len(set(self._free_bits)) != len(self._free_bits):
            raise Bug("prefix index: a bit is both free and in use")
        if self.size_bytes() > self._budget_bytes:
            raise Bug(f"prefix index: {self.size_bytes()} bytes, the budget is {self._budget_bytes}")

    def _store(self, feed: Feed, run: Stored) -> None:
        feed.digest += sum(run.keys)
        if feed.closed:
            self._closed.store(feed.bit, run.parent, run.keys)
        else:
            self._open.store(feed.bit, run.keys)

    def _evict(self, feed: Feed, fact: Evicted) -> None:
        feed.digest -= sum(fact.keys)
        if feed.closed:
            self._closed.evict(feed.bit, fact.keys)
        else:
            self._open.evict(feed.bit, fact.keys)

    def _trim(self) -> None:
        if self.size_bytes() > self._budget_bytes:
            self._closed.forest.trim(self._budget_bytes - self._open.size_bytes())
            self._open.trim(self._budget_bytes)

    def _renew(self, worker: WorkerId) -> None:
        """A bit nobody has used: all that the old one says is gone."""
        feed = self._feeds[worker]
        self._retire(feed)
        if self._free_bits:
            feed.bit = self._free_bits.pop()
        else:
            feed.bit = 1 << self._bits
            self._bits += 1
        feed.synced, feed.number, feed.digest, feed.chunk = False, 0, 0, 0
        self._owners[feed.bit] = worker
        if feed.closed:
            self._alive_closed |= feed.bit
        else:
            self._alive_open |= feed.bit

    def _retire(self, feed: Feed) -> None:
        if not feed.bit:
            return
        del self._owners[feed.bit]
        self._alive_closed &= ~feed.bit
        self._alive_open &= ~feed.bit
        self._dead |= feed.bit


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        low = mask & -mask
        found.append(low)
        mask ^= low
    return found
