"""least_loaded: fewest requests (running, waiting, booked), then least queued prefill A."""

from collections.abc import Sequence

from jedlik.core.facts import Candidate
from jedlik.routing.policies.signals import fewest, queued_tokens
from jedlik.routing.policy import Ask, Offer, Scored, exact


class LeastLoaded(Scored):
    name = "least_loaded"
    everyone = True

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        """Those with the fewest requests."""
        return fewest(offers)

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        return [{"queued": float(queued_tokens(offer))} for offer in offers]

    def pick(self, scored: Sequence[Candidate], ask: Ask) -> Candidate:
        return exact(scored, ask)

    def unit(self, offers: Sequence[Offer]) -> str:
        return "tokens"
