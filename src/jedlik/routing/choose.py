"""Choose a worker for one attempt: exclude who can't, find each one's best partner, then filter, score and pick.

A policy is offered the workers that have most of the prompt and those with the least backlog, not all (unless it asks
for everyone): the cost of choosing does not grow with the fleet. What was scored is reported, and who was excluded with
the reason, so the selection explains itself. A policy that fails is replaced for that request, and the selection says
so.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import nsmallest
from itertools import islice
from operator import attrgetter

import msgspec
from msgspec.structs import replace

from jedlik.core.errors import Bug
from jedlik.core.facts import Candidate, Shadow
from jedlik.core.ids import WorkerId
from jedlik.core.sums import float_sum
from jedlik.routing.cost import first_token_s
from jedlik.routing.pairs import paired, refusal
from jedlik.routing.policy import Ask, Matches, Offer, Policy, Refuse, Wait, dispatch_of
from jedlik.routing.view import Fleet, WorkerView

MAX_HOLDERS = 8
MAX_IDLE = 8
MAX_OFFERS = MAX_HOLDERS + MAX_IDLE
MAX_EXCLUDED = 8
MAX_REASON_CHARS = 200
_cost = attrgetter("cost_s")


class Policies(msgspec.Struct, frozen=True):
    """The routing policies of one gateway."""

    serving: Policy
    fallback: Policy
    """Chooses where the serving one fails."""
    shadow: Policy | None = None
    """Asked about what the serving one was offered, never followed."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one choice of worker; `chosen` is None where there was none to choose."""

    chosen: Candidate | None
    candidates: tuple[Candidate, ...]
    unit: str = ""
    """The unit of costs: "s", "tokens" of prefill where some step costs are unknown, or what the policy calls it."""
    policy: str
    """The name of the policy that chose."""
    failure: str = ""
    """Why it is not the serving policy's choice."""
    offer: Offer | None = None
    """The offer that was chosen."""
    first_token_s: float | None = None
    """Predicted at the chosen worker by its step model, before correction; None where its step costs are unknown, or
    where another worker takes part."""
    shadow: Shadow | None = None
    deferred: Wait | Refuse | None = None
    """Why no worker was chosen, though there are workers that could take the attempt."""


class PolicyResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one policy for the offers."""

    chosen: Candidate | None
    scored: list[Candidate]
    passed_over: tuple[Candidate, ...]
    unit: str
    deferred: Wait | Refuse | None = None


def choose(fleet: Fleet, ask: Ask, matches: Matches, policies: Policies) -> Selection:
    """Let the serving policy pick, or the fallback where it fails; ask the shadow too."""
    policy, failure = policies.serving, ""
    offers, excluded_ones = offers_of(fleet, ask, matches, policy.everyone)
    if not offers:
        return Selection(chosen=None, candidates=excluded_ones, policy=policy.name)
    few = len(offers) <= MAX_OFFERS
    if few and fleet.movers(ask.model) > 1:
        offers = paired(offers, fleet, ask, matches)
    try:
        result = decide(policy, offers, ask)
    except Exception as error:  # a user's own code: whatever it raises, the request must be served
        failure, policy = _reason(policy, error), policies.fallback
        result = decide(policy, offers, ask)
    chosen = result.chosen
    shadow = None if policies.shadow is None else _shadow(policies.shadow, offers, ask)
    if chosen is None:
        return Selection(
            chosen=None,
            candidates=(*result.passed_over, *excluded_ones),
            unit=result.unit,
            policy=policy.name,
            failure=failure,
            shadow=shadow,
            deferred=result.deferred,
        )
    offer = _chosen(offers, chosen.worker)
    shown = _shown(result.scored, chosen)
    if not few and fleet.movers(ask.model) > 1:  # of very many only the one that was chosen gets a partner
        offer = paired([offer], fleet, ask, matches)[0]
        plain, chosen = chosen, _with_partner(chosen, offer)
        shown = tuple([chosen if seen is plain else seen for seen in shown])
    return Selection(
        chosen=chosen,
        candidates=(*shown, *result.passed_over, *excluded_ones),
        unit=result.unit,
        policy=policy.name,
        failure=failure,
        offer=offer,
        first_token_s=predicted_s(offer, ask),
        shadow=shadow,
    )


def offers_of(fleet: Fleet, ask: Ask, matches: Matches, everyone: bool) -> tuple[list[Offer], tuple[Candidate, ...]]:
    """Return the workers that can take the attempt, and some of those that can't with the reason."""
    offers: list[Offer] = []
    out: list[Candidate] = []
    for view in fleet.least_loaded(ask.model) if everyone else _nearest(fleet, ask, matches):
        reason = excluded(view, ask)
        if reason is None:
            offers.append(_offer(view, matches))
            if len(offers) >= MAX_OFFERS and not everyone:
                break
        elif len(out) < MAX_EXCLUDED:
            out.append(_excluded(view.card.worker, matches.cached.get(view.card.worker, 0), reason))
    if fleet.split(ask.model):
        offers, out = _with_prefillers(fleet, ask, matches, offers, out)
    return offers, tuple(out)


