"""`jedlik`, the default: the least marginal cost to everybody, in seconds of the workers' own step models.

The cost is a request's own wait and prefill, the stall inflicted on the batch there, the slowdown over the expected
output, and what memory would have to be computed again: `routing/cost` has the terms. A worker for which another one
would prefill costs what that placement costs (`routing/pairs`). Until every worker that tells step costs has told
some, all workers are compared in tokens of prefill.
"""

from collections.abc import Sequence

from jedlik.routing.cost import Dispatch, cost_seconds, cost_tokens
from jedlik.routing.policy import Ask, Offer, Refuse, Scored, Wait, dispatch_of, step_costs
from jedlik.routing.slo import admitted


class Jedlik(Scored):
    """The policy with the least marginal cost to everybody."""

    name = "jedlik"

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer] | Wait | Refuse:
        """Return the workers where promises are kept, if any were made and step times are known (`routing/slo`)."""
        if ask.ttft_s is None or (costs := step_costs(offers)) is None:
            return offers
        return admitted(offers, costs, self.score(offers, ask), ask, ask.ttft_s)

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        dispatches, costs = _dispatches(offers, ask), step_costs(offers)
        if costs is None:
            return [cost_tokens(offer.view, dispatch) for offer, dispatch in zip(offers, dispatches, strict=True)]
        cases = zip(offers, dispatches, costs, strict=True)
        return [offer.terms or cost_seconds(offer.view, dispatch, known, ask.reuse) for offer, dispatch, known in cases]

    def unit(self, offers: Sequence[Offer]) -> str:
        return "tokens" if step_costs(offers) is None else "s"


def _dispatches(offers: Sequence[Offer], ask: Ask) -> list[Dispatch]:
    """Return what each worker would have to do; one value for all that have nothing cached."""
    nothing = Dispatch(history_tokens=ask.history_tokens, output_tokens=ask.output_tokens, cached_tokens=0)
    return [dispatch_of(o, ask) if o.cached_tokens or o.shared_tokens or o.tiers else nothing for o in offers]
