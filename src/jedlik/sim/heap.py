"""Simulated time: calls at times, in order.

Same-time order, once and for all: calls for the same moment are made in the order in which they were asked for. That
order follows from the nodes' effects, so a run is the same bit by bit for the same seed.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf

Call = Callable[..., None]


class Heap:
    """The clock and what is to come. `now` moves only in `run`."""

    def __init__(self) -> None:
        self.now = 0.0
        self._entries: list[tuple[float, int, Call, tuple[object, ...]]] = []
        self._numbers = count()
        self._stopped = False

    def at(self, time_s: float, call: Call, *args: object) -> None:
        """Make this call at that time, or now if it has passed."""
        now = self.now
        heappush(self._entries, (time_s if time_s > now else now, next(self._numbers), call, args))

    def after(self, delay_s: float, call: Call, *args: object) -> None:
        self.at(self.now + delay_s, call, *args)

    def stop(self) -> None:
        """`run` returns after the call that is being made."""
        self._stopped = True

    def run(self, until_s: float = inf) -> None:
        """Make the calls, one after the other, until there are none, `stop` is called or the time is over."""
        entries = self._entries
        self._stopped = False
        while entries and not self._stopped:
            if entries[0][0] > until_s:
                self.now = until_s
                return
            self.now, _, call, args = heappop(entries)
            call(*args)
