"""Published routing rules, as they were published, to compare with and to use.

They compare what a gateway sees of each worker: A = queued prefill tokens, B = requests (running, waiting and booked),
S = context tokens in decode, n = prompt tokens to be computed there. All are offered every worker. The code is our own,
from the published rules; where a rule keeps an approximate tree of prompts, ours reads the exact prefix index instead.
"""

from collections.abc import Sequence
from math import sqrt

from xxhash import xxh3_64_intdigest

from jedlik.core.facts import Candidate
from jedlik.core.ids import WorkerId
from jedlik.core.protocol import StepCosts
from jedlik.core.sums import float_sum
from jedlik.routing.policy import Ask, Exact, Fewest, Offer, Scored, draw, step_costs


def requests(offer: Offer) -> int:
    """Return B: the requests that run, wait or are booked at a worker."""
    return offer.view.sequences


def missing_tokens(offer: Offer, ask: Ask) -> int:
    """Return n: the prompt tokens to be computed there, at least one."""
    return max(1, ask.history_tokens - offer.cached_tokens)


def queued_tokens(offer: Offer) -> int:
    """Return A: the prompt tokens that wait there; tokens that the request's other choices compute count as cached."""
    return max(0, offer.view.backlog_tokens - offer.shared_tokens)


def fewest(offers: Sequence[Offer]) -> list[Offer]:
    """Return the offers with the fewest requests."""
    counts = [requests(offer) for offer in offers]
    least = min(counts)
    return [offer for offer, count in zip(offers, counts, strict=True) if count == least]


def deepest(offers: Sequence[Offer]) -> list[Offer]:
    """Return the offers with most of the prompt."""
    most = max(offer.cached_tokens for offer in offers)
    return [offer for offer in offers if offer.cached_tokens == most]


class RoundRobin(Scored):
    """`round_robin`: the workers of a model in turn, by id, whatever they have cached or have to do."""

    name = "round_robin"
    everyone = True

    def __init__(self) -> None:
        self._last: dict[str, WorkerId] = {}
        """Whose turn it was, by model."""

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        last = self._last.get(ask.model, "")
        return [min(offers, key=lambda offer: (offer.worker <= last, offer.worker))]

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        return [{} for _ in offers]

    def pick(self, scored: Sequence[Candidate], ask: Ask) -> Candidate:
        self._last[ask.model] = scored[0].worker
        return scored[0]

    def unit(self, offers: Sequence[Offer]) -> str:
        return "turns"


class RandomChoice(Scored):
    """`random`: any worker, drawn by the turn of the request."""

    name = "random"
    everyone = True

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        ordered = sorted(offers, key=lambda offer: offer.worker)
        return [ordered[draw(ask, "worker", len(ordered))]]

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        return [{} for _ in offers]

    def unit(self, offers: Sequence[Offer]) -> str:
        return "draws"


class PowerOfTwo(Fewest):
    """`power_of_two`: two workers are drawn, the one with fewer requests is taken (Mitzenmacher's two choices)."""

    name = "power_of_two"

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        ordered = sorted(offers, key=lambda offer: offer.worker)
        first = ordered.pop(draw(ask, "first", len(ordered)))
        return [first, ordered[draw(ask, "second", len(ordered))]] if ordered else [first]


class LeastLoaded(Exact):
    """`least_loaded`: the fewest requests B, then the least queued prefill A."""

    name = "least_loaded"

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        return fewest(offers)

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        return [{"queued": float(queued_tokens(offer))} for offer in offers]

    def unit(self, offers: Sequence[Offer]) -> str:
        return "tokens"


class Session(LeastLoaded):
    """`session`: requests of one conversation go to one worker, unless it has far more to do than the others.

    The worker is the one with the highest hash of (session, worker name): rendezvous hashing, so that a worker that
    comes or goes moves only its own sessions. The least loaded worker is taken instead while the session's worker has
    more than `FREE_REQUESTS` requests and one more would exceed `BOUND` times the mean: the bound of consistent hashing
    with bounded loads (Mirrokni et al.). Requests without a session go to the least loaded.
    """

    name = "session"
    BOUND = 1.25
    FREE_REQUESTS = 4
    """Few requests are no overload, however idle the others are."""

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        if ask.session:
            home = max(offers, key=lambda offer: (_weight(ask.session, offer.view.card.name), offer.worker))
            there = requests(home) + 1
            mean = (sum(map(requests, offers)) + 1) / len(offers)
            if not (there > self.FREE_REQUESTS and there > self.BOUND * mean):
                return [home]
        return super().filter(offers, ask)


def _weight(session: str, worker: str) -> int:
    return xxh3_64_intdigest(f"{session}/{worker}".encode())


