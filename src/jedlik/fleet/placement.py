"""At which free place a worker should be started. Pure: places and who is where, in; a place, out.

First places that are meant for the role, then nearness of hand-off partners (the longest path in common), then distance
of those of the same role (the widest difference: rack before host before device), then of all; then the order given.
"""

from collections.abc import Iterable, Sequence

from jedlik.core.config import Role
from jedlik.core.plans import Place

PARTNER: dict[Role, Role] = {"prefill": "decode", "decode": "prefill"}
"""Who hands off to whom."""


def choose(free: Sequence[Place], role: Role, taken: Sequence[tuple[Place, Role]]) -> Place | None:
    """The best of the free places; None if there is none. `taken`: who is at work, or on the way to, and as what."""
    partners = [place.path for place, other in taken if PARTNER.get(role) == other]
    alike = [place.path for place, other in taken if other == role]
    everybody = [place.path for place, _ in taken]

    def key(place: Place) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
        near = max((common(place.path, path) for path in partners), default=0)
        return _meant(place, role), -near, crowd(place.path, alike), crowd(place.path, everybody)

    return min(free, key=key, default=None)  # the first of equals


def common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts, from the widest, two paths share."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def crowd(path: Sequence[str], others: Iterable[Sequence[str]]) -> tuple[int, ...]:
    """How many of the others are in the same rack, host, ...: one count per part of the path, as far as any is."""
    shared = [common(path, other) for other in others]
    return tuple(sum(count > level for count in shared) for level in range(max(shared, default=0)))


def _meant(place: Place, role: Role) -> int:
    return 0 if place.role == role else 1 if place.role is None else 2
