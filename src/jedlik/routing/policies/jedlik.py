"""jedlik, the default: the least marginal cost to everybody, in seconds of the workers' own step models.

Own wait and prefill, the stall inflicted on the batch there, the slowdown over the expected output, what memory would
have to be computed again: `routing/cost` has the terms. A worker for which another one would prefill costs what that
place costs (`routing/pairs`). Where a worker has no profile yet, all are compared in tokens
of prefill.
"""

from collections.abc import Sequence

from jedlik.routing.cost import Demand, cost_seconds, cost_tokens
from jedlik.routing.policy import Ask, Offer, Refuse, Scored, Wait, step_costs
from jedlik.routing.slo import admitted


class Jedlik(Scored):
    name = "jedlik"

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer] | Wait | Refuse:
        """Where promises are kept, if any were made and step times are known (`routing/slo`)."""
        if ask.ttft_s is None or (costs := step_costs(offers)) is None:
            return offers
        return admitted(offers, costs, self.score(offers, ask), ask, ask.ttft_s)

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        demands, costs = _demands(offers, ask), step_costs(offers)
        if costs is None:
            return [cost_tokens(offer.view, demand) for offer, demand in zip(offers, demands, strict=True)]
        cases = zip(offers, demands, costs, strict=True)
        return [offer.terms or cost_seconds(offer.view, demand, known, ask.reuse) for offer, demand, known in cases]

    def unit(self, offers: Sequence[Offer]) -> str:
        return "tokens" if step_costs(offers) is None else "s"


def _demands(offers: Sequence[Offer], ask: Ask) -> list[Demand]:
    """What each worker would have to do; one value for all that hold nothing."""
    history, output = ask.history_tokens, ask.output_tokens
    nothing = Demand(history, output, 0)
    return [
        Demand(history, output, o.cached_tokens, o.shared_tokens, o.tiers)
        if o.cached_tokens or o.shared_tokens or o.tiers
        else nothing
        for o in offers
    ]
