"""Small changes to a schedule: an edge sooner or later, a level lower or higher for a while."""

from random import Random

import numpy as np
from oracle_schedule import Counts, Rules

SHIFTS = (1, 1, 2, 3, 5, 8)
"""Bins."""
LOWER = 0.8
"""How often a level is lowered, not raised."""


def moved(chosen: Counts, chance: Random, rules: Rules) -> Counts | None:
    """Another schedule; None where the change that was drawn can't be made."""
    edges = np.flatnonzero(np.diff(chosen)) + 1
    changed: Counts = chosen.copy()
    if len(edges) and chance.random() < 0.6:
        at, by = int(edges[chance.randrange(len(edges))]), SHIFTS[chance.randrange(len(SHIFTS))]
        if chance.random() < 0.5:
            changed[at : at + by] = chosen[at - 1]
        else:
            changed[max(0, at - by) : at] = chosen[at]
    else:
        bounds = [0, *edges.tolist(), len(chosen)]
        which = chance.randrange(len(bounds) - 1)
        first, last = bounds[which], bounds[which + 1]
        if chance.random() < 0.5 and last - first > 2:
            first, last = sorted(chance.sample(range(first, last + 1), 2))
        changed[first:last] += -1 if chance.random() < LOWER else 1
    return changed if possible(changed, rules, int(chosen.max())) and not np.array_equal(changed, chosen) else None


def possible(chosen: Counts, rules: Rules, most: int) -> bool:
    """Between floor and ceiling, and at first no more than there were."""
    soon = int(np.ceil(rules.start_s / rules.bin_s - 1e-9))
    early = chosen[:soon]
    least_early = max(rules.initial, rules.least)
    return int(chosen.min()) >= rules.least and int(chosen.max()) <= most and (early <= least_early).all().item()
