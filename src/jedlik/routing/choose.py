"""Choose a worker for one attempt: filter, score, pick.

Scored are the workers that hold most of the prompt and those with the least backlog, not all: the cost of choosing does
not grow with the fleet. Every worker scored is reported, excluded ones with the reason, so the choice explains itself.
"""

from collections.abc import Collection, Iterator, Mapping
from hashlib import blake2b

import msgspec

from jedlik.core.facts import Candidate
from jedlik.core.ids import RequestId, WorkerId
from jedlik.routing.cost import Demand, cost_seconds, cost_tokens
from jedlik.routing.view import Fleet, WorkerView

MAX_HOLDERS = 8
MAX_IDLE = 8
MAX_EXCLUDED = 8
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
    scored = [_score(view, ask, held, timed) for view in able]
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


def _score(view: WorkerView, ask: Ask, held: Held, timed: bool) -> Candidate:
    worker = view.card.worker
    cached = held.cached.get(worker, 0)
    demand = Demand(ask.history_tokens, ask.output_tokens, cached, held.shared.get(worker, 0))
    costs = view.load.costs if timed and view.load else None
    parts = cost_tokens(view, demand) if costs is None else cost_seconds(view, demand, costs)
    return Candidate(worker, sum(parts.values()), cached, parts)


def _pick(scored: list[Candidate], ask: Ask) -> Candidate | None:
    """The lowest cost; equal ones by a hash of (request, worker), so that gateways do not herd."""
    if not scored:
        return None
    best = min(scored, key=lambda c: (c.cost_s, c.worker))
    limit = best.cost_s * (1 + TIE)
    tied = [c for c in scored if c.cost_s <= limit and c.cached_tokens == best.cached_tokens]
    if len(tied) == 1:
        return best
    return min(
        tied, key=lambda c: blake2b(f"{ask.request_id}/{ask.choice}/{c.worker}".encode(), digest_size=8).digest()
    )
