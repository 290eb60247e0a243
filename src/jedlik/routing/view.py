"""A gateway's view of each worker: its last report, plus the gateway's own dispatches since that report.

A report says which of the gateway's submits it includes; bookings up to that number end there, the others with their
attempt. A prefill for another worker comes from that worker, so reports can't include it by number: its booking ends
with a report that comes well after it, or with the second, or when the prefill is known to be done. Workers of a model
are in order of backlog, those that only prefill apart from the others, so that a choice need not look at all of them.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

import msgspec

from jedlik.core.errors import Bug
from jedlik.core.ids import Handle, WorkerId
from jedlik.core.protocol import Card, Load, State, StepCosts
from jedlik.perf.step import chunk_pairs
from jedlik.routing.alike import REST_S, Addend, Alike, WorkerKind, kind_of
from jedlik.routing.fitted import FittedCosts, ObservedWork

INCLUDED_REPORTS = 2
"""After so many reports a remote prefill is sure to be included: the first may have been on its way already."""
INCLUDED_S = 0.05
"""A report that comes so much later than the booking includes it."""
SEQUENCE_TOKENS = 32
"""The weight of a sequence in the batch in the order of backlog, in prefill tokens."""


class Booking(msgspec.Struct, frozen=True):
    """One dispatch that the worker's reports do not include yet."""

    prefill_tokens: int
    """Tokens that are not expected in its cache."""
    context_tokens: int
    cached_tokens: int | None = None
    """Tokens before those that are prefilled; None: the rest of the context."""

    @property
    def pairs(self) -> int:
        """The pairs (token to be prefilled, token it attends to)."""
        start = self.context_tokens - self.prefill_tokens if self.cached_tokens is None else self.cached_tokens
        return chunk_pairs(start, self.prefill_tokens)


def pairs_of(load: Load) -> int:
    """Return the pairs of the tokens that wait; as of prompts of equal length where the report has none."""
    if load.waiting_pairs is not None:
        return load.waiting_pairs
    return chunk_pairs(0, load.waiting_tokens) // max(1, load.waiting - load.arriving)


@dataclass(slots=True)
class RemotePrefill:
    """The booking of a prefill for another worker, until a report includes it."""

    booking: Booking
    began_at: float
    reports: int = 0


