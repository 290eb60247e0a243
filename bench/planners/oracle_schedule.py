"""The cheapest counts over time, where what every count would miss at every time is known: dynamic programming, exact.

A schedule is workers serving per bin. It costs their time, the start-up of each that is added, and the draining of each
that goes; what it misses costs `price` a request. So a worker is kept over a gap that is shorter than another start,
and let go over a longer one. All times are seconds; costs are worker-seconds.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


class Rules(NamedTuple):
    """Of one role's workers."""

    bin_s: float
    start_s: float
    drain_s: float
    """What a worker that goes still takes, on average."""
    initial: int
    """Serving at time 0, for nothing."""
    least: int
    gpus: float = 1.0
    """Of one; costs count them."""


def cheapest(missed: Floats, price: float, rules: Rules) -> Counts:
    """Per bin, how many should serve. `missed[b, n]` is what n workers miss of what arrives in bin b.

    Before the first start can be over there are at most as many as there were at the beginning.
    """
    bins, counts = missed.shape
    levels = np.arange(counts)
    running = levels * rules.bin_s + price / rules.gpus * missed
    running[:, : rules.least] = np.inf
    unreachable = int(np.ceil(rules.start_s / rules.bin_s - 1e-9))
    running[:unreachable, max(rules.initial, rules.least) + 1 :] = np.inf
    totals = np.empty_like(running)
    before = _moves(levels, min(rules.initial, counts - 1), rules)
    for at in range(bins):
        totals[at] = before + running[at]
        before = _best_moves(totals[at], levels, rules)
    chosen = np.empty(bins, np.int64)
    chosen[-1] = int(np.argmin(totals[-1]))
    for at in range(bins - 2, -1, -1):
        chosen[at] = int(np.argmin(totals[at] + _moves_to(levels, int(chosen[at + 1]), rules)))
    return chosen


def cost_s(chosen: Counts, rules: Rules) -> float:
    """GPU-seconds of a schedule, without what it misses."""
    steps = np.diff(chosen, prepend=rules.initial)
    up, down = float(steps[steps > 0].sum()), float(-steps[steps < 0].sum())
    return rules.gpus * (float(chosen.sum()) * rules.bin_s + up * rules.start_s + down * rules.drain_s)


def committed(chosen: Counts, at_s: float, lead_s: float, bin_s: float) -> int:
    """Workers that serve at `at_s` or must have been ordered by then to serve later, each `lead_s` ahead."""
    first, last = int(at_s / bin_s + 1e-9), int((at_s + lead_s) / bin_s + 1e-9)
    first, last = min(first, len(chosen) - 1), min(last, len(chosen) - 1)
    return int(chosen[first : last + 1].max())


def _moves(levels: Counts, start: int, rules: Rules) -> Floats:
    """From `start` to each level."""
    steps = (levels - start).astype(np.float64)
    return np.where(steps > 0, steps * rules.start_s, -steps * rules.drain_s)


def _moves_to(levels: Counts, end: int, rules: Rules) -> Floats:
    """From each level to `end`."""
    steps = (end - levels).astype(np.float64)
    return np.where(steps > 0, steps * rules.start_s, -steps * rules.drain_s)


def _best_moves(totals: Floats, levels: Counts, rules: Rules) -> Floats:
    """The cheapest way to each level from any: costs are linear up and down, so two sweeps do."""
    up = np.minimum.accumulate(totals - levels * rules.start_s) + levels * rules.start_s
    down = np.minimum.accumulate((totals + levels * rules.drain_s)[::-1])[::-1] - levels * rules.drain_s
    best: Floats = np.minimum(up, down)
    return best
