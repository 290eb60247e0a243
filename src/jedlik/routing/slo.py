"""Whether a request may go to a worker now without breaking objectives: its own first token, and others' pace.

The objectives are a time to first token and a mean time between tokens. A dispatch can break its own by waiting behind
a backlog. It also stalls, by its prefill, the sequences that decode there or have to decode before its chunks are
through. How many of those would miss their pace is expected from the lengths of recent answers: a long answer bears a
stall that a short one can't. Where tokens computed are found again more than once on average nothing is refused: the
work pays for itself, even if late.

    the prefill alone takes longer than what remains of the objective?
     ├─ yes: refuse "long" if shorter ones are being refused for load, else go where it bothers least
     └─ no: is any worker in time, wait included?
         ├─ no: refuse "late", or, if it may not be refused, go where it bothers least
         └─ yes: take the cheapest of these. What harm would it do to the pace of others there?
             ├─ harm < share of the slack that was waited for already: go
             ├─ more, and there is slack: wait; the harm that is acceptable grows from 0 to one answer, its own
             └─ more than one answer, no slack: refuse "harm" if it may be, else go

A late request's own wait counts little (`LATE_WAIT`): it goes where it is least in the way of others.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jedlik.core.facts import Candidate
from jedlik.core.protocol import StepCosts
from jedlik.core.sums import float_sum
from jedlik.perf.step import decode_s
from jedlik.routing.estimates import OutputLengths
from jedlik.routing.pairs import first_token_s
from jedlik.routing.policy import TIE, Ask, Offer, Refuse, Wait, draw
from jedlik.routing.view import WorkerView

LATE_WAIT = 0.1
"""A late request waits for others to be in time: ten seconds of it weigh as much as one of theirs."""
LOOK_AGAIN_S = 0.005
"""A wait shorter than this is none."""


class Burden(NamedTuple):
    """The work that a dispatch adds to one worker: sequences that begin to decode after some prefill."""

    prefill_s: float
    prefill_tokens: int
    joining: int = 0
    context_tokens: int = 0


class Prospect(NamedTuple):
    """The expected effects of a dispatch."""

    offer: Offer
    first_token_s: float
    own_s: float
    """The first token's time without the waiting."""
    total_s: float
    """The cost to everybody."""
    bother_s: float
    """The cost to others and the time a worker is busy, with little of the request's own wait."""
    harm: float
    """Answers of others that are expected to miss their pace for it."""
    terms: dict[str, float]

    def candidate(self) -> Candidate:
        """Return the prospect as `explain` shows it: why the request does not go there."""
        why = f"first token in {self.first_token_s:.2f} s, {self.harm:.2f} answers would miss their pace"
        return Candidate(
            worker=self.offer.worker,
            cost_s=self.total_s,
            cached_tokens=self.offer.cached_tokens,
            parts=self.terms,
            excluded=why,
        )


def admitted(
    offers: Sequence[Offer], costs: Sequence[StepCosts], terms: Sequence[dict[str, float]], ask: Ask, left_s: float
) -> Sequence[Offer] | Wait | Refuse:
    """Return where the attempt may go now; `terms` are each worker's cost, `left_s` remains of the objective."""
    prospects = [prospect(*case, ask) for case in zip(offers, costs, terms, strict=True)]
    own_s = min(p.own_s for p in prospects)
    may_refuse = ask.shed and ask.reuse < 1
    if own_s > left_s + ask.waited_s:
        if may_refuse and ask.pressed:
            why = f"its prefill takes {own_s:.1f} s, and shorter ones are being refused for load"
            return Refuse(retry_after_s=own_s, why=why, kind="long", candidates=_candidates(prospects))
        return _least_bother(prospects)
    in_time = [p for p in prospects if p.first_token_s <= left_s]
    if not in_time:
        return _late(prospects, left_s) if may_refuse else _least_bother(prospects)
    best = _cheapest(in_time, ask)
    slack_s = left_s + ask.waited_s - own_s
    wait_s = min(left_s - best.first_token_s, min(1.0, best.harm) * slack_s - ask.waited_s)
    if wait_s > LOOK_AGAIN_S:
        return Wait(
            wait_s, f"{best.harm:.2f} answers at {best.offer.worker} would miss their pace", _candidates(prospects)
        )
    if best.harm > 1 and may_refuse:
        why = f"{best.harm:.1f} answers would miss their pace for it"
        return Refuse(retry_after_s=slack_s, why=why, pressed=True, kind="harm", candidates=_candidates(prospects))
    return [best.offer]


