"""The time from the order to start a worker until it serves: set by the operator, or learnt from starts.

The larger of the recent median and the last one: a start that has become slower is believed at once, a faster one
when it is no exception.
"""

from collections import deque
from statistics import median

FIRST_S = 30.0
"""Before anything is known."""
RECENT = 9
LATE_FACTOR, LATE_S = 10.0, 300.0
"""A start that takes ten times as long as expected, and five minutes, is given up."""


class Starts:
    """The times of recent starts."""

    def __init__(self, told_s: float | None) -> None:
        self._told_s = told_s
        self._recent: deque[float] = deque(maxlen=RECENT)

    @property
    def expected_s(self) -> float:
        if self._told_s is not None:
            return self._told_s
        return max(median(self._recent), self._recent[-1]) if self._recent else FIRST_S

    @property
    def late_s(self) -> float:
        return max(LATE_FACTOR * self.expected_s, LATE_S)

    def took(self, start_s: float) -> None:
        self._recent.append(start_s)
