"""Times of requests as seconds from the start of their trace, whatever clock they were written by.

A clock counts from the start in the unit of its format, or it counts s, ms, µs or ns since 1970 (its numbers are so
large that they tell which), or it says dates. Refused is what would be simulated as idling: a pause of a week, a year.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

Moment = float | datetime
"""A time as a trace writes it. Whole numbers stay whole."""
ABSOLUTE = 1e9
"""A number from here on counts since 1970: so many seconds are 2001, so many ms are eleven days after a start."""
UNITS = ((1e17, 10**9), (1e14, 10**6), (1e11, 10**3), (ABSOLUTE, 1))
"""Numbers since 1970 from which on the clock counts so many in a second."""
LATE_S = 86_400.0
"""A clock that says more than this at the first request was not started with the trace."""
LONGEST_PAUSE_S, LONGEST_S = 7 * 86_400.0, 366 * 86_400.0
_1970 = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(NamedTuple):
    """The clock of a trace, which makes seconds of moments."""

    origin: float
    """The clock's number at the start of the trace."""
    per_s: int
    """Units that the clock counts in a second."""

    def at_s(self, at: Moment) -> float:
        return (number(at) - self.origin) / self.per_s


def clock(first: Moment, per_s: int) -> Clock:
    """The one that says `first` at the earliest request, where numbers from the start count `per_s` in a second."""
    begin = number(first)
    if isinstance(first, datetime):
        return Clock(begin, 10**6)
    for least, usual in UNITS:
        if begin >= least:
            return Clock(begin, usual)
    return Clock(begin if begin / per_s > LATE_S else 0, per_s)


def date(text: str) -> datetime:
    """A date and time in ISO 8601; UTC where it does not say. Raises ValueError."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def number(at: Moment) -> float:
    """Dates are counted in µs since 1970."""
    return (at - _1970) // timedelta(microseconds=1) if isinstance(at, datetime) else at
