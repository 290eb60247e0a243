"""The load of a workload, read once without simulating it: when, how much, how much of it anew; and pieces of it.

Reuse is counted with a cache that forgets nothing: what a fleet finds in its caches is at most that. Of conversations,
whose requests wait for answers, the times are those of answers that take `NOMINAL_ITL_S` a token.
"""

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec
import numpy as np

from jedlik.core.errors import ConfigError
from jedlik.sim.report.columns import Flags, Floats
from jedlik.sim.workload.offered import Offered, OfferedText, Workload

NOMINAL_ITL_S = 0.02
NAMED_PIECES = 2_000_000
"""Pieces of prompts looked at, about: of longer workloads every k-th."""
PIECES = 5
WARM_SHARE = 0.3
"""The share of each piece of a sample whose requests fill caches and queues, and are not judged."""
GAP_S = 5.0
"""Seconds between two pieces of a sample."""


class OfferedLoad(NamedTuple):
    """A workload's requests as columns, in order of time."""

    at_s: Floats
    prompt_tokens: Floats
    cached_tokens: Floats
    output_tokens: Floats
    closed: bool
    """Some requests wait for answers."""

    @property
    def requests(self) -> int:
        return len(self.at_s)

    @property
    def span_s(self) -> float:
        """Seconds from the first arrival to the last, and a mean gap more."""
        span_s = float(self.at_s[-1] - self.at_s[0])
        return max(span_s * self.requests / max(self.requests - 1, 1), 1e-3)

    @property
    def rate(self) -> float:
        return self.requests / self.span_s

    @property
    def reuse(self) -> float:
        """Share of prompt tokens seen before."""
        return float(self.cached_tokens.sum() / self.prompt_tokens.sum())

    def burstiness(self, window_s: float = 10.0) -> float:
        """Variance over mean of the arrivals per window: 1 is Poisson."""
        counts = np.bincount(((self.at_s - self.at_s[0]) / window_s).astype(np.int64))[:-1]  # the last one is cut
        return float(counts.var() / counts.mean()) if len(counts) > 2 else 1.0


def read(workload: Workload) -> OfferedLoad:
    """All of a workload. Raises ConfigError if there is nothing."""
    seen: dict[tuple[int, int, int], int] = {}
    rows: list[tuple[float, int, int, int]] = []
    closed, every = False, 0
    for offered, followed in _played(workload):
        closed |= followed
        every = every or max(1, len(offered.text.ids) * (workload.total or 10_000) // NAMED_PIECES)
        rows.append((offered.at_s, offered.text.tokens, _known(offered.text, seen, every), offered.output_tokens))
    if not rows:
        raise ConfigError("the workload has no requests: nothing to size a fleet for; choose another part of the trace")
    columns = np.array(rows, dtype=np.float64).T
    return OfferedLoad(columns[0], columns[1], columns[2], columns[3], closed)


def _played(workload: Workload) -> Iterator[tuple[Offered, bool]]:
    """Requests in order of time, and whether others wait for them."""
    arrivals = workload.arrivals()
    later: list[tuple[float, int, Offered]] = []
    number, fresh = 0, next(arrivals, None)
    while fresh is not None or later:
        if fresh is not None and (not later or fresh.at_s <= later[0][0]):
            offered, fresh = fresh, next(arrivals, None)
        else:
            offered = heapq.heappop(later)[2]
        following = workload.ended(offered, offered.at_s + NOMINAL_ITL_S * offered.output_tokens)
        for one in following:
            number += 1
            heapq.heappush(later, (one.at_s, number, one))
        yield offered, bool(following)


def _known(text: OfferedText, seen: dict[tuple[int, int, int], int], every: int) -> int:
    """Leading tokens of a prompt that came before, to a multiple of `every` pieces; all of it is remembered."""
    above, known, new = 0, 0, False
    ids = text.ids
    for place in range(every - 1, len(ids), every):
        name = (above, text.space, ids[place])
        found = seen.get(name)
        if found is None:
            new = True
            found = seen[name] = len(seen) + 1
        if not new:
            known = (place + 1) * text.piece_tokens
        above = found
    return min(known, text.tokens - 1)


# --- pieces ---


class Stretch(NamedTuple):
    """Requests from one number to another."""

    start: int
    stop: int


def pieces(load: OfferedLoad, requests: int, count: int = PIECES) -> tuple[Stretch, ...]:
    """`count` pieces of `requests` together, from quiet to busy: one from each part of the trace by how busy it is."""
    length = max(requests // count, 1)
    if load.closed or load.requests < 2 * requests:
        return (Stretch(0, min(requests, load.requests)),)
    starts = np.arange(0, load.requests - length + 1, length)
    work = np.concatenate(([0.0], np.cumsum(load.prompt_tokens - load.cached_tokens + 8 * load.output_tokens)))
    took_s = np.maximum(load.at_s[starts + length - 1] - load.at_s[starts], 1e-3)
    busy = np.argsort((work[starts + length] - work[starts]) / took_s, kind="stable")
    chosen = sorted(int(starts[busy[(2 * i + 1) * len(busy) // (2 * count)]]) for i in range(count))
    return tuple(Stretch(start, start + length) for start in chosen)


class Pieces:
    """Pieces of an open loop, one after the other with a pause between: a workload of its own."""

    def __init__(self, workload: Workload, stretches: Sequence[Stretch]) -> None:
        self._workload, self._stretches = workload, stretches
        self.total: int | None = sum(stop - start for start, stop in stretches)
        self.judged_s: list[tuple[float, float]] = []
        """Arrivals that count, from and to; known once all have been drawn."""

    def arrivals(self) -> Iterator[Offered]:
        every = self._workload.arrivals()
        at, now_s = 0, 0.0
        self.judged_s = []
        for start, stop in self._stretches:
            rows = list(islice(every, start - at, stop - at))
            at, shift_s = stop, now_s - rows[0].at_s
            warm = int(WARM_SHARE * len(rows))
            now_s = rows[-1].at_s + shift_s
            self.judged_s.append((rows[warm].at_s + shift_s, now_s))
            for row in rows:
                yield msgspec.structs.replace(row, at_s=row.at_s + shift_s)
            now_s += GAP_S

    def ended(self, offered: Offered, now_s: float) -> Sequence[Offered]:
        return ()


def judged(stretches: Sequence[Stretch], requests: int) -> Flags:
    """Return for each request of the whole load whether it is in a sample and counts."""
    flags = np.zeros(requests, dtype=np.bool_)
    for start, stop in stretches:
        flags[start + int(WARM_SHARE * (stop - start)) : stop] = True
    return flags
