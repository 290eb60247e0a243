"""Choose where a prompt is prefilled: at the worker that decodes it, or at another one that pushes its blocks there.

For each worker D that could decode, the best of three kinds of placement, by what it costs everybody, in seconds:
    local     D's wait, prefill and the stall it inflicts on D's batch
    remote    P's wait, P's prefill of what it lacks, the stall it inflicts if P decodes too, what of the transfer does
              not overlap with that (at least the last chunk), an overhead, and the last token's prefill at D
    pull      W's wait, transfer of what only W has cached, the overhead, and the prefill of the rest at D
D's own backlog is worked off meanwhile. Workers that cannot be paired are reported with the reason. Where steps or
paths are unknown nothing is compared: a worker of role "decode" has others prefill for it, one of role "both" prefills
itself. Which kind of hand-off two workers use is decided by `handoff_kind` alone (docs/contracts/handoffs.md).
"""

from collections.abc import Iterator, Sequence
from heapq import nsmallest
from itertools import islice
from typing import NamedTuple

from msgspec.structs import replace

from jedlik.core.facts import Elsewhere
from jedlik.core.ids import WorkerId
from jedlik.core.moves import PathCosts
from jedlik.core.protocol import Card, StepCosts
from jedlik.core.sums import float_sum
from jedlik.perf.step import prefill_s
from jedlik.routing.cost import Dispatch, cost_seconds, missing_tokens, own_work, path_costs, path_s, wait_s
from jedlik.routing.policy import Ask, Matches, Offer, Pair, dispatch_of
from jedlik.routing.view import Fleet, WorkerView

MAX_IDLE = MAX_HOLDERS = 4
"""Workers with the least backlog and with most of the prompt that are asked to prefill."""
MAX_PULLED = 2
"""Workers with most of the prompt that are asked for what they have."""
HANDOFF_S = 0.005
"""Messages, reservation and commit of one hand-off, beyond what is computed and transferred."""
REMOTE_TIMES = ("remote_wait", "remote_prefill", "transfer", "handoff")
TIMES = ("wait", "fetch", "prefill", *REMOTE_TIMES)
"""Terms of a cost that come before the first token."""
SAME_HOST, HOSTS = ("shm",), ("tcp", "nixl")
"""Paths between two workers on one host, and on two."""


class Prefiller(NamedTuple):
    """A worker that could prefill all but the last token of a history, whoever decodes it."""

    view: WorkerView
    cached_tokens: int
    lacking_tokens: int
    """The tokens to be computed there, at least one."""
    wait_s: float | None
    """The wait there by the step model alone; None: the step costs are unknown."""
    own_s: float
    """The prefill there, loads from its own tiers included."""


class Placement(NamedTuple):
    """One way to serve an offer."""

    pair: Pair | None
    terms: dict[str, float]

    @property
    def cost_s(self) -> float:
        return float_sum(self.terms.values())

    def elsewhere(self) -> Elsewhere:
        """Return the placement as `explain` shows it."""
        pair = self.pair
        return Elsewhere(pair.worker if pair else None, pair is None or pair.compute, self.terms)


def first_token_s(terms: dict[str, float]) -> float:
    """Return the predicted time to first token, from the terms of a cost in seconds."""
    return float_sum([terms.get(name, 0.0) for name in TIMES])


def handoff_kind(decodes: Card, prefills: Card) -> str | None:
    """Return the kind of hand-off that two workers use: the decoding worker's first that both have; None: none."""
    for kind in decodes.handoffs:
        if kind in prefills.handoffs:
            return kind
    return None


def refusal(decodes: Card, prefills: Card) -> str | None:
    """Return why one worker can't take blocks from another; None if it can."""
    for card in (decodes, prefills):
        if not card.handoffs:
            return f"{card.worker} takes part in no hand-off of blocks"
    if handoff_kind(decodes, prefills) is None:
        kinds = f"{', '.join(decodes.handoffs)} and {', '.join(prefills.handoffs)}"
        return f"{decodes.worker} and {prefills.worker} have no kind of hand-off in common ({kinds})"
    if decodes.revision != prefills.revision:
        return f"{decodes.worker} has another revision of the model"
    if decodes.layout != prefills.layout:
        return f"{decodes.worker} has blocks of another layout"
    return None


