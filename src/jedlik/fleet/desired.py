"""Counts that are wished, kept between a floor and a ceiling. Pure arithmetic on counts by role.

Where they can't all hold the ceiling does: a budget is real.
"""

from collections.abc import Mapping, Sequence

from jedlik.core.config import Role
from jedlik.core.plans import ROLES, Counts, Place


def gpus_of(place: Place) -> float:
    """Return how many GPUs of the budget a worker at this place takes."""
    return place.gpus or 1.0


def most_workers(places: Sequence[Place], budget: float | None) -> int:
    """Return how many workers fit into the budget, in GPUs (None: no limit); never more than there are places."""
    if budget is None:
        return len(places)
    count, used = 0, 0.0
    for gpus in sorted(gpus_of(place) for place in places):
        used += gpus
        if used > budget + 1e-9:
            break
        count += 1
    return count


def apportion(parts: Mapping[Role, int], most: int) -> dict[Role, int]:
    """The parts, cut in proportion to at most so many in all; remainders go to the largest fractions, in role order."""
    whole = sum(parts.values())
    if whole <= most:
        return dict(parts)
    cut = {role: part * most // whole for role, part in parts.items()}
    remaining = most - sum(cut.values())
    order = sorted(parts, key=lambda role: (-(parts[role] * most % whole), ROLES.index(role)))
    for role in order[:remaining]:
        cut[role] += 1
    return cut


def within(wish: Counts, floors: Sequence[Counts], least: int, most: int) -> dict[Role, int]:
    """The wish, raised to all floors and to `least` in all, and cut to `most` in all: earlier floors are cut last."""
    wanted = {role: max(wish.get(role, 0), *(floor.get(role, 0) for floor in floors)) for role in ROLES}
    lacking = min(least, most) - sum(wanted.values())
    if lacking > 0:
        wanted[_fill(wanted)] += lacking
    granted: dict[Role, int] = dict.fromkeys(ROLES, 0)
    for tier in (*floors, wanted):
        more = {role: max(0, tier.get(role, 0) - granted[role]) for role in ROLES}
        more = apportion(more, most - sum(granted.values()))
        granted = {role: granted[role] + more[role] for role in ROLES}
    return granted


def _fill(wanted: Counts) -> Role:
    """Who gets what lacks in all: the larger pool; of equal ones decode."""
    if not wanted["prefill"] and not wanted["decode"]:
        return "both"
    order: tuple[Role, ...] = ("decode", "prefill", "both")
    return max(order, key=lambda role: (wanted[role], -order.index(role)))
