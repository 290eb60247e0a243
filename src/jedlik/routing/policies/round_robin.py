"""round_robin: the workers of a model in turn, by id, whatever they hold or have to do."""

from collections.abc import Sequence

from jedlik.core.facts import Candidate
from jedlik.core.ids import WorkerId
from jedlik.routing.policy import Ask, Offer, Scored


class RoundRobin(Scored):
    name = "round_robin"
    everyone = True

    def __init__(self) -> None:
        self._last: dict[str, WorkerId] = {}
        """Whose turn it was, by model."""

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        """The one after the last, or the first."""
        last = self._last.get(ask.model, "")
        return [min(offers, key=lambda offer: (offer.worker <= last, offer.worker))]

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        return [{} for _ in offers]

    def pick(self, scored: Sequence[Candidate], ask: Ask) -> Candidate:
        self._last[ask.model] = scored[0].worker
        return scored[0]

    def unit(self, offers: Sequence[Offer]) -> str:
        return "turns"
