"""power_of_two: two workers drawn, the one with fewer requests (Mitzenmacher's two choices)."""

from collections.abc import Sequence

from jedlik.core.facts import Candidate
from jedlik.routing.policies.signals import requests
from jedlik.routing.policy import Ask, Offer, Scored, draw, exact


class PowerOfTwo(Scored):
    name = "power_of_two"
    everyone = True

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        """Two different ones, if there are two."""
        ordered = sorted(offers, key=lambda offer: offer.worker)
        first = ordered.pop(draw(ask, "first") % len(ordered))
        return [first, ordered[draw(ask, "second") % len(ordered)]] if ordered else [first]

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        return [{"requests": float(requests(offer))} for offer in offers]

    def pick(self, scored: Sequence[Candidate], ask: Ask) -> Candidate:
        return exact(scored, ask)

    def unit(self, offers: Sequence[Offer]) -> str:
        return "requests"