def prospect(offer: Offer, costs: StepCosts, terms: dict[str, float], ask: Ask) -> Prospect:
    """Return what would come of a dispatch to one worker."""
    first_s = first_token_s(terms)
    waits_s = terms["wait"] + terms.get("remote_wait", 0.0)
    unpriced = offer.pair is not None and "handoff" not in terms
    own_s = 0.0 if unpriced else terms["prefill"]
    harm = 0.0 if ask.itl_s is None else _harm(offer, own_s, costs, ask, ask.itl_s)
    total_s = float_sum(terms.values())
    bother_s = total_s - (1 - LATE_WAIT) * waits_s
    return Prospect(
        offer=offer,
        first_token_s=first_s,
        own_s=first_s - waits_s,
        total_s=total_s,
        bother_s=bother_s,
        harm=harm,
        terms=terms,
    )


def _harm(offer: Offer, prefill_s: float, costs: StepCosts, ask: Ask, itl_s: float) -> float:
    """Return the answers expected to miss `itl_s` for this dispatch: where it decodes, and where it is prefilled."""
    view, pair = offer.view, offer.pair
    have = pair.supplied_tokens if pair else offer.cached_tokens
    here = Burden(prefill_s / view.correction, max(1, ask.history_tokens - have), 1, ask.history_tokens)
    harm = _missed(view, costs, here, ask.lengths, itl_s)
    if pair is not None and pair.compute and pair.source.state.role != "prefill":
        there = pair.source.costs
        if there is not None:
            harm += _missed(pair.source, there, Burden(pair.own_s, pair.computed_tokens), ask.lengths, itl_s)
    return harm


def _missed(view: WorkerView, costs: StepCosts, burden: Burden, lengths: OutputLengths, itl_s: float) -> float:
    """Return the answers at one worker that would miss `itl_s` for a burden."""
    sequences = view.sequences
    if not sequences:
        return 0.0
    step_s = decode_s(costs, sequences + burden.joining, view.context_tokens + burden.context_tokens)
    if step_s >= itl_s:
        return float(sequences)
    bearable = 1 + burden.prefill_s / (itl_s - step_s)
    load = view.load
    running = load.running + load.arriving if load else 0
    harm = running * lengths.shorter_running(bearable) if running else 0.0
    ahead = sequences - running
    if ahead and view.backlog_tokens + burden.prefill_tokens > view.card.max_step_tokens:
        harm += ahead * lengths.shorter(bearable)
    return harm


def _cheapest(prospects: Sequence[Prospect], ask: Ask) -> Prospect:
    """The one that costs everybody least; the turn decides among those that are as good (`lowest`)."""
    least = min(prospects, key=lambda p: (p.total_s, p.offer.worker))
    limit_s, cached = least.total_s * (1 + TIE), least.offer.cached_tokens
    near = [p for p in prospects if p.total_s <= limit_s and p.harm <= least.harm and p.offer.cached_tokens == cached]
    near.sort(key=lambda p: p.offer.worker)
    return near[draw(ask, "tie", len(near))]


def _least_bother(prospects: Sequence[Prospect]) -> list[Offer]:
    """Where a request goes that is late wherever it goes."""
    return [min(prospects, key=lambda p: p.bother_s).offer]


def _late(prospects: Sequence[Prospect], left_s: float) -> Refuse:
    soonest_s = min(p.first_token_s for p in prospects)
    why = f"the first token would take {soonest_s:.2f} s, {max(0.0, left_s):.2f} s are left for it"
    return Refuse(
        retry_after_s=soonest_s - left_s, why=why, pressed=True, kind="late", candidates=_candidates(prospects)
    )


def _candidates(prospects: Sequence[Prospect]) -> tuple[Candidate, ...]:
    return tuple([p.candidate() for p in prospects])
