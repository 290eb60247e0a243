"""Replays a trace in open loop: a window of it, in copies, faster or slower, up to a limit; batches spread if asked."""

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from random import Random
from statistics import median_low

import msgspec

from jedlik.core.errors import ConfigError
from jedlik.sim.workload.offered import Offered, OfferedText
from jedlik.sim.workload.options import WorkloadOptions
from jedlik.sim.workload.trace import Trace, TraceRow

SHIFT_S, SHIFT_WITHIN_S = 0.37, 3.0
"""Copy k comes k * 0.37 s later, modulo 3 s: bursts stay bursts, and no two requests come at one moment."""


class Replay:
    """An open loop: what comes does not depend on answers. Lazy; memory is the trace's, whatever the copies."""

    def __init__(self, trace: Trace, options: WorkloadOptions) -> None:
        self._options = options
        self._trace = trace
        end_s = None if options.duration_s is None else options.start_s + options.duration_s
        self._window_s = (options.start_s, end_s)
        self.total = options.limit
        if isinstance(trace.rows, Sequence):
            rows = cut(trace.rows, *self._window_s)
            self._trace = msgspec.structs.replace(trace, rows=rows)
            self.total = min(options.limit or len(rows) * options.copies, len(rows) * options.copies)

    def arrivals(self) -> Iterator[Offered]:
        copies = [self._copy(number) for number in range(self._options.copies)]
        merged = copies[0] if len(copies) == 1 else heapq.merge(*copies, key=lambda offered: offered.at_s)
        return islice(merged, self._options.limit)

    def ended(self, offered: Offered, now_s: float) -> Sequence[Offered]:
        return ()

    def _copy(self, number: int) -> Iterator[Offered]:
        speed, piece_tokens = self._options.speed, self._trace.piece_tokens
        start_s, end_s = self._window_s
        shift_s = number * SHIFT_S % SHIFT_WITHIN_S - start_s
        suffix = f"#{number}" if number else ""
        for row in self._trace.rows:
            if row.at_s < start_s:
                continue
            if end_s is not None and row.at_s >= end_s:
                break
            text = OfferedText(number, row.ids, piece_tokens, row.tokens)
            session = row.session and row.session + suffix
            yield Offered(
                at_s=(row.at_s + shift_s) / speed, text=text, output_tokens=row.output_tokens, session=session
            )


def cut(rows: Sequence[TraceRow], start_s: float, end_s: float | None) -> Sequence[TraceRow]:
    """Return the rows within the window. Raises ConfigError if there is none."""
    first = bisect_left(rows, start_s, key=lambda row: row.at_s)
    last = len(rows) if end_s is None else bisect_left(rows, end_s, key=lambda row: row.at_s)
    if first >= last:
        raise ConfigError(
            f"no request from {start_s} s to {'the end' if end_s is None else f'{end_s} s'}: the trace lasts "
            f"{rows[-1].at_s:.3f} s; choose start_s and duration_s within it"
        )
    return rows[first:last]


def spread(rows: Iterable[TraceRow], seed: int) -> list[TraceRow]:
    """Every time moved uniformly within the usual distance of one distinct time to the next; in order."""
    rows = list(rows)
    times = sorted({row.at_s for row in rows})
    if len(times) < 2:
        return rows
    period_s = median_low([later - sooner for sooner, later in pairwise(times)])
    chance = Random(f"spread {seed}")
    spread_rows = [msgspec.structs.replace(row, at_s=row.at_s + period_s * chance.random()) for row in rows]
    return sorted(spread_rows, key=lambda row: row.at_s)
