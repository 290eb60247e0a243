"""Step models, as simulated engines and planners use them: any model that is linear in context for a given batch.

That much linearity is what lets k decode steps in a row be summed in closed form (`leap_s`) and cut anywhere
(`steps_begun`). All times are seconds.
"""

from math import sqrt
from typing import Protocol

from jedlik.core.protocol import StepCosts
from jedlik.perf.step import StepShape, shape_s


class StepModel(Protocol):
    """A performance model of one engine."""

    def step_s(self, shape: StepShape) -> float:
        """Time of one step of this shape: prefill, decode or both."""

    def decode_line(self, sequences: int) -> tuple[float, float]:
        """(seconds, seconds per token of context) of a step that only decodes so many sequences."""

    @property
    def costs(self) -> StepCosts:
        """The nearest linear model, for routers."""


class LinearModel:
    """`StepCosts` as a model."""

    def __init__(self, costs: StepCosts) -> None:
        self.costs = costs

    def step_s(self, shape: StepShape) -> float:
        return shape_s(self.costs, shape)

    def decode_line(self, sequences: int) -> tuple[float, float]:
        return decode_line(self.costs, sequences)


def decode_line(costs: StepCosts, sequences: int) -> tuple[float, float]:
    """(seconds, seconds per token of context) of a step that only decodes so many sequences."""
    return costs.base_s + costs.decode_sequence_s * sequences, costs.context_token_s


def leap_s(line: tuple[float, float], sequences: int, context: int, steps: int) -> float:
    """Time of `steps` decode steps in a row; `context` is that of the first, each adds a token per sequence."""
    fixed_s, token_s = line
    return steps * (fixed_s + token_s * context) + token_s * sequences * steps * (steps - 1) / 2


def steps_begun(line: tuple[float, float], sequences: int, context: int, elapsed_s: float) -> int:
    """Return how many of those steps have begun after `elapsed_s`: at least one; the last of them is under way."""
    fixed_s, token_s = line
    first_s, growth_s = fixed_s + token_s * context, token_s * sequences
    half = growth_s / 2
    linear = first_s - half
    if half <= 0:
        done = int(elapsed_s / linear)
    else:
        done = int((sqrt(linear * linear + 4 * half * elapsed_s) - linear) / (2 * half))
    while leap_s(line, sequences, context, done + 1) <= elapsed_s:  # the root may be off by a rounding
        done += 1
    while done and leap_s(line, sequences, context, done) > elapsed_s:
        done -= 1
    return done + 1
