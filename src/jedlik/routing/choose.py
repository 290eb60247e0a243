"""Choose a worker for one attempt: exclude who can't, find each one's best partner, then filter, score and pick.

A policy is offered the workers that hold most of the prompt and those with the least backlog, not all (unless it asks
for everyone): the cost of choosing does not grow with the fleet. What was scored is reported, and who was excluded with
the reason, so the choice explains itself. A policy that fails is replaced for that request, and the choice says so.
"""

from collections.abc import Iterator, Sequence
from heapq import nsmallest
from itertools import islice
from operator import attrgetter

import msgspec
from msgspec.structs import replace

from jedlik.core.errors import Bug
from jedlik.core.facts import Candidate, Shadow
from jedlik.core.ids import WorkerId
from jedlik.core.sums import float_sum
from jedlik.routing.cost import Demand, first_token_s
from jedlik.routing.pairs import paired, refusal
from jedlik.routing.policy import Ask, Offer, Policy, Refuse, Wait
from jedlik.routing.reach import Held
from jedlik.routing.view import Fleet, WorkerView

MAX_HOLDERS = 8
MAX_IDLE = 8
MAX_OFFERS = MAX_HOLDERS + MAX_IDLE
MAX_EXCLUDED = 8
MAX_REASON_CHARS = 200
_cost = attrgetter("cost_s")


class Policies(msgspec.Struct, frozen=True):
    """Who chooses at a gateway."""

    serving: Policy
    fallback: Policy
    """Chooses where the serving one fails."""
    shadow: Policy | None = None
    """Asked about what the serving one was offered, never followed."""


class Choice(msgspec.Struct, frozen=True):
    """The outcome; `chosen` is None where nobody could be."""

    chosen: Candidate | None
    candidates: tuple[Candidate, ...]
    unit: str
    """Of the costs: "s", "tokens" of prefill where some candidate has no profile, or what the policy calls it."""
    policy: str
    """Whose choice it is."""
    failure: str = ""
    """Why it is not the serving policy's."""
    offer: Offer | None = None
    """What was chosen."""
    first_token_s: float | None = None
    """Predicted at the chosen worker by its step model, before correction; None where it has told none, or where
    another worker takes part."""
    shadow: Shadow | None = None
    held: Wait | Refuse | None = None
    """Why nobody was chosen, though there are workers that could."""


class Verdict(msgspec.Struct, frozen=True):
    """What one policy made of the offers."""

    chosen: Candidate | None
    scored: list[Candidate]
    passed_over: tuple[Candidate, ...]
    unit: str
    held: Wait | Refuse | None = None


def choose(fleet: Fleet, ask: Ask, held: Held, policies: Policies) -> Choice:
    """Let the serving policy pick, or the fallback where it fails; ask the shadow too."""
    policy, failure = policies.serving, ""
    offers, excluded_ones = offers_of(fleet, ask, held, policy.everyone)
    if not offers:
        return Choice(None, excluded_ones, "", policy.name)
    few = len(offers) <= MAX_OFFERS
    if few and fleet.movers(ask.model) > 1:
        offers = paired(offers, fleet, ask, held)
    try:
        verdict = decide(policy, offers, ask)
    except Exception as error:  # a user's own code: whatever it raises, the request must be served
        failure, policy = _reason(policy, error), policies.fallback
        verdict = decide(policy, offers, ask)
    chosen = verdict.chosen
    shadow = None if policies.shadow is None else _shadow(policies.shadow, offers, ask)
    if chosen is None:
        reported = (*verdict.passed_over, *excluded_ones)
        return Choice(None, reported, verdict.unit, policy.name, failure, shadow=shadow, held=verdict.held)
    offer = _chosen(offers, chosen.worker)
    shown = _shown(verdict.scored, chosen)
    if not few and fleet.movers(ask.model) > 1:  # of very many only the one that was chosen gets a partner
        offer = paired([offer], fleet, ask, held)[0]
        plain, chosen = chosen, _with_partner(chosen, offer)
        shown = tuple([chosen if seen is plain else seen for seen in shown])
    reported = (*shown, *verdict.passed_over, *excluded_ones)
    predicted = predicted_s(offer, ask)
    return Choice(chosen, reported, verdict.unit, policy.name, failure, offer, predicted, shadow)


def offers_of(fleet: Fleet, ask: Ask, held: Held, everyone: bool) -> tuple[list[Offer], tuple[Candidate, ...]]:
    """Workers that can take the attempt, and some of those that can't with the reason."""
    cached, shared, tiers = held.cached, held.shared, held.tiers
    offers: list[Offer] = []
    out: list[Candidate] = []
    for view in fleet.least_loaded(ask.model) if everyone else _nearest(fleet, ask, held):
        reason, worker = excluded(view, ask), view.card.worker
        if reason is None:
            offers.append(Offer(view, cached.get(worker, 0), shared.get(worker, 0), tiers.get(worker, ())))
            if len(offers) >= MAX_OFFERS and not everyone:
                break
        elif len(out) < MAX_EXCLUDED:
            out.append(
                Candidate(worker=worker, cost_s=0.0, cached_tokens=cached.get(worker, 0), parts={}, excluded=reason)
            )
    if fleet.split(ask.model):
        offers, out = _with_prefillers(fleet, ask, held, offers, out)
    return offers, tuple(out)


