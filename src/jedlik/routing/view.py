"""What a gateway believes about each worker: its last report, plus the gateway's own dispatches since that report.

A report says which of our submits it includes; bookings up to that number end there, the others with their attempt.
What a worker prefills for another comes to it from there, so reports can't say: such an errand ends with a report that
comes well after it, or the second, or when it is known to be done. Workers of a model are kept in order of backlog,
those that only prefill apart from the others, so that a choice need not look at all of them.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from weakref import WeakValueDictionary

import msgspec

from jedlik.core.errors import Bug
from jedlik.core.ids import Handle, WorkerId
from jedlik.core.protocol import Card, Load, State, StepCosts
from jedlik.perf.step import chunk_pairs
from jedlik.routing.alike import REST_S, Alike, Kind, Row, kind_of

SLOTS = "slots"
"""The kind of hand-off in which a worker writes blocks into another one's."""
ERRAND_REPORTS = 2
"""Reports after which an errand is sure to be included: the first may have been on its way already."""
ERRAND_S = 0.05
"""Unless it came so much later: then the errand had been brought before."""
SEQUENCE_TOKENS = 32
"""What a sequence in the batch weighs in the order of backlog, in prefill tokens."""


class Booking(msgspec.Struct, frozen=True):
    """One dispatch that the worker's reports do not include yet."""

    prefill_tokens: int
    """Not expected in its cache."""
    context_tokens: int
    cached_tokens: int | None = None
    """Before those that are prefilled; None: the rest of the context."""

    @property
    def pairs(self) -> int:
        """(token to be prefilled, token it attends to)."""
        start = self.context_tokens - self.prefill_tokens if self.cached_tokens is None else self.cached_tokens
        return chunk_pairs(start, self.prefill_tokens)


def pairs_of(load: Load) -> int:
    """Of the tokens that wait; as of prompts of equal length where nobody told."""
    if load.waiting_pairs is not None:
        return load.waiting_pairs
    return chunk_pairs(0, load.waiting_tokens) // max(1, load.waiting - load.arriving)


class Errand:
    """A prefill for another worker, until a report includes it."""

    __slots__ = ("began_at", "booking", "reports")

    def __init__(self, booking: Booking, now: float) -> None:
        self.booking = booking
        self.began_at = now
        self.reports = 0


