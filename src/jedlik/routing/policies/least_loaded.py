"""least_loaded: fewest requests (running, waiting, booked), then least queued prefill A."""

from collections.abc import Sequence

from jedlik.routing.policies.signals import fewest, queued_tokens
from jedlik.routing.policy import Ask, Exact, Offer


class LeastLoaded(Exact):
    name = "least_loaded"

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        """Those with the fewest requests."""
        return fewest(offers)

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        return [{"queued": float(queued_tokens(offer))} for offer in offers]

    def unit(self, offers: Sequence[Offer]) -> str:
        return "tokens"
