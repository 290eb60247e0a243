"""sglang: the cache-aware thresholds of SGLang's router.

If max - min requests > 64 and max > 1.5 min: the shortest queue. Else the best match if it covers more than 30 % of
the prompt. Else the worker with the smallest cache. Fewer requests decide among equals. Source: the thresholds as
published; our own code, with the exact index in place of its approximate tree.
"""

from collections.abc import Sequence

from jedlik.routing.policies.signals import deepest, requests
from jedlik.routing.policy import Ask, Fewest, Offer

UNBALANCED_REQUESTS, UNBALANCED_RATIO = 64, 1.5
MATCH_SHARE = 0.3


class SGLang(Fewest):
    name = "sglang"

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        """All when the load is out of balance, else the best match or the smallest cache."""
        counts = [requests(offer) for offer in offers]
        most, least = max(counts), min(counts)
        if most - least > UNBALANCED_REQUESTS and most > UNBALANCED_RATIO * least:
            return offers
        holders = deepest(offers)
        if holders[0].cached_tokens > MATCH_SHARE * ask.history_tokens:
            return holders
        sizes = [_cache_tokens(offer) for offer in offers]
        smallest = min(sizes)
        return [offer for offer, size in zip(offers, sizes, strict=True) if size == smallest]


def _cache_tokens(offer: Offer) -> int:
    """Held and kept; a worker that has not reported yet has nothing."""
    load = offer.view.load
    return (load.held_blocks + load.cached_blocks) * offer.view.card.layout.block_size if load else 0