class DynamoCost(Exact):
    """`dynamo`: NVIDIA Dynamo's published KV router cost at its default weights, temperature 0.

    It minimises (A + ISL)/b - d + (S + ISL)/b: queued and own prefill in blocks less the blocks found, plus blocks in
    decode there and its own. d = matched blocks, b = the worker's block size. Source: the formula as published for
    Dynamo 1.x.
    """

    name = "dynamo"

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        return [self._blocks(offer, ask) for offer in offers]

    def _blocks(self, offer: Offer, ask: Ask) -> dict[str, float]:
        size = offer.view.card.layout.block_size
        return {
            "prefill": (queued_tokens(offer) + ask.history_tokens) / size - offer.cached_tokens // size,
            "decode": (offer.view.context_tokens + ask.history_tokens) / size,
        }

    def unit(self, offers: Sequence[Offer]) -> str:
        return "blocks"


class SGLang(Fewest):
    """`sglang`: the cache-aware thresholds of SGLang's router.

    If max B - min B > 64 and max B > 1.5 min B: the shortest queue. Else the best match if it covers more than 30 % of
    the prompt. Else the worker with the smallest cache. Fewer requests decide among equals. Source: the thresholds as
    published.
    """

    name = "sglang"
    UNBALANCED_REQUESTS, UNBALANCED_RATIO = 64, 1.5
    MATCH_SHARE = 0.3

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        counts = [requests(offer) for offer in offers]
        most, least = max(counts), min(counts)
        if most - least > self.UNBALANCED_REQUESTS and most > self.UNBALANCED_RATIO * least:
            return offers
        holders = deepest(offers)
        if holders[0].cached_tokens > self.MATCH_SHARE * ask.history_tokens:
            return holders
        sizes = [self._cache_tokens(offer) for offer in offers]
        smallest = min(sizes)
        return [offer for offer, size in zip(offers, sizes, strict=True) if size == smallest]

    def _cache_tokens(self, offer: Offer) -> int:
        """Return the tokens in a worker's cache, in use or not; a worker that has not reported yet has none."""
        load = offer.view.load
        return (load.held_blocks + load.cached_blocks) * offer.view.card.layout.block_size if load else 0


class AIBrix(Fewest):
    """`aibrix`: AIBrix's prefix-cache policy.

    If max B - min B > 16: the fewest requests. Else the longest match among workers with B <= mean + 2 sigma (fewer
    requests decide among equals). Else, where none of them has anything cached, the fewest requests. Source: the rule
    as published.
    """

    name = "aibrix"
    UNBALANCED_REQUESTS = 16
    SIGMAS = 2.0

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        counts = [requests(offer) for offer in offers]
        if max(counts) - min(counts) > self.UNBALANCED_REQUESTS:
            return offers
        mean = sum(counts) / len(counts)
        sigma = sqrt(float_sum((count - mean) ** 2 for count in counts) / len(counts))
        limit = mean + self.SIGMAS * sigma
        holders = deepest([offer for offer, count in zip(offers, counts, strict=True) if count <= limit])
        return holders if holders[0].cached_tokens else offers


class LMetric(Exact):
    """`lmetric`: it minimises (A + n)(B + 1), prefill tokens there and own times requests there and this one.

    The weights of the two factors cancel, so there is nothing to tune. Source: LMetric, arXiv 2603.15202.
    """

    name = "lmetric"

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        return [self._product(offer, ask) for offer in offers]

    def _product(self, offer: Offer, ask: Ask) -> dict[str, float]:
        """Return the product in two parts, by whose tokens they are."""
        times = requests(offer) + 1
        return {"queued": float(queued_tokens(offer) * times), "prefill": float(missing_tokens(offer, ask) * times)}

    def unit(self, offers: Sequence[Offer]) -> str:
        return "tokens x requests"


class PredictedTTFT(Exact):
    """`predicted_ttft`: it minimises the predicted time to first token, as Mooncake's Conductor does.

    p1 A + p0 + p1 n + p2 n (h + n/2) + (d1 B + d2 S)(A + n)/chunk: queued prefill, own prefill of n tokens after h
    cached ones, and the decode work that shares those steps. chunk = the worker's tokens per step; p0, p1, p2, d1, d2
    are its `StepCosts`. Where a worker's are unknown: A + n tokens. Source: the rule as published (FAST'25) with the
    linear step model.
    """

    name = "predicted_ttft"

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        costs = step_costs(offers)
        if costs is None:
            return [{"wait": float(queued_tokens(o)), "prefill": float(missing_tokens(o, ask))} for o in offers]
        return [self._seconds(offer, ask, known) for offer, known in zip(offers, costs, strict=True)]

    def _seconds(self, offer: Offer, ask: Ask, costs: StepCosts) -> dict[str, float]:
        queued, missing, view = queued_tokens(offer), missing_tokens(offer, ask), offer.view
        pairs = missing * (offer.cached_tokens + missing / 2)
        decode_s = costs.decode_sequence_s * requests(offer) + costs.context_token_s * view.context_tokens
        return {
            "wait": costs.prefill_token_s * queued,
            "prefill": costs.base_s + costs.prefill_token_s * missing + costs.prefill_pair_s * pairs,
            "decode": decode_s * (queued + missing) / view.card.max_step_tokens,
        }

    def unit(self, offers: Sequence[Offer]) -> str:
        return "tokens" if step_costs(offers) is None else "s"
