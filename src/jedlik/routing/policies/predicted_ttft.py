"""predicted_ttft: minimise the predicted time to first token, as Mooncake's Conductor does.

p1 A + p0 + p1 n + p2 n (h + n/2) + (d1 B + d2 S)(A + n)/chunk: queued prefill, own prefill of n tokens after h cached
ones, and the decode work that shares those steps. A = queued prefill tokens, B = requests, S = context tokens, chunk =
the worker's tokens per step; p0, p1, p2, d1, d2 are its `StepCosts`. Where a worker has told none: A + n tokens.
Source: the rule as published (FAST'25) with the linear step model; our own code.
"""

from collections.abc import Sequence

from jedlik.core.protocol import StepCosts
from jedlik.routing.policies.signals import missing_tokens, queued_tokens, requests
from jedlik.routing.policy import Ask, Exact, Offer, step_costs


class PredictedTTFT(Exact):
    name = "predicted_ttft"

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        costs = step_costs(offers)
        if costs is None:
            return [_tokens(offer, ask) for offer in offers]
        return [_seconds(offer, ask, known) for offer, known in zip(offers, costs, strict=True)]

    def unit(self, offers: Sequence[Offer]) -> str:
        return "tokens" if step_costs(offers) is None else "s"


def _tokens(offer: Offer, ask: Ask) -> dict[str, float]:
    return {"wait": float(queued_tokens(offer)), "prefill": float(missing_tokens(offer, ask))}


def _seconds(offer: Offer, ask: Ask, costs: StepCosts) -> dict[str, float]:
    queued, missing, view = queued_tokens(offer), missing_tokens(offer, ask), offer.view
    pairs = missing * (offer.cached_tokens + missing / 2)
    decode_s = costs.decode_sequence_s * requests(offer) + costs.context_token_s * view.context_tokens
    return {
        "wait": costs.prefill_token_s * queued,
        "prefill": costs.base_s + costs.prefill_token_s * missing + costs.prefill_pair_s * pairs,
        "decode": decode_s * (queued + missing) / view.card.max_step_tokens,
    }
