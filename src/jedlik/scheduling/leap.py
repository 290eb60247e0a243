"""Leaps: decode steps in a row that nothing can change, taken as one. For simulations; live takes every step.

A leap may be planned where the steps after this one are known: the batch only decodes, nobody ends, is admitted,
preempted or stopped by a token meanwhile, and there is memory for all of it. It ends before the first moment at which
that could be otherwise: the step in which somebody reaches its limit is the last one (with run-ahead, the one before:
the step behind it is planned while it runs), and whatever comes up meanwhile ends it with the step that is running.
"""

from collections.abc import Sequence as Columns

import msgspec

from jedlik.core.protocol import RUN_AHEAD_TOKENS
from jedlik.scheduling.sequence import Sequence


class Leaps(msgspec.Struct, frozen=True):
    """What a worker node may take together."""

    longest: int = 1
    """Steps."""
    window_tokens: int = RUN_AHEAD_TOKENS
    """Simulated clients take tokens at once: a window that never closes stands for acknowledgements in time."""


LIVE = Leaps()


def leap_steps(decoded: Columns[Sequence], longest: int, block_size: int, available_blocks: int) -> int:
    """How many steps in a row these sequences can decode from here; their next step is planned (counted) already."""
    steps = longest
    for s in decoded:
        if s.stops:
            return 1
        left = s.stop_at - s.expected + 1
        if left < steps:
            steps = left
    if len(decoded) * (steps // block_size + 1) > available_blocks:
        while steps > 1 and _missing(decoded, steps, block_size) > available_blocks:
            steps //= 2
    return max(1, steps)


def _missing(decoded: Columns[Sequence], steps: int, block_size: int) -> int:
    return sum(-(-(s.scheduled + steps - 1) // block_size) - len(s.blocks) for s in decoded)
