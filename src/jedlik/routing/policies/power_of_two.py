"""power_of_two: two workers drawn, the one with fewer requests (Mitzenmacher's two choices)."""

from collections.abc import Sequence

from jedlik.routing.policy import Ask, Fewest, Offer, draw


class PowerOfTwo(Fewest):
    name = "power_of_two"

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        """Two different ones, if there are two."""
        ordered = sorted(offers, key=lambda offer: offer.worker)
        first = ordered.pop(draw(ask, "first", len(ordered)))
        return [first, ordered[draw(ask, "second", len(ordered))]] if ordered else [first]