def _offer(view: WorkerView, matches: Matches) -> Offer:
    worker = view.card.worker
    return Offer(
        view=view,
        cached_tokens=matches.cached.get(worker, 0),
        shared_tokens=matches.shared.get(worker, 0),
        tiers=matches.tiers.get(worker, ()),
    )


def _excluded(worker: WorkerId, cached_tokens: int, reason: str) -> Candidate:
    return Candidate(worker=worker, cost_s=0.0, cached_tokens=cached_tokens, parts={}, excluded=reason)


def _with_prefillers(
    fleet: Fleet, ask: Ask, matches: Matches, offers: list[Offer], out: list[Candidate]
) -> tuple[list[Offer], list[Candidate]]:
    """Add the workers that only prefill: as offers where nobody else can decode, else as excluded ones."""
    views = list(islice(fleet.prefillers(ask.model), MAX_OFFERS))
    if not offers:
        offers = [_offer(view, matches) for view in views if excluded(view, ask, True) is None]
    taken = {offer.worker for offer in offers}
    idle = [view for view in views if view.card.worker not in taken]
    reported = [
        _excluded(view.card.worker, matches.cached.get(view.card.worker, 0), _not_here(view, ask, offers))
        for view in idle[: MAX_EXCLUDED - len(out)]
    ]
    return offers, [*out, *reported]


def _chosen(offers: Sequence[Offer], worker: WorkerId) -> Offer:
    for offer in offers:
        if offer.view.card.worker == worker:
            return offer
    raise Bug(f"{worker} was chosen and not offered")


def _not_here(view: WorkerView, ask: Ask, offers: Sequence[Offer]) -> str:
    """Return why a prefill worker does not decode, and if it can't prefill for any offered worker, why."""
    reason = excluded(view, ask) or ""
    why = [refusal(offer.view.card, view.card) for offer in offers]
    return f"{reason}, and for nobody here: {why[0]}" if why and all(why) else reason


def excluded(view: WorkerView, ask: Ask, decodes: bool = False) -> str | None:
    """Return why a worker can't take this attempt; None if it can. `decodes`: whatever its role is."""
    if view.suspect is not None:
        return view.suspect
    if view.state.draining:
        return "draining"
    if view.state.role == "prefill" and not decodes:
        return "prefill only"
    if ask.history_tokens + min(ask.output_tokens, 1) > view.card.max_model_len:
        return f"context of {view.card.max_model_len} tokens is too short"
    if view.card.worker in ask.avoid:
        return "failed this request before"
    return None


