"""What a gateway believes about each worker: its last report, plus the gateway's own dispatches since that report.

A report says which of our submits it includes; bookings up to that number end there, the others with their attempt.
Workers of a model are kept in order of backlog, so that a choice need not look at all of them.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

import msgspec

from jedlik.core.errors import Bug
from jedlik.core.ids import WorkerId
from jedlik.core.protocol import Card, Load, State
from jedlik.perf.step import chunk_pairs

SEQUENCE_TOKENS = 32
"""What a sequence in the batch weighs in the order of backlog, in prefill tokens."""


class Booking(msgspec.Struct, frozen=True):
    """One dispatch that the worker's reports do not include yet."""

    prefill_tokens: int
    """Not expected in its cache."""
    context_tokens: int

    @property
    def pairs(self) -> int:
        """(token to be prefilled, token it attends to)."""
        return chunk_pairs(self.context_tokens - self.prefill_tokens, self.prefill_tokens)


def pairs_of(load: Load) -> int:
    """Of the tokens that wait; as of prompts of equal length where nobody told."""
    if load.waiting_pairs is not None:
        return load.waiting_pairs
    return chunk_pairs(0, load.waiting_tokens) // max(1, load.waiting)


class WorkerView:
    """One worker, as far as routing is concerned. Its sums are kept, not computed: a choice reads them many times."""

    __slots__ = (
        "backlog_pairs",
        "backlog_tokens",
        "booked_prefill_tokens",
        "bookings",
        "card",
        "context_tokens",
        "correction",
        "load",
        "rank",
        "sequences",
        "state",
        "submits",
        "suspect",
    )

    def __init__(self, card: Card) -> None:
        self.card = card
        self.state = State(epoch=-1)
        self.load: Load | None = None
        self.suspect: str | None = None
        """Why nothing new goes there, None while it is trusted."""
        self.submits = 0
        self.bookings: dict[int, Booking] = {}
        """By submit number, oldest first."""
        self.booked_prefill_tokens = 0
        self.sequences = 0
        """Running, waiting and booked."""
        self.backlog_tokens = 0
        """Prompt tokens to be computed before a new request's."""
        self.backlog_pairs = 0
        """Their pairs with tokens they attend to; where a report does not tell, as of one long prompt."""
        self.context_tokens = 0
        """In cache of running sequences, and booked."""
        self.correction = 1.0
        """What its predicted times to first token are multiplied by: `calibration` says."""
        self.rank = (0, card.worker)
        """Where it stands in the order of backlog; changed by `Fleet` only."""

    def report(self, load: Load) -> None:
        """Take a load report: bookings that it includes end."""
        if self.load is not None:
            self._count(self.load, -1)
        self.load = load
        self._count(load, 1)
        included = []
        for number in self.bookings:
            if number > load.last_submit:
                break
            included.append(number)
        for number in included:
            self.unbook(number)

    def book(self, booking: Booking) -> int:
        """Count a dispatch until a report does; returns its submit number."""
        self.submits += 1
        self.bookings[self.submits] = booking
        self.booked_prefill_tokens += booking.prefill_tokens
        self.sequences += 1
        self.backlog_tokens += booking.prefill_tokens
        self.backlog_pairs += booking.pairs
        self.context_tokens += booking.context_tokens
        return self.submits

    def unbook(self, number: int) -> None:
        """End a booking; a no-op if a report has ended it."""
        booking = self.bookings.pop(number, None)
        if booking is not None:
            self.booked_prefill_tokens -= booking.prefill_tokens
            self.sequences -= 1
            self.backlog_tokens -= booking.prefill_tokens
            self.backlog_pairs -= booking.pairs
            self.context_tokens -= booking.context_tokens

    def _count(self, load: Load, sign: int) -> None:
        self.sequences += sign * (load.running + load.waiting)
        self.backlog_tokens += sign * load.waiting_tokens
        self.backlog_pairs += sign * pairs_of(load)
        self.context_tokens += sign * load.context_tokens

    def ready(self) -> bool:
        """Something new may go there."""
        return self.suspect is None and not self.state.draining and self.state.role != "prefill"

    def check(self) -> None:
        """The sums are those of the bookings and the report."""
        prefill = sum(booking.prefill_tokens for booking in self.bookings.values())
        context = sum(booking.context_tokens for booking in self.bookings.values())
        pairs = sum(booking.pairs for booking in self.bookings.values())
        counted = (len(self.bookings), prefill, pairs, context)
        if (load := self.load) is not None:
            told = (load.running + load.waiting, load.waiting_tokens, pairs_of(load), load.context_tokens)
            counted = (counted[0] + told[0], prefill + told[1], pairs + told[2], context + told[3])
        kept = (self.sequences, self.backlog_tokens, self.backlog_pairs, self.context_tokens)
        if kept != counted or prefill != self.booked_prefill_tokens:
            raise Bug(f"{self.card.worker}: the sums {kept} differ from bookings {self.bookings} and report {load}")


class Fleet:
    """All workers of a gateway, by id, and by model in order of backlog."""

    def __init__(self) -> None:
        self._views: dict[WorkerId, WorkerView] = {}
        self._ranked: dict[str, list[tuple[int, WorkerId]]] = {}

    def __iter__(self) -> Iterator[WorkerView]:
        return iter(self._views.values())

    def __len__(self) -> int:
        return len(self._views)

    def get(self, worker: WorkerId) -> WorkerView | None:
        return self._views.get(worker)

    def add(self, card: Card) -> WorkerView:
        """A worker joined. Raises Bug if it is here already."""
        if card.worker in self._views:
            raise Bug(f"{card.worker} is in the fleet already")
        view = self._views[card.worker] = WorkerView(card)
        insort(self._ranked.setdefault(card.model, []), view.rank)
        return view

    def remove(self, worker: WorkerId) -> None:
        """A worker left; its bookings go with it."""
        view = self._views.pop(worker)
        self._unrank(view)
        if not self._ranked[view.card.model]:
            del self._ranked[view.card.model]

    def moved(self, view: WorkerView) -> None:
        """A worker's load or bookings changed: put it where it now belongs."""
        rank = (view.backlog_tokens + SEQUENCE_TOKENS * view.sequences, view.card.worker)
        if rank != view.rank:
            self._unrank(view)
            view.rank = rank
            insort(self._ranked[view.card.model], rank)

    def least_loaded(self, model: str) -> Iterator[WorkerView]:
        """Workers of a model, least backlog first, ties by id."""
        for _, worker in self._ranked.get(model, ()):
            yield self._views[worker]

    def _unrank(self, view: WorkerView) -> None:
        ranked = self._ranked[view.card.model]
        at = bisect_left(ranked, view.rank)
        if at == len(ranked) or ranked[at] != view.rank:
            raise Bug(f"{view.card.worker} is not where its rank {view.rank} says")
        del ranked[at]

    def check(self) -> None:
        """Every worker is ranked once, in order, and its sums are right."""
        for view in self:
            view.check()
        for ranked in self._ranked.values():
            if ranked != sorted(ranked):
                raise Bug("fleet: ranks out of order")
        if sorted(rank for ranked in self._ranked.values() for rank in ranked) != sorted(v.rank for v in self):
            raise Bug("fleet: ranks differ from the workers'")