def between(source: WorkerView, target: WorkerView) -> PathCosts | str | None:
    """Return the cheapest path from one worker to another, as the source reports it or else the target.

    None: nothing is known. A text: why there is no path.
    """
    host = source.card.host
    near = host != "" and host == target.card.host
    paths = SAME_HOST if near else HOSTS
    known = [costs for path in paths if (costs := path_costs(source, path) or path_costs(target, path))]
    if not known:
        return None
    if not (usable := [costs for costs in known if costs.open]):
        return f"the path to it ({', '.join(costs.path for costs in known)}) failed recently"
    return min(usable, key=lambda costs: (path_s(costs, source, source.card.layout.block_size), costs.path))


def paired(offers: list[Offer], fleet: Fleet, ask: Ask, matches: Matches) -> list[Offer]:
    """Return the same offers, each with its best placement."""
    if ask.alone or ask.history_tokens < 2:
        return offers
    prefillers = [_prefiller(view, ask, matches) for view in _only_prefilling(fleet, ask, matches)]
    others: list[Prefiller] = []
    if not prefillers and any(offer.view.state.role == "decode" for offer in offers):
        others = [_prefiller(view, ask, matches) for view in _both(fleet, ask)]
    holders = _holders(fleet, ask, matches)
    if not (prefillers or others or holders):
        return offers
    return [
        _best(offer, prefillers or (others if offer.view.state.role == "decode" else []), holders, ask)
        for offer in offers
    ]


def _able(view: WorkerView | None, ask: Ask) -> bool:
    """Return whether a worker may be asked: it works, stays, has the context, and takes part in hand-offs at all."""
    if view is None or not view.trusted() or view.card.model != ask.model or not view.card.handoffs:
        return False
    return ask.history_tokens <= view.card.max_model_len and view.card.worker not in ask.avoid


def _only_prefilling(fleet: Fleet, ask: Ask, matches: Matches) -> Iterator[WorkerView]:
    """The least loaded of those that only prefill, then those of them that have most of the prompt."""
    seen: set[WorkerId] = set()
    for view in islice((v for v in fleet.prefillers(ask.model) if _able(v, ask)), MAX_IDLE):
        seen.add(view.card.worker)
        yield view
    if not seen:
        return
    known = ((matches.cached[w], w) for w in matches.cached if w not in seen)
    ours = ((-depth, w) for depth, w in known if (v := fleet.get(w)) and v.state.role == "prefill" and _able(v, ask))
    for _, worker in nsmallest(MAX_HOLDERS, ours):
        if (found := fleet.get(worker)) is not None:
            yield found


def _both(fleet: Fleet, ask: Ask) -> Iterator[WorkerView]:
    views = (view for view in fleet.least_loaded(ask.model) if view.state.role == "both" and _able(view, ask))
    return islice(views, MAX_IDLE)


def _holders(fleet: Fleet, ask: Ask, matches: Matches) -> list[tuple[WorkerView, int]]:
    """Return the workers that have most of the prompt on their device, with how much."""
    deepest = nsmallest(MAX_PULLED, ((-depth, worker) for worker, depth in matches.cached.items() if depth))
    found = ((fleet.get(worker), -depth) for depth, worker in deepest if not matches.shared.get(worker))
    return [(view, depth) for view, depth in found if view is not None and _able(view, ask)]


def _prefiller(view: WorkerView, ask: Ask, matches: Matches) -> Prefiller:
    tokens, worker = ask.history_tokens - 1, view.card.worker
    cached = min(matches.cached.get(worker, 0), tokens)
    dispatch = Dispatch(
        history_tokens=tokens,
        output_tokens=0,
        cached_tokens=cached,
        shared_tokens=matches.shared.get(worker, 0),
        tiers=matches.tiers.get(worker, ()),
    )
    costs = view.costs
    if costs is None:
        return Prefiller(view, cached, dispatch.uncached_tokens, None, 0.0)
    own = own_work(view, dispatch, costs)
    lacking = max(1, tokens - own.cached_tokens)
    return Prefiller(view, cached, lacking, wait_s(view, dispatch, costs), own.fetch_s + own.prefill_s)


