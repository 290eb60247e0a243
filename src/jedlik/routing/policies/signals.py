"""What published policies compare: requests at a worker, queued prefill, the part of a prompt that must be computed."""

from collections.abc import Sequence

from jedlik.routing.policy import Ask, Offer


def requests(offer: Offer) -> int:
    """Running, waiting and booked at a worker."""
    return offer.view.sequences


def missing_tokens(offer: Offer, ask: Ask) -> int:
    """n: prompt tokens to be computed there, at least one."""
    return max(1, ask.history_tokens - offer.cached_tokens)


def queued_tokens(offer: Offer) -> int:
    """A: prompt tokens that wait there; what the request's other choices will compute counts as cached instead."""
    return max(0, offer.view.backlog_tokens - offer.shared_tokens)


def fewest(offers: Sequence[Offer]) -> list[Offer]:
    """Those with the fewest requests."""
    counts = [requests(offer) for offer in offers]
    least = min(counts)
    return [offer for offer, count in zip(offers, counts, strict=True) if count == least]


def deepest(offers: Sequence[Offer]) -> list[Offer]:
    """Those with most of the prompt."""
    most = max(offer.cached_tokens for offer in offers)
    return [offer for offer in offers if offer.cached_tokens == most]