def decide(policy: Policy, offers: Sequence[Offer], ask: Ask) -> PolicyResult:
    """Filter, score and pick. Raises whatever the policy raises."""
    chosen_from = policy.filter(offers, ask)
    if isinstance(chosen_from, Wait | Refuse):
        seen = chosen_from.candidates or _passed_over(offers, (), policy.name)
        return PolicyResult(chosen=None, scored=[], passed_over=seen, unit=policy.unit(offers), deferred=chosen_from)
    scored = [_scored(offer, terms) for offer, terms in zip(chosen_from, policy.score(chosen_from, ask), strict=True)]
    chosen = policy.pick(scored, ask)
    passed_over = () if len(chosen_from) == len(offers) else _passed_over(offers, chosen_from, policy.name)
    return PolicyResult(chosen=chosen, scored=scored, passed_over=passed_over, unit=policy.unit(chosen_from))


def _scored(offer: Offer, terms: dict[str, float]) -> Candidate:
    plain = Candidate(
        worker=offer.view.card.worker, cost_s=float_sum(terms.values()), cached_tokens=offer.cached_tokens, parts=terms
    )
    return _with_partner(plain, offer) if offer.terms or offer.tiers or offer.pair else plain


def _with_partner(plain: Candidate, offer: Offer) -> Candidate:
    """Return what was scored, with the worker that takes part."""
    pair, beyond = offer.pair, offer.tiers[-1][1] - offer.cached_tokens if offer.tiers else 0
    remote, compute = (pair.worker, pair.compute) if pair else (None, True)
    return replace(plain, remote=remote, compute=compute, instead=offer.instead, tier_tokens=beyond)


def predicted_s(offer: Offer, ask: Ask) -> float | None:
    """Return the time to first token at a worker by its step model; None if unknown or not done there alone."""
    costs = offer.view.costs
    if offer.pair is not None or costs is None:
        return None
    return first_token_s(offer.view, dispatch_of(offer, ask), costs)


def _nearest(fleet: Fleet, ask: Ask, matches: Matches) -> Iterator[WorkerView]:
    """The best holders, then the others by backlog."""
    cached = matches.cached
    depth = matches.depth if matches.tiers else cached.__getitem__
    holders = sorted(cached, key=lambda worker: (-depth(worker), worker))[:MAX_HOLDERS] if cached else []
    for worker in holders:
        view = fleet.get(worker)
        if view is not None and view.card.model == ask.model and view.state.role != "prefill":
            yield view
    for view in fleet.least_loaded(ask.model):
        if view.card.worker not in holders:
            yield view


def _shadow(policy: Policy, offers: Sequence[Offer], ask: Ask) -> Shadow:
    try:
        result = decide(policy, offers, ask)
    except Exception as error:  # as above: a shadow may be wrong, never harmful
        return Shadow(policy=policy.name, chosen=None, cost=0.0, unit="", candidates=(), failure=_reason(policy, error))
    chosen = result.chosen
    return Shadow(
        policy=policy.name,
        chosen=None if chosen is None else chosen.worker,
        cost=0.0 if chosen is None else chosen.cost_s,
        unit=result.unit,
        candidates=result.passed_over if chosen is None else _shown(result.scored, chosen),
        deferred=result.deferred.why if result.deferred else "",
    )


def _shown(scored: list[Candidate], chosen: Candidate) -> tuple[Candidate, ...]:
    """All that were scored; of very many, the cheapest and the chosen."""
    if len(scored) <= MAX_OFFERS:
        return tuple(scored)
    cheapest = nsmallest(MAX_OFFERS, scored, key=_cost)
    return tuple(cheapest if any(chosen is c for c in cheapest) else [chosen, *cheapest])


def _passed_over(offers: Sequence[Offer], chosen_from: Iterable[Offer], policy: str) -> tuple[Candidate, ...]:
    """Some of the offers that the policy's filter did not return."""
    stayed = {offer.worker for offer in chosen_from}
    out = [offer for offer in offers if offer.worker not in stayed][:MAX_EXCLUDED]
    return tuple([_excluded(offer.worker, offer.cached_tokens, f"passed over by {policy}") for offer in out])


def _reason(policy: Policy, error: Exception) -> str:
    return f"policy {policy.name} failed: {type(error).__name__}: {error}"[:MAX_REASON_CHARS]
