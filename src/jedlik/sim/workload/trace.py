"""Requests as a trace or a generator tells them: when, how long, and which pieces the prompt is made of."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

ID_LIMIT = 1 << 64
"""Ids of traces are below; ids from here on are given to what a trace does not identify."""
BlockIds = list[int | str]
"""Block ids as traces give them. Some exporters put large numbers into quotes."""


class TraceRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One request of an open loop."""

    at_s: float
    """Seconds since the start of the trace."""
    tokens: int
    output_tokens: int
    ids: Sequence[int]
    session: str = ""


class Trace(msgspec.Struct, frozen=True):
    """Requests in order of time, all with pieces of one size."""

    rows: Iterable[TraceRow]
    """Read as often as needed, from the start; a `Sequence` if it is in memory."""
    piece_tokens: int


class Drawn:
    """Rows that are drawn anew, and alike, each time they are read."""

    def __init__(self, draw: Callable[[], Iterator[TraceRow]]) -> None:
        self._draw = draw

    def __iter__(self) -> Iterator[TraceRow]:
        return self._draw()


class Fresh:
    """Ids that no other prompt has."""

    def __init__(self, piece_tokens: int, first: int = 0) -> None:
        self._piece_tokens = piece_tokens
        self._next = first

    def ids(self, tokens: int) -> range:
        """Return as many ids as a text of `tokens` tokens needs."""
        start = self._next
        self._next = start - -tokens // self._piece_tokens
        return range(start, self._next)
