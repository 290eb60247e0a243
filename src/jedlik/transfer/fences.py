"""Write fences: whose bytes may land in this worker's memory, and for which tickets they may not.

connection of w1 ── Put(ticket 7) ──> fence of w1 ── open ──> bytes land straight in their blocks
                                          │ closed: the bytes are read and discarded
close(ticket 7): cuts the connections whose bytes are landing for 7, waits until they no longer do
"""

import threading
from collections.abc import Callable

from jedlik.core.ids import Handle as Ticket
from jedlik.core.ids import WorkerId
from jedlik.transfer.connection import AgentConnection


class WriteFence:
    """The fence between one other worker and this worker's memory."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._closed: set[Ticket] = set()
        self._shut = False
        self._exposed = False
        self._landing: dict[AgentConnection, Ticket] = {}

    def enter(self, connection: AgentConnection, ticket: Ticket) -> bool:
        """Return whether bytes from a connection may land for a ticket; they may until `leave`."""
        with self._changed:
            if self._shut or ticket in self._closed:
                return False
            self._landing[connection] = ticket
            return True

    def leave(self, connection: AgentConnection) -> bool:
        """End a connection's landing; return whether its ticket is still open."""
        with self._changed:
            ticket = self._landing.pop(connection)
            self._changed.notify_all()
            return not self._shut and ticket not in self._closed

    def close(self, tickets: list[Ticket]) -> bool:
        """Let nothing land for these tickets from now on; return whether the worker can still write without us.

        The call waits for what is landing: its connection is cut, so that is over at once.
        """
        with self._changed:
            self._closed.update(tickets)
            self._cut(lambda ticket: ticket in self._closed)
            return self._exposed

    def shut(self) -> None:
        """Let nothing of the worker land any more: its process has ended."""
        with self._changed:
            self._shut = True
            self._exposed = False
            self._cut(lambda _: True)

    def expose(self, to_memory: bool) -> list[Ticket]:
        """Note whether the worker is about to learn where the memory is; return the tickets it must not write for."""
        with self._changed:
            self._exposed |= to_memory
            return sorted(self._closed)

    def _cut(self, concerned: Callable[[Ticket], bool]) -> None:
        for connection, ticket in self._landing.items():
            if concerned(ticket):
                connection.cut()
        self._changed.wait_for(lambda: not any(map(concerned, self._landing.values())))


class WriteFences:
    """The write fences of one agent, one for each worker it has heard of."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fences: dict[WorkerId, WriteFence] = {}

    def of(self, worker: WorkerId) -> WriteFence:
        """Return the fence for a worker; made at the first call."""
        with self._lock:
            return self._fences.setdefault(worker, WriteFence())
