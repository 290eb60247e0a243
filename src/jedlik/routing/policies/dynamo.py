"""dynamo: NVIDIA Dynamo's published KV router cost at its default weights, temperature 0.

Minimise (A + ISL)/b - d + (S + ISL)/b: queued and own prefill in blocks less the blocks found, plus blocks in decode
there and its own. A = queued prefill tokens, S = context tokens in decode, d = matched blocks, b = the worker's block
size. Source: the formula as published for Dynamo 1.x; our own code.
"""

from collections.abc import Sequence

from jedlik.routing.policies.signals import queued_tokens
from jedlik.routing.policy import Ask, Exact, Offer


class Dynamo(Exact):
    name = "dynamo"

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        return [_blocks(offer, ask) for offer in offers]

    def unit(self, offers: Sequence[Offer]) -> str:
        return "blocks"


def _blocks(offer: Offer, ask: Ask) -> dict[str, float]:
    size = offer.view.card.layout.block_size
    return {
        "prefill": (queued_tokens(offer) + ask.history_tokens) / size - offer.cached_tokens // size,
        "decode": (offer.view.context_tokens + ask.history_tokens) / size,
    }
