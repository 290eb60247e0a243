"""When to start a process again that ended: at once the first time, then later and later; and what is a crash loop.

A process that was serving when somebody killed it has shown no fault of its own: it starts again at once, uncounted.
"""

import msgspec

DELAYS_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
HEALTHY_S = 30.0
"""A process that lived this long starts afresh."""
SERVED_S = 2.0
"""A worker that served this long and was killed then has not ended quickly."""
LOOP_AFTER = 4
"""Quick ends in a row from which on people are told of a crash loop."""


class Restart(msgspec.Struct, frozen=True):
    delay_s: float
    quick_ends: int
    crash_loop: bool


class Backoff:
    """Counts quick ends of one process."""

    def __init__(self) -> None:
        self._quick_ends = 0

    def ended(self, lived_s: float, served_s: float = 0.0, killed: bool = False) -> Restart:
        """The process ended unasked after `lived_s` seconds, the last `served_s` of them ready to serve."""
        healthy = lived_s >= HEALTHY_S or (killed and served_s >= SERVED_S)
        self._quick_ends = 0 if healthy else self._quick_ends + 1
        delay_s = DELAYS_S[min(max(self._quick_ends - 1, 0), len(DELAYS_S) - 1)]
        return Restart(delay_s, self._quick_ends, self._quick_ends >= LOOP_AFTER)