class WorkerView:
    """One worker, as far as routing is concerned. Its sums are stored: a choice reads them many times."""

    __slots__ = (
        "_addend",
        "_correction",
        "_rested",
        "_stepped_at",
        "alike",
        "backlog_pairs",
        "backlog_tokens",
        "booked_prefill_tokens",
        "bookings",
        "card",
        "context_tokens",
        "load",
        "rank",
        "remote_prefills",
        "sequences",
        "state",
        "submits",
        "suspect",
        "work",
    )

    def __init__(self, card: Card) -> None:
        self.card = card
        self.alike = Alike()
        """The estimates that it shares with workers of its kind."""
        self._addend: Addend | None = None
        """Its part of what they have learnt; None: nothing, or it is a slow one."""
        self._rested = False
        """Whether the worker has run no step for a while, so that its own costs are old."""
        self._stepped_at = 0.0
        self._correction: float | None = None
        self.state = State(epoch=-1)
        self.load: Load | None = None
        self.suspect: str | None = None
        """Why nothing new goes there, None while it is trusted."""
        self.submits = 0
        self.bookings: dict[int, Booking] = {}
        """Dispatches by submit number, oldest first."""
        self.remote_prefills: dict[Handle, RemotePrefill] = {}
        """Prefills for other workers, by the handle of the gateway's attempt there."""
        self.booked_prefill_tokens = 0
        self.sequences = 0
        """Running, waiting and booked."""
        self.backlog_tokens = 0
        """Prompt tokens to be computed before a new request's."""
        self.backlog_pairs = 0
        """Their pairs with tokens they attend to; where a report does not tell, as of one long prompt."""
        self.context_tokens = 0
        """Tokens in cache of running sequences, and booked ones."""
        self.rank = (0, card.worker)
        """Its position in the order of backlog; changed by `Fleet` only."""
        self.work = None if card.capabilities.step_costs else ObservedWork(0.0)
        """What it was seen to do, if it reports no step costs; None: it reports them."""

    def report(self, load: Load, now: float = 0.0) -> None:
        """Take a load report: bookings that it includes end."""
        if self.load is not None:
            self._count(self.load, -1)
        if self.load is None or load.steps != self.load.steps:
            self._stepped_at = now
        self._rested = load.step_shape is not None and now >= self._stepped_at + REST_S
        self.load = load
        if self.work is not None:
            self.work.report(load, now)
        self._count(load, 1)
        self._learn()
        included = []
        for number in self.bookings:
            if number > load.last_submit:
                break
            included.append(number)
        for number in included:
            self.unbook(number)
        if self.remote_prefills:
            self._age(now)

    @property
    def costs(self) -> StepCosts | None:
        """The worker's step costs: as of all workers alike, unless it is a slow one; None until it has reported any.

        If it never reports any, they are what the gateway has fitted.
        """
        load = self.load
        if self.alike.fitted is not None and (load is None or load.costs is None):
            return self.alike.fitted.costs
        if load is None:
            return None
        if load.costs is not None and (self._addend is not None or self._rested or not load.steps):
            return self.alike.costs or load.costs
        return load.costs

    @property
    def correction(self) -> float:
        """The factor for its predicted times to first token.

        Under load it is its own; for a worker with nothing to do all workers alike know best.
        """
        if not self.sequences:
            return self.alike.correction
        return 1.0 if self._correction is None else self._correction

    def correct(self, correction: float | None) -> None:
        """Take the ratio of its times to first token to predictions (`Calibration`); None: too few to say."""
        self.alike.corrected(self._correction, correction)
        self._correction = correction

    def share(self, alike: Alike) -> None:
        """Share with workers of another kind from now on."""
        correction = self._correction
        self.leave()
        self.alike = alike
        self.correct(correction)
        self._learn()

    def _learn(self) -> None:
        load = self.load
        if load is not None and load.costs is not None and load.step_shape is not None:
            self._addend = self.alike.learn(self._addend, load.costs, load.step_shape, load.steps)
        elif self._addend is not None:
            self.alike.forget(self._addend)
            self._addend = None

    def leave(self) -> None:
        """Share nothing any more."""
        self.alike.forget(self._addend)
        self._addend = None
        self.correct(None)

    def book(self, booking: Booking) -> int:
        """Count a dispatch until a report does; returns its submit number."""
        self.submits += 1
        self.bookings[self.submits] = booking
        self._add(booking, 1)
        return self.submits

    def unbook(self, number: int) -> None:
        """End a booking; a no-op if a report has ended it."""
        booking = self.bookings.pop(number, None)
        if booking is not None:
            self._add(booking, -1)

    def book_remote_prefill(self, handle: Handle, booking: Booking, now: float) -> None:
        """Count a prefill for another worker until reports do."""
        self.remote_prefills[handle] = RemotePrefill(booking, now)
        self._add(booking, 1)

    def release_remote_prefill(self, handle: Handle) -> None:
        """End the booking of a prefill for another worker; a no-op if reports have ended it."""
        prefill = self.remote_prefills.pop(handle, None)
        if prefill is not None:
            self._add(prefill.booking, -1)

    def _age(self, now: float) -> None:
        for handle, prefill in list(self.remote_prefills.items()):
            prefill.reports += 1
            if prefill.reports >= INCLUDED_REPORTS or now >= prefill.began_at + INCLUDED_S:
                self.release_remote_prefill(handle)

    def _add(self, booking: Booking, sign: int) -> None:
        self.booked_prefill_tokens += sign * booking.prefill_tokens
        self.sequences += sign
        self.backlog_tokens += sign * booking.prefill_tokens
        self.backlog_pairs += sign * booking.pairs
        self.context_tokens += sign * booking.context_tokens

    def _count(self, load: Load, sign: int) -> None:
        self.sequences += sign * (load.running + load.waiting)
        self.backlog_tokens += sign * load.waiting_tokens
        self.backlog_pairs += sign * pairs_of(load)
        self.context_tokens += sign * load.context_tokens

    def trusted(self) -> bool:
        """Return whether the worker works and stays."""
        return self.suspect is None and not self.state.draining

    def ready(self) -> bool:
        """Return whether requests may go there."""
        return self.trusted() and self.state.role != "prefill"

    def check(self) -> None:
        """Raise Bug unless the sums are those of the bookings and the report."""
        booked = [*self.bookings.values(), *(prefill.booking for prefill in self.remote_prefills.values())]
        prefill = sum(booking.prefill_tokens for booking in booked)
        context = sum(booking.context_tokens for booking in booked)
        pairs = sum(booking.pairs for booking in booked)
        counted = (len(booked), prefill, pairs, context)
        if (load := self.load) is not None:
            requests = len(booked) + load.running + load.waiting
            context += load.context_tokens
            counted = (requests, prefill + load.waiting_tokens, pairs + pairs_of(load), context)
        sums = (self.sequences, self.backlog_tokens, self.backlog_pairs, self.context_tokens)
        if sums != counted or prefill != self.booked_prefill_tokens:
            raise Bug(f"{self.card.worker}: the sums {sums} differ from bookings {booked} and report {load}")


Pool = tuple[str, bool]
"""Model, and whether its workers only prefill."""


