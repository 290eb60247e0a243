"""aibrix: AIBrix's prefix-cache policy.

If max - min requests > 16: the fewest requests. Else the longest match among workers with requests <= mean + 2 sigma
(fewer requests decide among equals). Else, where none of them holds anything, the fewest requests. Source: the rule as
published; our own code, with the exact index in place of its own tree.
"""

from collections.abc import Sequence
from math import sqrt

from jedlik.core.sums import float_sum
from jedlik.routing.policies.signals import deepest, requests
from jedlik.routing.policy import Ask, Fewest, Offer

UNBALANCED_REQUESTS = 16
SIGMAS = 2.0


class AIBrix(Fewest):
    name = "aibrix"

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        """The longest match among those that aren't far above the mean, or all."""
        counts = [requests(offer) for offer in offers]
        if max(counts) - min(counts) > UNBALANCED_REQUESTS:
            return offers
        mean = sum(counts) / len(counts)
        sigma = sqrt(float_sum((count - mean) ** 2 for count in counts) / len(counts))
        limit = mean + SIGMAS * sigma
        holders = deepest([offer for offer, count in zip(offers, counts, strict=True) if count <= limit])
        return holders if holders[0].cached_tokens else offers
