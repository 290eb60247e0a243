"""The tiers of a worker beyond its device: host memory, disk, object storage, each accounted for like the device's
cache.

A tier is a pool whose blocks are slots somewhere else. It is closed by itself: whoever holds block i of a chain in a
tier holds 0..i-1 there. Disk and object storage outlive the worker and take part from when they are said to be open.
"""

from collections.abc import Iterator, Sequence

from jedlik.core.config import WorkerConfig
from jedlik.core.ids import BlockId
from jedlik.core.moves import TIERS, Location, Tier, TierOpened
from jedlik.core.protocol import Card
from jedlik.kv.cache_report import CacheReport
from jedlik.kv.pool import BlockPool
from jedlik.moving.fetch_plan import Depth

REMEMBERED = 8
"""Ids of blocks seen once are kept for so many times the tier's blocks, within the next limit."""
MOST_REMEMBERED = 1 << 20
ROOMY_SHARE = 0.5
"""A tier filled less than this takes anything: a filter on an empty tier keeps it empty."""


class SecondTouch:
    """A filter of one tier: a block is written at its second touch. It remembers at most `capacity` ids."""

    def __init__(self, capacity: int) -> None:
        self._half = max(1, capacity // 2)
        self._young: set[BlockId] = set()
        self._old: set[BlockId] = set()

    def __len__(self) -> int:
        """Ids remembered."""
        return len(self._young) + len(self._old)

    def admit(self, block: BlockId, fill_share: float) -> bool:
        """Whether this block is to be written, now that it was touched; `fill_share` of the tier is in use."""
        seen = block in self._young or block in self._old
        self._touch(block)
        return seen or fill_share < ROOMY_SHARE

    def _touch(self, block: BlockId) -> None:
        if block not in self._young and len(self._young) >= self._half:
            self._old, self._young = self._young, set()
        self._young.add(block)


class Store:
    """One tier beyond the device, and its pool."""

    def __init__(self, tier: Tier, blocks: int, config: WorkerConfig) -> None:
        self.tier: Tier = tier
        self.place = Location(tier)
        self.pool = BlockPool(blocks, config.host_eviction if tier == "host" else "lru")
        self.report = CacheReport(self.pool, TIERS.index(tier))
        self.open = tier == "host"
        picky = tier != "host" and (tier == "object" or config.disk_admission == "second_touch")
        self._admission = SecondTouch(min(MOST_REMEMBERED, REMEMBERED * blocks)) if picky else None

    def admitted(self, ids: Sequence[BlockId]) -> int:
        """Return how many of a chain's first blocks should be written here. They count as touched."""
        if self._admission is None:
            return len(ids)
        fill = 1.0 if self.tier == "object" else 1 - self.pool.free_blocks / self.pool.capacity
        admitted = [self._admission.admit(block, fill) for block in ids]
        return admitted.index(False) if False in admitted else len(ids)

    def slots(self, blocks: Sequence[int]) -> list[int]:
        """Return blocks as moves name them: the object tier has ids only."""
        return [] if self.tier == "object" else list(blocks)


class Tiers:
    """All of one worker's, nearest first."""

    def __init__(self, card: Card, config: WorkerConfig) -> None:
        self._stores = [Store(size.tier, size.blocks, config) for size in card.tiers if size.blocks > 1]

    def __len__(self) -> int:
        return len(self._stores)

    def __iter__(self) -> Iterator[Store]:
        """Those that take part."""
        return (store for store in self._stores if store.open)

    def opened(self, event: TierOpened) -> None:
        """A tier is ready, with what it had."""
        for store in self._stores:
            if store.tier == event.tier and not store.open:
                store.open = True
                store.pool.restore(event.runs)

    def depths(self, ids: Sequence[BlockId]) -> list[Depth]:
        """Return how deep each tier holds a chain."""
        return [Depth(store.tier, store.pool.match(ids)[0]) for store in self]

    def named(self, tier: str) -> Store:
        return next(store for store in self._stores if store.tier == tier)

    def reports(self) -> list[CacheReport]:
        """Return the cache reports of all tiers, nearest first; a tier that is not open yet has one, too."""
        return [store.report for store in self._stores]

    def check(self) -> None:
        """Every pool is sound."""
        for store in self._stores:
            store.pool.check()
