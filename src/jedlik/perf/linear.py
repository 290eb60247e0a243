"""Linear models of step times from points: least squares of relative errors, no cost below zero.

For measurements taken once and for stating a finer model in fewer numbers; `perf/fit` learns while serving.
"""

from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from jedlik.core.protocol import StepCosts
from jedlik.core.sums import float_sum
from jedlik.perf.step import StepShape, chunk_pairs

Floats = npt.NDArray[np.float64]
CHUNKS, STARTS = (128, 512, 2048, 8192), (0, 4096, 32768)
BATCHES, CONTEXTS = (1, 4, 16, 64, 256), (512, 4096, 16384)


class PhaseCosts(msgspec.Struct, frozen=True, kw_only=True):
    """A linear model with a base of its own for steps that only decode.

    A step that prefills costs prefill_base + token and pair terms, and the decodes in it their terms without a base.
    """

    prefill_base_s: float
    prefill_token_s: float
    prefill_pair_s: float
    decode_base_s: float
    decode_sequence_s: float
    context_token_s: float


class Point(NamedTuple):
    """One step, measured or modelled."""

    shape: StepShape
    elapsed_s: float


def non_negative(rows: Sequence[Sequence[float]], target: Sequence[float]) -> list[float]:
    """Non-negative least squares, exact: the best of all choices of columns. For a handful of columns."""
    matrix, wanted = np.asarray(rows, np.float64), np.asarray(target, np.float64)
    size = matrix.shape[1]
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    scaled = matrix / scale
    best, least = np.zeros(size), float(wanted @ wanted)
    for count in range(1, size + 1):
        for columns in combinations(range(size), count):
            part: Floats = np.linalg.lstsq(scaled[:, columns], wanted, rcond=None)[0]
            off = scaled[:, columns] @ part - wanted
            error = float(off @ off)
            if part.min() >= 0 and error < least:
                best, least = np.zeros(size), error
                best[list(columns)] = part
    return [float(x) for x in best / scale]


def phases(points: Sequence[Point]) -> PhaseCosts:
    """The linear model nearest to these points. A phase that is not among them costs nothing."""
    rows = []
    for (tokens, pairs, sequences, context), elapsed_s in points:
        row = (tokens > 0, tokens, pairs, tokens == 0, sequences, context)
        rows.append([x / elapsed_s for x in row])
    return PhaseCosts(**dict(zip(PhaseCosts.__struct_fields__, non_negative(rows, [1.0] * len(rows)), strict=True)))


def nearest(step_s: Callable[[StepShape], float]) -> StepCosts:
    """One base for both phases: the `StepCosts` nearest to a model, over chunks and batches as servers run them."""
    rows = []
    for shape in _usual():
        elapsed_s = step_s(shape)
        rows.append([x / elapsed_s for x in (1, *shape)])
    return StepCosts.of(non_negative(rows, [1.0] * len(rows)))


def mean_error(step_s: Callable[[StepShape], float], points: Sequence[Point]) -> float:
    """Mean of the absolute relative errors of a model over points."""
    return float_sum(abs(step_s(shape) / elapsed_s - 1) for shape, elapsed_s in points) / len(points)


def _usual() -> list[StepShape]:
    alone = [StepShape(tokens, chunk_pairs(start, tokens), 0, 0) for tokens, start in product(CHUNKS, STARTS)]
    decodes = [StepShape(0, 0, batch, batch * context) for batch, context in product(BATCHES, CONTEXTS)]
    mixed = [
        StepShape(512, chunk_pairs(0, 512), batch, batch * context) for batch, context in product(BATCHES, CONTEXTS)
    ]
    return alone + decodes + mixed


class PhaseModel:
    """`PhaseCosts` as a model."""

    def __init__(self, costs: PhaseCosts) -> None:
        self._costs = costs
        self.costs = nearest(self.step_s)

    def step_s(self, shape: StepShape) -> float:
        costs = self._costs
        decodes_s = costs.decode_sequence_s * shape.decode_sequences + costs.context_token_s * shape.context_tokens
        if not shape.prefill_tokens:
            return costs.decode_base_s + decodes_s
        prefill_s = costs.prefill_token_s * shape.prefill_tokens + costs.prefill_pair_s * shape.prefill_pairs
        return costs.prefill_base_s + prefill_s + decodes_s

    def decode_line(self, sequences: int) -> tuple[float, float]:
        costs = self._costs
        return costs.decode_base_s + costs.decode_sequence_s * sequences, costs.context_token_s
