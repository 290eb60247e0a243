"""What this worker takes from others: whose bytes may land, for which tickets not."""

import threading

from jedlik.core.ids import Handle as Ticket
from jedlik.core.ids import WorkerId


class Gate:
    """For one other worker. Bytes of its pushes land only while `lock` is held and `open_for` says yes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.exposed = False
        """It has been told how to write here without us."""
        self._closed: set[Ticket] = set()
        self._shut = False

    def open_for(self, ticket: Ticket) -> bool:
        """Under `lock`."""
        return not self._shut and ticket not in self._closed

    def close(self, tickets: list[Ticket]) -> bool:
        """Nothing lands for these any more; whether it could still write without us."""
        with self.lock:
            self._closed.update(tickets)
            return self.exposed

    def expose(self, to_memory: bool) -> list[Ticket]:
        """It is about to be told where the memory is: what it must not write."""
        with self.lock:
            self.exposed |= to_memory
            return sorted(self._closed)

    def shut(self) -> None:
        """Its process has ended: nothing of it lands any more."""
        with self.lock:
            self._shut = True
            self.exposed = False


class Gates:
    """One per worker heard of."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gates: dict[WorkerId, Gate] = {}

    def of(self, worker: WorkerId) -> Gate:
        with self._lock:
            return self._gates.setdefault(worker, Gate())
