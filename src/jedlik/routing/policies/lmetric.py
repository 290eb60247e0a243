"""lmetric: minimise (A + n)(B + 1): prefill tokens there and own, times requests there and this one.

A = queued prefill tokens, n = prompt tokens not cached, B = requests. The weights of the two factors cancel, so there
is nothing to tune. Source: LMetric, arXiv 2603.15202, by its formula; our own code.
"""

from collections.abc import Sequence

from jedlik.routing.policies.signals import missing_tokens, queued_tokens, requests
from jedlik.routing.policy import Ask, Exact, Offer


class LMetric(Exact):
    name = "lmetric"

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        return [_product(offer, ask) for offer in offers]

    def unit(self, offers: Sequence[Offer]) -> str:
        return "tokens x requests"


def _product(offer: Offer, ask: Ask) -> dict[str, float]:
    """The product, told apart by whose tokens they are."""
    times = requests(offer) + 1
    return {"queued": float(queued_tokens(offer) * times), "prefill": float(missing_tokens(offer, ask) * times)}