def _with_prefillers(
    fleet: Fleet, ask: Ask, held: Held, offers: list[Offer], out: list[Candidate]
) -> tuple[list[Offer], list[Candidate]]:
    """Who only prefills can decode, too, where nobody else can: better than not to serve. Else they are told of."""
    views, cached = list(islice(fleet.prefillers(ask.model), MAX_OFFERS)), held.cached
    if not offers:
        able = [(view, view.card.worker) for view in views if excluded(view, ask, True) is None]
        offers = [Offer(v, cached.get(w, 0), held.shared.get(w, 0), held.tiers.get(w, ())) for v, w in able]
    taken = {offer.worker for offer in offers}
    idle = [view for view in views if view.card.worker not in taken]
    told = [
        Candidate(
            worker=view.card.worker,
            cost_s=0.0,
            cached_tokens=cached.get(view.card.worker, 0),
            parts={},
            excluded=_not_here(view, ask, offers),
        )
        for view in idle[: MAX_EXCLUDED - len(out)]
    ]
    return offers, [*out, *told]


def _chosen(offers: Sequence[Offer], worker: WorkerId) -> Offer:
    for offer in offers:
        if offer.view.card.worker == worker:
            return offer
    raise Bug(f"{worker} was chosen and not offered")


def _not_here(view: WorkerView, ask: Ask, offers: Sequence[Offer]) -> str:
    """Why who prefills does not decode, and if it can't prefill for anybody here, why."""
    reason = excluded(view, ask) or ""
    why = [refusal(offer.view.card, view.card) for offer in offers]
    return f"{reason}, and for nobody here: {why[0]}" if why and all(why) else reason


def excluded(view: WorkerView, ask: Ask, decodes: bool = False) -> str | None:
    """Why a worker can't take this attempt; None if it can. `decodes`: whatever its role is."""
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


def decide(policy: Policy, offers: Sequence[Offer], ask: Ask) -> Verdict:
    """Filter, score and pick. Raises whatever the policy raises."""
    kept = policy.filter(offers, ask)
    if isinstance(kept, Wait | Refuse):
        seen = kept.candidates or _passed_over(offers, (), policy.name)
        return Verdict(None, [], seen, policy.unit(offers), kept)
    scored = [
        _with_partner(
            Candidate(
                worker=offer.view.card.worker,
                cost_s=float_sum(terms.values()),
                cached_tokens=offer.cached_tokens,
                parts=terms,
            ),
            offer,
        )
        if offer.terms or offer.tiers or offer.pair
        else Candidate(
            worker=offer.view.card.worker,
            cost_s=float_sum(terms.values()),
            cached_tokens=offer.cached_tokens,
            parts=terms,
        )
        for offer, terms in zip(kept, policy.score(kept, ask), strict=True)
    ]
    chosen = policy.pick(scored, ask)
    passed_over = () if len(kept) == len(offers) else _passed_over(offers, kept, policy.name)
    return Verdict(chosen, scored, passed_over, policy.unit(kept))


def _with_partner(plain: Candidate, offer: Offer) -> Candidate:
    """What was scored, with who else takes part."""
    pair, beyond = offer.pair, offer.tiers[-1][1] - offer.cached_tokens if offer.tiers else 0
    remote, compute = (pair.worker, pair.compute) if pair else (None, True)
    return replace(plain, remote=remote, compute=compute, instead=offer.instead, tier_tokens=beyond)


def predicted_s(offer: Offer, ask: Ask) -> float | None:
    """Time to first token at a worker by its step model; None where it has told none or does not do it alone."""
    costs = offer.view.costs
    if offer.pair is not None or costs is None:
        return None
    demand = Demand(ask.history_tokens, ask.output_tokens, offer.cached_tokens, offer.shared_tokens, offer.tiers)
    return first_token_s(offer.view, demand, costs)


def _nearest(fleet: Fleet, ask: Ask, held: Held) -> Iterator[WorkerView]:
    """The best holders, then the others by backlog."""
    cached = held.cached
    depth = held.depth if held.tiers else cached.__getitem__
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
        verdict = decide(policy, offers, ask)
    except Exception as error:  # as above: a shadow may be wrong, never harmful
        return Shadow(policy=policy.name, chosen=None, cost=0.0, unit="", candidates=(), failure=_reason(policy, error))
    chosen = verdict.chosen
    if chosen is None:
        why = verdict.held.why if verdict.held else ""
        return Shadow(
            policy=policy.name, chosen=None, cost=0.0, unit=verdict.unit, candidates=verdict.passed_over, deferred=why
        )
    return Shadow(
        policy=policy.name,
        chosen=chosen.worker,
        cost=chosen.cost_s,
        unit=verdict.unit,
        candidates=_shown(verdict.scored, chosen),
    )


def _shown(scored: list[Candidate], chosen: Candidate) -> tuple[Candidate, ...]:
    """All that were scored; of very many, the cheapest and the chosen."""
    if len(scored) <= MAX_OFFERS:
        return tuple(scored)
    cheapest = nsmallest(MAX_OFFERS, scored, key=_cost)
    return tuple(cheapest if any(chosen is c for c in cheapest) else [chosen, *cheapest])


def _passed_over(offers: Sequence[Offer], kept: Sequence[Offer], policy: str) -> tuple[Candidate, ...]:
    """Some of those that the policy's filter left out."""
    stayed = {offer.worker for offer in kept}
    out = [offer for offer in offers if offer.worker not in stayed][:MAX_EXCLUDED]
    return tuple(
        [
            Candidate(
                worker=o.worker,
                cost_s=0.0,
                cached_tokens=o.cached_tokens,
                parts={},
                excluded=f"passed over by {policy}",
            )
            for o in out
        ]
    )


def _reason(policy: Policy, error: Exception) -> str:
    return f"policy {policy.name} failed: {type(error).__name__}: {error}"[:MAX_REASON_CHARS]
