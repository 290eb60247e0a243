"""Choose a worker for one attempt: filter, score, pick.

Scored are the workers that hold most of the prompt and those with the least backlog, not all: the cost of choosing does
not grow with the fleet. Every worker scored is reported, excluded ones with the reason, so the choice explains itself.
"""

from collections.abc import Collection, Iterator, Mapping
from hashlib import blake2b
from operator import attrgetter

import msgspec

from jedlik.core.facts import Candidate
from jedlik.core.ids import RequestId, WorkerId
from jedlik.routing.cost import Demand, cost_seconds, cost_tokens
from jedlik.routing.view import Fleet, WorkerView

MAX_HOLDERS = 8
MAX_IDLE = 8
MAX_EXCLUDED = 8
_worker = attrgetter("worker")
TIE = 0.01
"""Costs within this share of the lowest are equal (the model knows no better) where as much is cached."""


class Ask(msgspec.Struct, frozen=True):
    """One attempt that needs a worker."""

    request_id: RequestId
    choice: int
    model: str
    history_tokens: int
    output_tokens: int
    """Expected to follow."""
    avoid: Collection[WorkerId] = ()
    """Workers at which it failed."""


class Held(msgspec.Struct, frozen=True):
    """What workers have of the history, in tokens; workers that have nothing are absent."""

    cached: dict[WorkerId, int]
    shared: dict[WorkerId, int] = msgspec.field(default_factory=dict)
    """Of what counts as cached: tokens that other choices of the same request are about to compute there."""


class Choice(msgspec.Struct, frozen=True):
    """The outcome; `chosen` is None where nobody could be."""

    chosen: Candidate | None
    candidates: tuple[Candidate, ...]
    unit: str
    """"s", or "tokens" of prefill where some candidate has no profile."""


def choose(fleet: Fleet, ask: Ask, held: Held) -> Choice:
    """Pick the cheapest worker."""
    cached = held.cached
    able: list[WorkerView] = []
    out: list[Candidate] = []
    for view in _candidates(fleet, ask, cached):
        reason = excluded(view, ask)
        if reason is None:
            able.append(view)
            if len(able) >= MAX_HOLDERS + MAX_IDLE:
                break
        elif len(out) < MAX_EXCLUDED:
            out.append(Candidate(view.card.worker, 0.0, cached.get(view.card.worker, 0), {}, reason))
    timed = all(view.load is not None and view.load.costs is not None for view in able)
    demand = Demand(ask.history_tokens, ask.output_tokens, 0)
    scored = [_score(view, ask, held, demand, timed) for view in able]
    return Choice(_pick(scored, ask), (*scored, *out), "s" if timed else "tokens")


def excluded(view: WorkerView, ask: Ask) -> str | None:
    """Why a worker can't take this attempt; None if it can."""
    if view.suspect is not None:
        return view.suspect
    if view.state.draining:
        return "draining"
    if view.state.role == "prefill":
        return "prefill only"
    if ask.history_tokens + 1 > view.card.max_model_len:
        return f"context of {view.card.max_model_len} tokens is too short"
    if view.card.worker in ask.avoid:
        return "failed this request before"
    return None


def _candidates(fleet: Fleet, ask: Ask, cached: Mapping[WorkerId, int]) -> Iterator[WorkerView]:
    """The best holders, then the others by backlog."""
    holders = sorted(cached, key=lambda worker: (-cached[worker], worker))[:MAX_HOLDERS] if cached else []
    for worker in holders:
        view = fleet.get(worker)
        if view is not None and view.card.model == ask.model:
            yield view
    for view in fleet.least_loaded(ask.model):
        if view.card.worker not in holders:
            yield view


def _score(view: WorkerView, ask: Ask, held: Held, demand: Demand, timed: bool) -> Candidate:
    """`demand` is for a worker that has nothing."""
    worker, cached = view.card.worker, 0
    if held.cached or held.shared:
        cached, shared = held.cached.get(worker, 0), held.shared.get(worker, 0)
        demand = Demand(ask.history_tokens, ask.output_tokens, cached, shared)
    costs = view.load.costs if timed and view.load else None
    parts = cost_tokens(view, demand) if costs is None else cost_seconds(view, demand, costs)
    return Candidate(worker, sum(parts.values()), cached, parts)


def _pick(scored: list[Candidate], ask: Ask) -> Candidate | None:
    """The lowest cost; among equal ones a hash of the request picks, so that gateways do not herd."""
    if not scored:
        return None
    lowest = min([c.cost_s for c in scored])
    best = min([c for c in scored if c.cost_s == lowest], key=_worker)
    limit, cached = lowest * (1 + TIE), best.cached_tokens
    tied = [c for c in scored if c.cost_s <= limit and c.cached_tokens == cached]
    if len(tied) == 1:
        return best
    tied.sort(key=_worker)
    digest = blake2b(f"{ask.request_id}/{ask.choice}".encode(), digest_size=8).digest()
    return tied[int.from_bytes(digest, "little") % len(tied)]
