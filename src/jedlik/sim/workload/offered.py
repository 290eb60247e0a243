"""The contract between a workload and the simulator: requests offered at times, some of them only after others end."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec


class OfferedText(msgspec.Struct, frozen=True):
    """A prompt as pieces that repeat: piece `ids[i]` stands for `piece_tokens` tokens, the last one may be cut short.

    Equal (space, id) are equal tokens, different ones differ: that is all a trace says about content.
    """

    space: int
    """Ids of different spaces never mean the same text (a conversation's own ids)."""
    ids: Sequence[int]
    piece_tokens: int
    tokens: int
    """Length of the prompt: (len(ids) - 1) * piece_tokens < tokens <= len(ids) * piece_tokens."""


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """One request as its client sends it."""

    at_s: float
    """When, on the simulation's clock (starts at 0)."""
    text: OfferedText
    output_tokens: int
    """>= 1; the answer has exactly so many."""
    session: str = ""
    """Requests of one conversation have the same."""
    then: object = None
    """The workload's own value: what goes on when this one has ended. The simulator hands it back untouched."""
    tenant: str = ""
    priority: int = 0


class Workload(Protocol):
    """Pure: the same calls give the same requests."""

    total: int | None
    """Requests in all, where that is known beforehand: for progress."""

    def arrivals(self) -> Iterator[Offered]:
        """Return the requests that wait for nothing, in order of time; they are drawn lazily."""

    def ended(self, offered: Offered, now_s: float) -> Sequence[Offered]:
        """Return what a client sends because `offered` ended (well or not) at `now_s`; times are >= now_s."""
