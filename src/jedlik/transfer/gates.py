"""What this worker takes from others: whose bytes may land, for which tickets not."""

import threading
from collections.abc import Callable

from jedlik.core.ids import Handle as Ticket
from jedlik.core.ids import WorkerId
from jedlik.transfer.messages import Wire


class Gate:
    """For one other worker."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._closed: set[Ticket] = set()
        self._shut = False
        self._exposed = False
        self._landing: dict[Wire, Ticket] = {}

    def enter(self, wire: Wire, ticket: Ticket) -> bool:
        """Bytes from this wire may land for this ticket, until `leave`; False: they may not."""
        with self._changed:
            if self._shut or ticket in self._closed:
                return False
            self._landing[wire] = ticket
            return True

    def leave(self, wire: Wire) -> bool:
        """They do no more; whether the ticket is still open."""
        with self._changed:
            ticket = self._landing.pop(wire)
            self._changed.notify_all()
            return not self._shut and ticket not in self._closed

    def close(self, tickets: list[Ticket]) -> bool:
        """Nothing lands for these any more, from when this returns; whether it could still write without us.

        Waits for what is landing: its stream is cut, so it is over at once.
        """
        with self._changed:
            self._closed.update(tickets)
            self._cut(lambda ticket: ticket in self._closed)
            return self._exposed

    def shut(self) -> None:
        """Its process has ended: nothing of it lands any more."""
        with self._changed:
            self._shut = True
            self._exposed = False
            self._cut(lambda _: True)

    def expose(self, to_memory: bool) -> list[Ticket]:
        """It is about to be told where the memory is, or not: what it must not write."""
        with self._changed:
            self._exposed |= to_memory
            return sorted(self._closed)

    def _cut(self, concerned: Callable[[Ticket], bool]) -> None:
        for wire, ticket in self._landing.items():
            if concerned(ticket):
                wire.cut()
        self._changed.wait_for(lambda: not any(map(concerned, self._landing.values())))


class Gates:
    """One per worker heard of."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gates: dict[WorkerId, Gate] = {}

    def of(self, worker: WorkerId) -> Gate:
        with self._lock:
            return self._gates.setdefault(worker, Gate())