class WorkerView:
    """One worker, as far as routing is concerned. Its sums are kept, not computed: a choice reads them many times."""

    __slots__ = (
        "_correction",
        "_rested",
        "_row",
        "_stepped_at",
        "alike",
        "backlog_pairs",
        "backlog_tokens",
        "booked_prefill_tokens",
        "bookings",
        "card",
        "context_tokens",
        "errands",
        "load",
        "rank",
        "sequences",
        "state",
        "submits",
        "suspect",
    )

    def __init__(self, card: Card) -> None:
        self.card = card
        self.alike = Alike()
        """What it shares with workers of its kind."""
        self._row: Row | None = None
        """What it adds to what they have learnt; None: nothing, or it is a slow one."""
        self._rested = False
        """Whether the worker has run no step for a while, so that what it told of them is old."""
        self._stepped_at = 0.0
        self._correction: float | None = None
        self.state = State(epoch=-1)
        self.load: Load | None = None
        self.suspect: str | None = None
        """Why nothing new goes there, None while it is trusted."""
        self.submits = 0
        self.bookings: dict[int, Booking] = {}
        """By submit number, oldest first."""
        self.errands: dict[Handle, Errand] = {}
        """Prefills for other workers, by the handle of the gateway's attempt there."""
        self.booked_prefill_tokens = 0
        self.sequences = 0
        """Running, waiting and booked."""
        self.backlog_tokens = 0
        """Prompt tokens to be computed before a new request's."""
        self.backlog_pairs = 0
        """Their pairs with tokens they attend to; where a report does not tell, as of one long prompt."""
        self.context_tokens = 0
        """In cache of running sequences, and booked."""
        self.rank = (0, card.worker)
        """Where it stands in the order of backlog; changed by `Fleet` only."""

    def report(self, load: Load, now: float = 0.0) -> None:
        """Take a load report: bookings that it includes end."""
        if self.load is not None:
            self._count(self.load, -1)
        if self.load is None or load.steps != self.load.steps:
            self._stepped_at = now
        self._rested = load.step_shape is not None and now >= self._stepped_at + REST_S
        self.load = load
        self._count(load, 1)
        self._learn()
        included = []
        for number in self.bookings:
            if number > load.last_submit:
                break
            included.append(number)
        for number in included:
            self.unbook(number)
        if self.errands:
            self._age(now)

    @property
    def costs(self) -> StepCosts | None:
        """What its steps take: as at all workers alike, unless it is a slow one; None until it has told."""
        load = self.load
        if load is None:
            return None
        if load.costs is not None and (self._row is not None or self._rested or not load.steps):
            return self.alike.costs or load.costs
        return load.costs

    @property
    def correction(self) -> float:
        """What its predicted times to first token are multiplied by.

        Under load that is its own affair; what one with nothing to do needs is told best by all workers alike.
        """
        if not self.sequences:
            return self.alike.correction
        return 1.0 if self._correction is None else self._correction

    def correct(self, correction: float | None) -> None:
        """What its times to first token were against predictions: `calibration` says. None: too few to say."""
        self.alike.corrected(self._correction, correction)
        self._correction = correction

    def share(self, alike: Alike) -> None:
        """The worker is of another kind from now on."""
        correction = self._correction
        self.leave()
        self.alike = alike
        self.correct(correction)
        self._learn()

    def _learn(self) -> None:
        load = self.load
        if load is not None and load.costs is not None and load.step_shape is not None:
            self._row = self.alike.learn(self._row, load.costs, load.step_shape, load.steps)
        elif self._row is not None:
            self.alike.forget(self._row)
            self._row = None

    def leave(self) -> None:
        """The worker shares nothing any more."""
        self.alike.forget(self._row)
        self._row = None
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

    def lend(self, handle: Handle, booking: Booking, now: float) -> None:
        """Count a prefill for another worker until reports do."""
        self.errands[handle] = Errand(booking, now)
        self._add(booking, 1)

    def unlend(self, handle: Handle) -> None:
        """End an errand; a no-op if reports have ended it."""
        errand = self.errands.pop(handle, None)
        if errand is not None:
            self._add(errand.booking, -1)

    def _age(self, now: float) -> None:
        for handle, errand in list(self.errands.items()):
            errand.reports += 1
            if errand.reports >= ERRAND_REPORTS or now >= errand.began_at + ERRAND_S:
                self.unlend(handle)

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
        """It works and stays."""
        return self.suspect is None and not self.state.draining

    def ready(self) -> bool:
        """Requests may go there."""
        return self.trusted() and self.state.role != "prefill"

    def check(self) -> None:
        """The sums are those of the bookings and the report."""
        booked = [*self.bookings.values(), *(errand.booking for errand in self.errands.values())]
        prefill = sum(booking.prefill_tokens for booking in booked)
        context = sum(booking.context_tokens for booking in booked)
        pairs = sum(booking.pairs for booking in booked)
        counted = (len(booked), prefill, pairs, context)
        if (load := self.load) is not None:
            told = (load.running + load.waiting, load.waiting_tokens, pairs_of(load), load.context_tokens)
            counted = (counted[0] + told[0], prefill + told[1], pairs + told[2], context + told[3])
        kept = (self.sequences, self.backlog_tokens, self.backlog_pairs, self.context_tokens)
        if kept != counted or prefill != self.booked_prefill_tokens:
            raise Bug(f"{self.card.worker}: the sums {kept} differ from bookings {booked} and report {load}")


