"""random: any worker, drawn by the turn of the request."""

from collections.abc import Sequence

from jedlik.routing.policy import Ask, Offer, Scored, draw


class RandomChoice(Scored):
    name = "random"
    everyone = True

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        """The one that was drawn."""
        ordered = sorted(offers, key=lambda offer: offer.worker)
        return [ordered[draw(ask, "worker", len(ordered))]]

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        return [{} for _ in offers]

    def unit(self, offers: Sequence[Offer]) -> str:
        return "draws"
