"""Where a prompt is prefilled: at the worker that decodes it, or at another one that pushes its blocks there.

For each worker D that could decode, the best of three kinds of place, by what it costs everybody, in seconds:
    local     D's wait, prefill and the stall it inflicts on D's batch
    remote    P's wait, P's prefill of what it lacks, the stall it inflicts if P decodes too, what of the transfer does
              not overlap with that (at least the last chunk), an overhead, and the last token's prefill at D
    pull      W's wait, transfer of what only W has cached, the overhead, and the prefill of the rest at D
D's own backlog is worked off meanwhile. Who cannot be paired is told with the reason. Where steps or paths are unknown
nothing is compared: a worker of role "decode" has others prefill for it, one that does both prefills itself.
"""

from collections.abc import Iterator, Sequence
from heapq import nsmallest
from itertools import islice
from typing import NamedTuple

from msgspec.structs import replace

from jedlik.core.facts import Elsewhere
from jedlik.core.ids import WorkerId
from jedlik.core.protocol import Card, StepCosts
from jedlik.core.sums import float_sum
from jedlik.perf.step import prefill_s
from jedlik.routing.cost import Demand, cost_seconds, missing_tokens, own_work, wait_s
from jedlik.routing.paths import between, path_s
from jedlik.routing.policy import Ask, Offer, Pair
from jedlik.routing.reach import Held
from jedlik.routing.view import SLOTS, Fleet, WorkerView

MAX_IDLE = MAX_HOLDERS = 4
"""Workers with the least backlog and with most of the prompt that are asked to prefill."""
MAX_PULLED = 2
"""Workers with most of the prompt that are asked for what they have."""
HANDOFF_S = 0.005
"""Messages, reservation and commit of one hand-off, beyond what is computed and carried."""
REMOTE_TIMES = ("remote_wait", "remote_prefill", "transfer", "handoff")
TIMES = ("wait", "fetch", "prefill", *REMOTE_TIMES)
"""Terms of a cost that come before the first token."""


class Source(NamedTuple):
    """A worker that could prefill all but the last token of a history, whoever decodes it."""

    view: WorkerView
    cached_tokens: int
    lacking_tokens: int
    """To be computed there, at least one."""
    wait_s: float | None
    """By the step model alone; None: it has told none."""
    own_s: float
    """Its prefill, loads from its own tiers included."""


class Place(NamedTuple):
    """One way to serve an offer."""

    pair: Pair | None
    terms: dict[str, float]

    @property
    def cost_s(self) -> float:
        return float_sum(self.terms.values())

    def told(self) -> Elsewhere:
        """For `explain`."""
        pair = self.pair
        return Elsewhere(pair.worker if pair else None, pair is None or pair.compute, self.terms)


def first_token_s(terms: dict[str, float]) -> float:
    """Predicted from the terms of a cost in seconds."""
    return float_sum([terms.get(name, 0.0) for name in TIMES])


def refusal(decodes: Card, prefills: Card) -> str | None:
    """Why one worker can't take blocks from another; None if it can."""
    for card in (decodes, prefills):
        if SLOTS not in card.handoffs:
            return f"{card.worker} takes part in no hand-off of blocks"
    if decodes.revision != prefills.revision:
        return f"{decodes.worker} has another revision of the model"
    if decodes.layout != prefills.layout:
        return f"{decodes.worker} has blocks of another layout"
    return None


def paired(offers: list[Offer], fleet: Fleet, ask: Ask, held: Held) -> list[Offer]:
    """The same offers, each with its best place."""
    if ask.alone or ask.history_tokens < 2:
        return offers
    prefillers = [_source(view, ask, held) for view in _prefillers(fleet, ask, held)]
    others: list[Source] = []
    if not prefillers and any(offer.view.state.role == "decode" for offer in offers):
        others = [_source(view, ask, held) for view in _both(fleet, ask)]
    holders = _holders(fleet, ask, held)
    if not (prefillers or others or holders):
        return offers
    return [
        _best(offer, prefillers or (others if offer.view.state.role == "decode" else []), holders, ask)
        for offer in offers
    ]