Pool = tuple[str, bool]
"""Model, and whether its workers only prefill."""


class Fleet:
    """All workers of a gateway, by id, and by model in order of backlog."""

    def __init__(self) -> None:
        self._views: dict[WorkerId, WorkerView] = {}
        self._ranked: dict[Pool, list[tuple[int, WorkerId]]] = {}
        self._movers: dict[str, int] = {}
        self._kinds: WeakValueDictionary[Kind, Alike] = WeakValueDictionary()

    def __iter__(self) -> Iterator[WorkerView]:
        return iter(self._views.values())

    def __len__(self) -> int:
        return len(self._views)

    def get(self, worker: WorkerId) -> WorkerView | None:
        return self._views.get(worker)

    def movers(self, model: str) -> int:
        """Workers of a model that take part in hand-offs."""
        return self._movers.get(model, 0)

    def split(self, model: str) -> bool:
        """Some workers of a model only prefill."""
        return (model, True) in self._ranked

    def add(self, card: Card) -> WorkerView:
        """A worker joined. Raises Bug if it is here already."""
        if card.worker in self._views:
            raise Bug(f"{card.worker} is in the fleet already")
        view = self._views[card.worker] = WorkerView(card)
        view.share(self._alike(view))
        self._rank(view, view.rank)
        self._movers[card.model] = self.movers(card.model) + (SLOTS in card.handoffs)
        return view

    def remove(self, worker: WorkerId) -> None:
        """A worker left; its bookings go with it."""
        view = self._views.pop(worker)
        view.leave()
        self._unrank(view)
        self._movers[view.card.model] -= SLOTS in view.card.handoffs

    def moved(self, view: WorkerView) -> None:
        """A worker's load or bookings changed: put it where it now belongs."""
        rank = (view.backlog_tokens + SEQUENCE_TOKENS * view.sequences, view.card.worker)
        if rank != view.rank:
            ranked = self._ranked[view.card.model, view.state.role == "prefill"]
            _take(ranked, view)
            view.rank = rank
            insort(ranked, rank)

    def assume(self, view: WorkerView, state: State) -> None:
        """A worker has another state from now on."""
        self._unrank(view)
        view.state = state
        self._rank(view, view.rank)
        if (alike := self._alike(view)) is not view.alike:
            view.share(alike)

    def _alike(self, view: WorkerView) -> Alike:
        return self._kinds.setdefault(kind_of(view.card, view.state.role), Alike())

    def least_loaded(self, model: str) -> Iterator[WorkerView]:
        """Workers of a model that decode, least backlog first, ties by id."""
        for _, worker in self._ranked.get((model, False), ()):
            yield self._views[worker]

    def prefillers(self, model: str) -> Iterator[WorkerView]:
        """Workers of a model that only prefill, in the same order."""
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
        """Every worker is ranked once, in order, where its role says, and its sums are right."""
        for view in self:
            view.check()
            if view.rank not in self._ranked.get(pool_of(view), ()):
                raise Bug(f"{view.card.worker} is not ranked among those of its role")
        for ranked in self._ranked.values():
            if ranked != sorted(ranked):
                raise Bug("fleet: ranks out of order")
        if sum(map(len, self._ranked.values())) != len(self._views):
            raise Bug("fleet: ranks differ from the workers'")
        if sum(self._movers.values()) != sum(SLOTS in view.card.handoffs for view in self):
            raise Bug("fleet: those that take part in hand-offs are miscounted")


def _take(ranked: list[tuple[int, WorkerId]], view: WorkerView) -> None:
    at = bisect_left(ranked, view.rank)
    if at == len(ranked) or ranked[at] != view.rank:
        raise Bug(f"{view.card.worker} is not where its rank {view.rank} says")
    del ranked[at]


def pool_of(view: WorkerView) -> Pool:
    """Where a worker is ranked."""
    return view.card.model, view.state.role == "prefill"