def _best(offer: Offer, prefillers: Sequence[Prefiller], holders: Sequence[tuple[WorkerView, int]], ask: Ask) -> Offer:
    """Return an offer with the cheapest placement for it."""
    view, lacking = offer.view, ask.history_tokens - 1 - offer.cached_tokens
    able: list[Prefiller] = []
    if lacking > 0:
        able = [p for p in prefillers if p.view is not view and refusal(view.card, p.view.card) is None]
    costs = view.costs
    if costs is None:
        return _unpriced(offer, able, ask)
    local = Placement(None, cost_seconds(view, dispatch_of(offer, ask), costs, ask.reuse))
    placements = [placement for p in able if (placement := _remote(offer, local.terms, p, costs, ask))]
    if able and not placements and view.state.role == "decode":
        return replace(_unpriced(offer, able, ask), terms=local.terms)
    for holder, depth in holders:
        if holder is not view and depth > offer.cached_tokens and refusal(view.card, holder.card) is None:
            placements += _pulled(offer, local.terms, (holder, min(depth, ask.history_tokens - 1)), costs, ask)
    if not placements:
        return replace(offer, terms=local.terms)
    best, *rest = sorted([local, *placements], key=_order)
    return replace(offer, pair=best.pair, terms=best.terms, instead=rest[0].elsewhere())


def _order(placement: Placement) -> tuple[float, bool, WorkerId]:
    """The cheapest; of equals the simplest, then by id."""
    return placement.cost_s, placement.pair is not None, placement.pair.worker if placement.pair else WorkerId("")


def _pair(offer: Offer, source: WorkerView, supplied_tokens: int, computed_tokens: int = 0, own_s: float = 0.0) -> Pair:
    return Pair(
        source=source,
        kind=handoff_kind(offer.view.card, source.card) or "",
        compute=computed_tokens > 0,
        supplied_tokens=supplied_tokens,
        computed_tokens=computed_tokens,
        own_s=own_s,
    )


def _unpriced(offer: Offer, able: Sequence[Prefiller], ask: Ask) -> Offer:
    """Where nothing can be compared the roles decide."""
    usable = [p for p in able if not isinstance(between(p.view, offer.view), str)]
    if offer.view.state.role != "decode" or not usable:
        return offer
    best = min(usable, key=lambda p: (-p.cached_tokens, p.view.rank))
    return replace(offer, pair=_pair(offer, best.view, ask.history_tokens - 1, best.lacking_tokens))


def _remote(
    offer: Offer, local: dict[str, float], prefiller: Prefiller, costs: StepCosts, ask: Ask
) -> Placement | None:
    """Prefilled at another worker; None where its steps or the path to it are unknown, or the path does not work."""
    path, there = between(prefiller.view, offer.view), prefiller.view
    if path is None or isinstance(path, str) or prefiller.wait_s is None:
        return None
    chunk, correction = there.card.max_step_tokens, there.correction
    pushed = ask.history_tokens - 1 - offer.cached_tokens
    last = min(pushed, (prefiller.lacking_tokens - 1) % chunk + 1)
    own_s = prefiller.own_s * correction
    late_s = max(path_s(path, there, last), path_s(path, there, pushed) - own_s)
    extra = {"remote_wait": prefiller.wait_s * correction, "remote_prefill": own_s, "transfer": late_s}
    pair = _pair(offer, there, ask.history_tokens - 1, prefiller.lacking_tokens, prefiller.own_s)
    terms = _terms(offer, local, extra, pair, costs, ask)
    if there.state.role != "prefill":
        terms["remote_stall"] = prefiller.own_s * min(there.sequences, there.card.max_sequences)
        terms["evicted"] += ask.reuse * prefiller.own_s
    whole = Dispatch(history_tokens=ask.history_tokens - 1, output_tokens=0, cached_tokens=prefiller.cached_tokens)
    if there.costs and (missing := missing_tokens(there, whole)):
        terms["remote_memory"] = prefill_s(there.costs, missing, 0, chunk)
    return Placement(replace(pair, expected_s=float_sum(terms[name] for name in REMOTE_TIMES)), terms)


def _pulled(
    offer: Offer, local: dict[str, float], holder: tuple[WorkerView, int], costs: StepCosts, ask: Ask
) -> list[Placement]:
    """With what another worker has cached; nothing where its wait or the path is unknown, or the path does not work."""
    view, depth = holder
    path, known = between(view, offer.view), view.costs
    if path is None or isinstance(path, str) or known is None or depth <= offer.cached_tokens:
        return []
    dispatch = Dispatch(history_tokens=ask.history_tokens, output_tokens=0, cached_tokens=depth)
    wait = wait_s(view, dispatch, known) * view.correction
    extra = {"remote_wait": wait, "remote_prefill": 0.0, "transfer": path_s(path, view, depth - offer.cached_tokens)}
    pair = _pair(offer, view, depth)
    terms = _terms(offer, local, extra, pair, costs, ask)
    return [Placement(replace(pair, expected_s=float_sum(terms[name] for name in REMOTE_TIMES)), terms)]


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