def _able(view: WorkerView | None, ask: Ask) -> bool:
    """It may be asked: works, stays, has the context, and takes part in hand-offs at all."""
    if view is None or not view.trusted() or view.card.model != ask.model or SLOTS not in view.card.handoffs:
        return False
    return ask.history_tokens <= view.card.max_model_len and view.card.worker not in ask.avoid


def _prefillers(fleet: Fleet, ask: Ask, held: Held) -> Iterator[WorkerView]:
    """The least loaded of those that only prefill, then those of them that hold most of the prompt."""
    seen: set[WorkerId] = set()
    for view in islice((v for v in fleet.prefillers(ask.model) if _able(v, ask)), MAX_IDLE):
        seen.add(view.card.worker)
        yield view
    if not seen:
        return
    known = ((held.cached[w], w) for w in held.cached if w not in seen)
    ours = ((-depth, w) for depth, w in known if (v := fleet.get(w)) and v.state.role == "prefill" and _able(v, ask))
    for _, worker in nsmallest(MAX_HOLDERS, ours):
        if (found := fleet.get(worker)) is not None:
            yield found


def _both(fleet: Fleet, ask: Ask) -> Iterator[WorkerView]:
    views = (view for view in fleet.least_loaded(ask.model) if view.state.role == "both" and _able(view, ask))
    return islice(views, MAX_IDLE)


def _holders(fleet: Fleet, ask: Ask, held: Held) -> list[tuple[WorkerView, int]]:
    """Those that hold most of the prompt on their device, with how much."""
    deepest = nsmallest(MAX_PULLED, ((-depth, worker) for worker, depth in held.cached.items() if depth))
    found = ((fleet.get(worker), -depth) for depth, worker in deepest if not held.shared.get(worker))
    return [(view, depth) for view, depth in found if view is not None and _able(view, ask)]


def _source(view: WorkerView, ask: Ask, held: Held) -> Source:
    tokens, worker = ask.history_tokens - 1, view.card.worker
    cached = min(held.cached.get(worker, 0), tokens)
    demand = Demand(tokens, 0, cached, held.shared.get(worker, 0), held.tiers.get(worker, ()))
    costs = view.costs
    if costs is None:
        return Source(view, cached, demand.uncached_tokens, None, 0.0)
    own = own_work(view, demand, costs)
    lacking = max(1, tokens - own.cached_tokens)
    return Source(view, cached, lacking, wait_s(view, demand, costs), own.fetch_s + own.prefill_s)


def _best(offer: Offer, sources: Sequence[Source], holders: Sequence[tuple[WorkerView, int]], ask: Ask) -> Offer:
    """An offer with the cheapest place for it."""
    view, lacking = offer.view, ask.history_tokens - 1 - offer.cached_tokens
    able = [s for s in sources if s.view is not view and refusal(view.card, s.view.card) is None] if lacking > 0 else []
    costs = view.costs
    if costs is None:
        return _unpriced(offer, able, ask)
    demand = Demand(ask.history_tokens, ask.output_tokens, offer.cached_tokens, offer.shared_tokens, offer.tiers)
    local = Place(None, cost_seconds(view, demand, costs, ask.reuse))
    places = [place for s in able if (place := _remote(offer, local.terms, s, costs, ask))]
    if able and not places and view.state.role == "decode":
        return replace(_unpriced(offer, able, ask), terms=local.terms)
    for holder, depth in holders:
        if holder is not view and depth > offer.cached_tokens and refusal(view.card, holder.card) is None:
            places += _pulled(offer, local.terms, holder, min(depth, ask.history_tokens - 1), costs, ask)
    if not places:
        return replace(offer, terms=local.terms)
    best, *rest = sorted([local, *places], key=_order)
    return replace(offer, pair=best.pair, terms=best.terms, instead=rest[0].told())


