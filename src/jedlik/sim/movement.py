"""Counts of KV transfers, summed over workers: hand-offs, and blocks of each tier."""

import msgspec

from jedlik.core.facts import Carried, Fact, Fetched, HandedOff, Offloaded
from jedlik.core.moves import TIERS

BELOW = TIERS[1:]


class TierCount(msgspec.Struct, kw_only=True):
    """The transfers of one tier, over all workers, in blocks unless a field says otherwise."""

    wanted: int = 0
    """Blocks that were asked of the tier."""
    hits: int = 0
    """Blocks that were found in it."""
    misses: dict[str, int] = {}
    """Blocks that were not found, by cause."""
    written: int = 0
    """Blocks that were copied to the tier."""
    refused: dict[str, int] = {}
    """Blocks that were not copied, by cause."""
    in_bytes: int = 0
    """Bytes that were written to it."""
    out_bytes: int = 0
    """Bytes that were read from it."""
    fetches: int = 0
    fetch_s: float = 0.0
    """Sum over fetches, of the time each took."""


class MovementCounts(msgspec.Struct, kw_only=True):
    """All of one simulation."""

    handoffs: int = 0
    """Hand-offs that ended, well or not."""
    handed_tokens: int = 0
    """Tokens whose KV came from other workers."""
    wanted_tokens: int = 0
    fallbacks: dict[str, int] = {}
    """Hand-offs of which a part was computed here, by cause."""
    handoff_s: float = 0.0
    """Sum over hand-offs, of the time each took."""
    handoff_bytes: int = 0
    tiers: dict[str, TierCount] = {}
    """The tiers that were used, by name."""

    def note(self, fact: Fact) -> None:
        """Take what a worker tells; facts about other things are passed over."""
        if isinstance(fact, HandedOff):
            self.handoffs += 1
            self.handed_tokens += fact.tokens
            self.wanted_tokens += fact.wanted
            self.handoff_s += fact.elapsed_s
            if fact.cause:
                _count(self.fallbacks, fact.cause, 1)
        elif isinstance(fact, Fetched):
            tier = self._tier(fact.tier)
            tier.wanted += fact.wanted
            tier.hits += fact.blocks
            tier.fetches += 1
            tier.fetch_s += fact.elapsed_s
            _count(tier.misses, fact.cause, fact.wanted - fact.blocks)
        elif isinstance(fact, Offloaded):
            tier = self._tier(fact.tier)
            tier.written += fact.blocks
            _count(tier.refused, fact.cause, fact.wanted - fact.blocks)
        elif isinstance(fact, Carried):
            self._carried(fact)

    def _carried(self, fact: Carried) -> None:
        if fact.source in BELOW:
            self._tier(fact.source).out_bytes += fact.size_bytes
        if fact.target in BELOW:
            self._tier(fact.target).in_bytes += fact.size_bytes
        elif fact.source not in BELOW:
            self.handoff_bytes += fact.size_bytes

    def _tier(self, name: str) -> TierCount:
        return self.tiers.setdefault(name, TierCount())


def _count(counts: dict[str, int], cause: str, number: int) -> None:
    if number:
        counts[cause] = counts.get(cause, 0) + number
