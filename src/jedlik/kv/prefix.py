"""The prefix index: which worker holds how much of a prompt, and where, fed by the workers' numbered facts.

Each tier of a worker (device, host memory, ...) is a feed of its own, numbered, digested, prefix-closed by itself.
A feed gets a bit per snapshot; when its worker leaves, the bit is masked at once, swept out slice by slice, and
only then used again. Whether all facts were seen is judged by numbers and by a digest over the facts themselves, kept
beside the index: blocks forgotten here for the byte budget, or runs left out, do not make it wrong.
"""

from collections.abc import Mapping, Sequence

from jedlik.core.errors import Bug
from jedlik.core.ids import WorkerId
from jedlik.core.protocol import Evicted, Facts, Snapshot, Stored
from jedlik.kv.prefix_blocks import ClosedBlocks, OpenBlocks

SWEEP_RUNS = 64
"""Runs of blocks looked at per call of `sweep`."""
DIGEST_MASK = (1 << 64) - 1


DEVICE = 0
"""The tier from which blocks are read as they are: the first of `core/moves.TIERS`."""


class Feed:
    """The state of following one tier of a worker: number, digest and bit."""

    __slots__ = ("bit", "chunk", "closed", "digest", "number", "synced", "worker")

    def __init__(self, worker: WorkerId, closed: bool) -> None:
        self.worker = worker
        self.bit = 0
        self.closed = closed
        self.synced = False
        self.number = 0
        self.chunk = 0
        """The next one expected of a snapshot that is under way."""
        self.digest = 0


Feeds = Mapping[WorkerId, Mapping[int, Feed]]
"""Feeds by worker and tier."""


class Match:
    """The depth to which each worker holds a prompt's blocks. It is decoded only as far as one asks, and good until the
    index changes."""

    __slots__ = ("_feeds", "_owners", "_spans", "tiered")

    def __init__(
        self, spans: list[tuple[int, int]], owners: Mapping[int, WorkerId], feeds: Feeds, tiered: bool
    ) -> None:
        self._spans = spans
        self._owners = owners
        self._feeds = feeds
        self.tiered = tiered
        """Some worker has more tiers than its device."""

    def empty(self) -> bool:
        """Nobody holds the first block."""
        return not self._spans

    def deepest(self, most: int | None = None) -> dict[WorkerId, int]:
        """Depth in blocks (at least 1) of the workers that hold most, in whichever of their tiers.

        Deepest first, ties in order of their bits.
        """
        depths: dict[WorkerId, int] = {}
        owners = self._owners
        for depth, bits in reversed(self._spans):
            while bits:
                low = bits & -bits
                bits ^= low
                worker = owners[low]
                if worker in depths:
                    continue
                depths[worker] = depth
                if len(depths) == most:
                    return depths
        return depths

    def most(self) -> tuple[int, int]:
        """(depth in blocks of the workers that hold most, how many they are); (0, 0) if nobody holds anything."""
        depth = self._spans[-1][0] if self._spans else 0
        bits = 0
        for at, mask in self._spans:
            bits |= mask if at == depth else 0
        if self.tiered:
            return depth, len({self._owners[bit] for bit in _bits(bits)})
        return depth, bits.bit_count()

    def depth(self, worker: WorkerId) -> int:
        """Depth in blocks on a worker's device; 0 for one that holds nothing there."""
        feeds = self._feeds.get(worker)
        return self._depth(feeds[DEVICE].bit) if feeds else 0

    def tiers(self, worker: WorkerId) -> tuple[tuple[int, int], ...]:
        """(tier, depth in blocks) of a worker's tiers beyond the device that go deeper than every nearer one."""
        feeds = self._feeds.get(worker)
        if not feeds or len(feeds) == 1:
            return ()
        found, deepest = [], self._depth(feeds[DEVICE].bit)
        for tier in sorted(feeds):
            depth = self._depth(feeds[tier].bit)
            if depth > deepest:
                found.append((tier, depth))
                deepest = depth
        return tuple(found)

    def _depth(self, bit: int) -> int:
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
        self._feeds: dict[WorkerId, dict[int, Feed]] = {}
        self._owners: dict[int, WorkerId] = {}
        """By bit; only bits that count."""
        self._free_bits: list[int] = []
        self._bits = 0
        """How many were ever made."""
        self._tiers = 0
        """Feeds beyond one a worker."""
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

    def join(self, worker: WorkerId, prefix_closed: bool = True, tiers: Sequence[int] = ()) -> None:
        """Follow a worker's device, and `tiers` beyond it, each from its first snapshot on."""
        if worker in self._feeds:
            raise Bug(f"prefix index: {worker} joined twice; leave() comes between")
        feeds = self._feeds[worker] = {tier: Feed(worker, prefix_closed) for tier in (DEVICE, *tiers)}
        self._tiers += len(feeds) - 1
        for feed in feeds.values():
            self._renew(feed)

    def leave(self, worker: WorkerId) -> None:
        """Forget a worker at once; its blocks go slice by slice. Unknown workers are a no-op."""
        feeds = self._feeds.pop(worker, {})
        self._tiers -= max(0, len(feeds) - 1)
        for feed in feeds.values():
            self._retire(feed)

    def _feed(self, worker: WorkerId, tier: int) -> Feed | None:
        feeds = self._feeds.get(worker)
        return feeds.get(tier) if feeds else None

    def apply(self, worker: WorkerId, facts: Facts) -> bool:
        """Take the next changes of a worker's tier. False: it is out of step and must send snapshots."""
        feed = self._feed(worker, facts.tier)
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
        """Take a chunk of a tier's snapshot; the first drops all that was known. False: ask for other snapshots."""
        feed = self._feed(worker, snapshot.tier)
        if feed is None:
            return True
        if snapshot.chunk == 0:
            self._renew(feed)
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
        """Return how deep each worker holds the chain `keys`."""
        spans = self._closed.match(keys, self._alive_closed) if self._alive_closed else []
        if self._alive_open:
            spans += self._open.match(keys, self._alive_open)
            spans.sort()
        return Match(spans, self._owners, self._feeds, self._tiers > 0)

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
        """All facts of this worker so far, of every tier, have been followed."""
        feeds = self._feeds.get(worker)
        return feeds is not None and all(feed.synced for feed in feeds.values())

    def holds(self, worker: WorkerId, key: int, tier: int = DEVICE) -> bool:
        """Whether the index says that a worker holds a block in a tier."""
        feed = self._feeds[worker][tier]
        return bool((self._closed if feed.closed else self._open).holders(key) & feed.bit)

    def check(self) -> None:
        """Invariants of the whole index. Slow: for tests."""
        self._closed.forest.check()
        if self._alive_closed | self._alive_open != sum(self._owners):
            raise Bug("prefix index: live bits and owners differ")
        feeds = [(worker, feed) for worker, tiers in self._feeds.items() for feed in tiers.values()]
        if {feed.bit: worker for worker, feed in feeds} != self._owners or len(feeds) != len(self._owners):
            raise Bug("prefix index: a worker's bit belongs to another")
        if self._tiers != len(feeds) - len(self._feeds):
            raise Bug("prefix index: tiers are miscounted")
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

    def _renew(self, feed: Feed) -> None:
        """A bit nobody has used: all that the old one says is gone."""
        self._retire(feed)
        if self._free_bits:
            feed.bit = self._free_bits.pop()
        else:
            feed.bit = 1 << self._bits
            self._bits += 1
        feed.synced, feed.number, feed.digest, feed.chunk = False, 0, 0, 0
        self._owners[feed.bit] = feed.worker
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