class Fleet:
    """All workers of a gateway, by id, and by model in order of backlog."""

    def __init__(self) -> None:
        self._views: dict[WorkerId, WorkerView] = {}
        self._ranked: dict[Pool, list[tuple[int, WorkerId]]] = {}
        self._movers: dict[str, int] = {}
        """Workers that take part in hand-offs, by model."""
        self._kinds: WeakValueDictionary[WorkerKind, Alike] = WeakValueDictionary()

    def __iter__(self) -> Iterator[WorkerView]:
        return iter(self._views.values())

    def __len__(self) -> int:
        return len(self._views)

    def get(self, worker: WorkerId) -> WorkerView | None:
        return self._views.get(worker)

    def movers(self, model: str) -> int:
        """Return how many workers of a model take part in hand-offs of any kind."""
        return self._movers.get(model, 0)

    def split(self, model: str) -> bool:
        """Return whether some workers of a model only prefill."""
        return (model, True) in self._ranked

    def add(self, card: Card) -> WorkerView:
        """Add a worker that joined. Raises Bug if it is here already."""
        if card.worker in self._views:
            raise Bug(f"{card.worker} is in the fleet already")
        view = self._views[card.worker] = WorkerView(card)
        view.share(self._alike(view))
        self._rank(view, view.rank)
        self._movers[card.model] = self.movers(card.model) + bool(card.handoffs)
        return view

    def remove(self, worker: WorkerId) -> None:
        """Remove a worker; its bookings go with it."""
        view = self._views.pop(worker)
        view.leave()
        self._unrank(view)
        self._movers[view.card.model] -= bool(view.card.handoffs)

    def rerank(self, view: WorkerView) -> None:
        """Put a worker whose load or bookings changed where it now belongs."""
        rank = (view.backlog_tokens + SEQUENCE_TOKENS * view.sequences, view.card.worker)
        if rank != view.rank:
            ranked = self._ranked[view.card.model, view.state.role == "prefill"]
            _take(ranked, view)
            view.rank = rank
            insort(ranked, rank)

    def assume(self, view: WorkerView, state: State) -> None:
        """Take a worker's new state."""
        self._unrank(view)
        view.state = state
        self._rank(view, view.rank)
        if (alike := self._alike(view)) is not view.alike:
            view.share(alike)

    def _alike(self, view: WorkerView) -> Alike:
        kind = kind_of(view.card, view.state.role)
        fitted = None if kind.reports_costs else FittedCosts(partial(self._reported, kind.model))
        return self._kinds.setdefault(kind, Alike(fitted))

    def _reported(self, model: str) -> StepCosts | None:
        """The step costs that the first kind of worker of a model reports."""
        for kind, alike in self._kinds.items():
            if kind.model == model and alike.costs is not None:
                return alike.costs
        return None

    def least_loaded(self, model: str) -> Iterator[WorkerView]:
        """Yield the workers of a model that decode, least backlog first, ties by id."""
        for _, worker in self._ranked.get((model, False), ()):
            yield self._views[worker]

    def prefillers(self, model: str) -> Iterator[WorkerView]:
        """Yield the workers of a model that only prefill, in the same order."""
        for _, worker in self._ranked.get((model, True), ()):
            yield self._views[worker]

    def _rank(self, view: WorkerView, rank: tuple[int, WorkerId]) -> None:
        view.rank = rank
        insort(self._ranked.setdefault(pool_of(view), []), rank)

    def _unrank(self, view: WorkerView) -> None:
        pool = pool_of(view)
        ranked = self._ranked[pool]
        _take(ranked, view)
        if not ranked:
            del self._ranked[pool]

    def check(self) -> None:
        """Raise Bug unless every worker is ranked once, in order, where its role says, and its sums are right."""
        for view in self:
            view.check()
            if view.rank not in self._ranked.get(pool_of(view), ()):
                raise Bug(f"{view.card.worker} is not ranked among those of its role")
        for ranked in self._ranked.values():
            if ranked != sorted(ranked):
                raise Bug("fleet: ranks out of order")
        if sum(map(len, self._ranked.values())) != len(self._views):
            raise Bug("fleet: ranks differ from the workers'")
        if sum(self._movers.values()) != sum(bool(view.card.handoffs) for view in self):
            raise Bug("fleet: those that take part in hand-offs are miscounted")


def _take(ranked: list[tuple[int, WorkerId]], view: WorkerView) -> None:
    at = bisect_left(ranked, view.rank)
    if at == len(ranked) or ranked[at] != view.rank:
        raise Bug(f"{view.card.worker} is not where its rank {view.rank} says")
    del ranked[at]


def pool_of(view: WorkerView) -> Pool:
    """Return where a worker is ranked."""
    return view.card.model, view.state.role == "prefill"
