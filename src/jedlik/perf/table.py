"""A step model from a table: piecewise linear in batch and in prefilled tokens, linear in context for a given batch.

That captures what one line can't: weights that are touched as the batch grows (mixture of experts), kernels that change
with size. Beyond its ends a table goes on as its last piece did; only the cost of context stays what it was.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from jedlik.core.sums import float_sum
from jedlik.perf.linear import PhaseCosts, Point, nearest, non_negative, phases
from jedlik.perf.step import StepShape


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Step times of one engine. Knots ascend; every column has as many values as its knots."""

    prefill_tokens: tuple[int, ...]
    prefill_s: tuple[float, ...]
    """Seconds of a step that prefills so many tokens, less its pairs."""
    prefill_pair_s: float
    batches: tuple[int, ...]
    decode_s: tuple[float, ...]
    """Seconds of a step that only decodes so many sequences, less their context."""
    context_token_s: tuple[float, ...]
    """Each token in cache of a decoded sequence, at that batch."""
    mixed_sequence_s: float
    """Seconds that a decoded sequence adds, less its context, to a step that prefills anyway."""


class TableModel:
    """A `Table` as a model."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._lines: dict[int, tuple[float, float]] = {}
        self.costs = nearest(self.step_s)

    def step_s(self, shape: StepShape) -> float:
        table, sequences = self._table, shape.decode_sequences
        fixed_s, token_s = self.decode_line(sequences) if sequences else (0.0, 0.0)
        if not shape.prefill_tokens:
            return (fixed_s if sequences else table.decode_s[0]) + token_s * shape.context_tokens
        prefill_s = between(table.prefill_tokens, table.prefill_s, shape.prefill_tokens)
        # a small chunk does not make a step shorter than its decodes alone
        own_s = max(prefill_s + table.mixed_sequence_s * sequences, fixed_s)
        return own_s + table.prefill_pair_s * shape.prefill_pairs + token_s * shape.context_tokens

    def decode_line(self, sequences: int) -> tuple[float, float]:
        line = self._lines.get(sequences)
        if line is None:
            table = self._table
            fixed_s = between(table.batches, table.decode_s, sequences)
            inside = min(max(sequences, table.batches[0]), table.batches[-1])
            line = self._lines[sequences] = fixed_s, between(table.batches, table.context_token_s, inside)
        return line


def between(knots: Sequence[int], values: Sequence[float], at: float) -> float:
    """Piecewise linear, continued at both ends, never below zero; a single knot is a constant."""
    if len(knots) == 1:
        return values[0]
    upper = min(max(bisect_left(knots, at), 1), len(knots) - 1)
    lower = upper - 1
    share = (at - knots[lower]) / (knots[upper] - knots[lower])
    return max(values[lower] + share * (values[upper] - values[lower]), 0.0)


def table_of(points: Sequence[Point]) -> Table:
    """The table behind measured or modelled points; what they leave open is taken from their linear model."""
    linear = phases(points)
    prefills = [p for p in points if not p.shape.decode_sequences]
    decodes = [p for p in points if not p.shape.prefill_tokens]
    mixed = [p for p in points if p.shape.prefill_tokens and p.shape.decode_sequences]
    pair_s = _pair_s(prefills, linear)
    tokens, prefill_s = _prefill(prefills, pair_s)
    batches, decode_s, token_s = _decode(decodes, linear)
    table = Table(
        prefill_tokens=tokens,
        prefill_s=prefill_s,
        prefill_pair_s=pair_s,
        batches=batches,
        decode_s=decode_s,
        context_token_s=token_s,
        mixed_sequence_s=_last_slope(batches, decode_s, linear.decode_sequence_s),
    )
    return msgspec.structs.replace(table, mixed_sequence_s=_mixed_s(table, mixed)) if mixed else table


def _by(points: Sequence[Point], field: int) -> dict[int, list[Point]]:
    groups: dict[int, list[Point]] = defaultdict(list)
    for point in sorted(points):
        groups[point.shape[field]].append(point)
    return dict(sorted(groups.items()))


def _pair_s(prefills: Sequence[Point], linear: PhaseCosts) -> float:
    """How time grows with pairs among chunks of one length."""
    up = down = 0.0
    for points in _by(prefills, 0).values():
        weights = [point.elapsed_s**-2 for point in points]
        pairs = float_sum(w * p.shape.prefill_pairs for w, p in zip(weights, points, strict=True)) / float_sum(weights)
        for weight, point in zip(weights, points, strict=True):
            up += weight * (point.shape.prefill_pairs - pairs) * point.elapsed_s
            down += weight * (point.shape.prefill_pairs - pairs) ** 2
    return max(up / down, 0.0) if down else linear.prefill_pair_s


def _prefill(prefills: Sequence[Point], pair_s: float) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """More tokens never take less time."""
    tokens, times = [], [0.0]
    for length, points in _by(prefills, 0).items():
        weights = [point.elapsed_s**-2 for point in points]
        rest = float_sum(
            w * (p.elapsed_s - pair_s * p.shape.prefill_pairs) for w, p in zip(weights, points, strict=True)
        )
        tokens.append(length)
        times.append(max(rest / float_sum(weights), times[-1]))
    return tuple(tokens), tuple(times[1:])


def _decode(
    decodes: Sequence[Point], linear: PhaseCosts
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
    """A line over context per batch; where a batch has one context only, the slope of all."""
    batches, fixed, slopes = [], [0.0], []
    for batch, points in _by(decodes, 2).items():
        if len({point.shape.context_tokens for point in points}) > 1:
            rows = [(1 / p.elapsed_s, p.shape.context_tokens / p.elapsed_s) for p in points]
            fixed_s, token_s = non_negative(rows, [1.0] * len(rows))
        else:
            token_s = linear.context_token_s
            fixed_s = float_sum(p.elapsed_s - token_s * p.shape.context_tokens for p in points) / len(points)
        batches.append(batch)
        fixed.append(max(fixed_s, fixed[-1]))
        slopes.append(token_s)
    return tuple(batches), tuple(fixed[1:]), tuple(slopes)


def _last_slope(batches: Sequence[int], decode_s: Sequence[float], otherwise: float) -> float:
    if len(batches) < 2:
        return otherwise
    return (decode_s[-1] - decode_s[-2]) / (batches[-1] - batches[-2])


def _mixed_s(table: Table, mixed: Sequence[Point]) -> float:
    rows, target = [], []
    model = TableModel(msgspec.structs.replace(table, mixed_sequence_s=0.0))
    for shape, elapsed_s in mixed:
        rest = elapsed_s - model.step_s(shape)
        rows.append([shape.decode_sequences / elapsed_s])
        target.append(rest / elapsed_s)
    return non_negative(rows, target)[0]
