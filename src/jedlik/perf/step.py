"""Step times: the linear model of `StepCosts`, evaluated for a step, a prefill or a decode.

All times are seconds, all sizes tokens or sequences. Pure arithmetic; learning the costs is `perf/fit`.
"""

from typing import NamedTuple

from jedlik.core.protocol import StepCosts
from jedlik.core.step import Step


class StepShape(NamedTuple):
    """The sizes that a step's time depends on, in the order of the fields of `StepCosts` (after its base)."""

    prefill_tokens: int
    prefill_pairs: int
    """(prefilled token, token it attends to) pairs, itself included."""
    decode_sequences: int
    context_tokens: int


def chunk_pairs(start: int, length: int) -> int:
    """Pairs that prefilling history[start : start + length] attends to."""
    return length * start + length * (length + 1) // 2


def shape_of(step: Step) -> StepShape:
    """The shape of a step as it is handed to an engine."""
    tokens = sum(chunk.length for chunk in step.prefills)
    pairs = sum(chunk_pairs(chunk.start, chunk.length) for chunk in step.prefills)
    return StepShape(tokens, pairs, len(step.decodes), step.decode_context)


MeanShape = tuple[float, float, float, float]
"""The shape of several steps on average, in the order of `StepShape`, which is one of these."""


def shape_s(costs: StepCosts, shape: MeanShape) -> float:
    """Time of a step of this shape."""
    tokens, pairs, sequences, context = shape
    return (
        costs.base_s
        + costs.prefill_token_s * tokens
        + costs.prefill_pair_s * pairs
        + costs.decode_sequence_s * sequences
        + costs.context_token_s * context
    )


def step_s(costs: StepCosts, step: Step) -> float:
    """Time of this step."""
    return shape_s(costs, shape_of(step))


def prefill_s(costs: StepCosts, tokens: int, cached: int, max_step_tokens: int) -> float:
    """Time to prefill `tokens` after `cached` ones, alone, in chunks of at most `max_step_tokens`."""
    if tokens <= 0:
        return 0.0
    steps = -(-tokens // max_step_tokens)
    pairs = chunk_pairs(cached, tokens)
    return steps * costs.base_s + costs.prefill_token_s * tokens + costs.prefill_pair_s * pairs


def decode_s(costs: StepCosts, sequences: int, context_tokens: int) -> float:
    """Time of one decode step over `sequences` with `context_tokens` in cache together."""
    return costs.base_s + costs.decode_sequence_s * sequences + costs.context_token_s * context_tokens