def _order(place: Place) -> tuple[float, bool, WorkerId]:
    """The cheapest; of equals the simplest, then by id."""
    return place.cost_s, place.pair is not None, place.pair.worker if place.pair else WorkerId("")


def _unpriced(offer: Offer, able: Sequence[Source], ask: Ask) -> Offer:
    """Where nothing can be compared the roles decide."""
    usable = [s for s in able if not isinstance(between(s.view, offer.view), str)]
    if offer.view.state.role != "decode" or not usable:
        return offer
    source = min(usable, key=lambda s: (-s.cached_tokens, s.view.rank))
    return replace(offer, pair=Pair(source.view, True, ask.history_tokens - 1, source.lacking_tokens))


def _remote(offer: Offer, local: dict[str, float], source: Source, costs: StepCosts, ask: Ask) -> Place | None:
    """Prefilled at another worker; None where its steps or the path to it are unknown, or the path does not work."""
    path, there = between(source.view, offer.view), source.view
    if path is None or isinstance(path, str) or source.wait_s is None:
        return None
    chunk, correction = there.card.max_step_tokens, there.correction
    pushed = ask.history_tokens - 1 - offer.cached_tokens
    last = min(pushed, (source.lacking_tokens - 1) % chunk + 1)
    own_s = source.own_s * correction
    late_s = max(path_s(path, there, last), path_s(path, there, pushed) - own_s)
    extra = {"remote_wait": source.wait_s * correction, "remote_prefill": own_s, "transfer": late_s}
    pair = Pair(there, True, ask.history_tokens - 1, source.lacking_tokens, source.own_s)
    terms = _terms(offer, local, extra, pair, costs, ask)
    if there.state.role != "prefill":
        terms["remote_stall"] = source.own_s * min(there.sequences, there.card.max_sequences)
        terms["evicted"] += ask.reuse * source.own_s
    known = there.costs
    if known and (missing := missing_tokens(there, Demand(ask.history_tokens - 1, 0, source.cached_tokens))):
        terms["remote_memory"] = prefill_s(known, missing, 0, chunk)
    return Place(replace(pair, expected_s=float_sum(terms[name] for name in REMOTE_TIMES)), terms)


def _pulled(
    offer: Offer, local: dict[str, float], holder: WorkerView, depth: int, costs: StepCosts, ask: Ask
) -> list[Place]:
    """With what another worker has cached; nothing where its wait or the path is unknown, or the path does not work."""
    path, known = between(holder, offer.view), holder.costs
    if path is None or isinstance(path, str) or known is None or depth <= offer.cached_tokens:
        return []
    wait = wait_s(holder, Demand(ask.history_tokens, 0, depth), known) * holder.correction
    extra = {"remote_wait": wait, "remote_prefill": 0.0, "transfer": path_s(path, holder, depth - offer.cached_tokens)}
    pair = Pair(holder, False, depth)
    terms = _terms(offer, local, extra, pair, costs, ask)
    return [Place(replace(pair, expected_s=float_sum(terms[name] for name in REMOTE_TIMES)), terms)]


def _terms(
    offer: Offer, local: dict[str, float], extra: dict[str, float], pair: Pair, costs: StepCosts, ask: Ask
) -> dict[str, float]:
    """The cost of an offer once a pair has supplied its part; what memory and decoding cost it stays."""
    view, have = offer.view, pair.supplied_tokens
    rest_s = prefill_s(costs, ask.history_tokens - have, have, view.card.max_step_tokens)
    meanwhile_s = float_sum(extra.values()) + HANDOFF_S
    terms = {name: value for name, value in local.items() if name != "fetch"}
    terms["wait"] = max(0.0, local["wait"] - meanwhile_s)
    terms["prefill"] = rest_s * view.correction
    terms["stall"] = rest_s * min(view.sequences, view.card.max_sequences)
    return {**terms, **extra, "handoff": HANDOFF_S}
