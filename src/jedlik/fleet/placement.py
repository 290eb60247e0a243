"""The free place at which a worker should be started. Pure: places and who is where, in; a place, out.

First places that are meant for the role, then nearness of hand-off partners (the longest path in common), then distance
of those of the same role (the widest difference: rack before host before device), then of all; then the order given.
"""

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from math import inf

from jedlik.core.config import Role
from jedlik.core.plans import Place
from jedlik.fleet.desired import gpus_of

PARTNER: dict[Role, Role] = {"prefill": "decode", "decode": "prefill"}
"""The role to which each role hands off."""
Path = tuple[str, ...]
Key = tuple[int, int, tuple[int, ...], tuple[int, ...]]


class Board:
    """Places, and who is at work there, or on the way to: placing one after the other costs little."""

    def __init__(self, free: Iterable[Place], taken: Iterable[tuple[Place, Role]]) -> None:
        self._free = {place.name: place for place in free}
        self._crowds: dict[Role | None, Counter[Path]] = {}
        """How many are below each beginning of a path: by role, and (None) of all roles."""
        self._keys: dict[Role, dict[str, Key]] = {}
        self._beside: dict[str, list[str]] = {}
        """Names of places by the widest part of their path: only there does a neighbour matter."""
        for place in self._free.values():
            self._beside.setdefault(place.path[0] if place.path else "", []).append(place.name)
        for place, role in taken:
            self._count(place, role)

    def choose(self, role: Role, gpus: float = inf, avoid: Container[str] = ()) -> Place | None:
        """The best of the free places that take no more GPUs, and whose names are not to be avoided; None: no such."""
        keys = self._keys.setdefault(role, {})
        best: tuple[Key, Place] | None = None
        for name, place in self._free.items():
            if gpus_of(place) > gpus or name in avoid:
                continue
            key = keys.get(name)
            if key is None:
                key = keys[name] = self._key(place, role)
            if best is None or key < best[0]:  # the first of equals
                best = key, place
        return None if best is None else best[1]

    def take(self, place: Place, role: Role) -> None:
        """Somebody is on the way to there."""
        del self._free[place.name]
        self._count(place, role)
        if place.path:
            for keys in self._keys.values():
                for name in self._beside.get(place.path[0], ()):
                    keys.pop(name, None)

    def _count(self, place: Place, role: Role) -> None:
        for depth in range(1, len(place.path) + 1):
            self._crowds.setdefault(role, Counter())[place.path[:depth]] += 1
            self._crowds.setdefault(None, Counter())[place.path[:depth]] += 1

    def _key(self, place: Place, role: Role) -> Key:
        partner = PARTNER.get(role)
        near = len(self._crowd(place.path, partner)) if partner else 0
        return _meant(place, role), -near, self._crowd(place.path, role), self._crowd(place.path, None)

    def _crowd(self, path: Path, role: Role | None) -> tuple[int, ...]:
        """How many are in the same rack, host, ...: one count per part of the path, as far as any is."""
        crowd = self._crowds.get(role)
        if crowd is None:
            return ()
        counts = (crowd[path[:depth]] for depth in range(1, len(path) + 1))
        return tuple(count for count in counts if count)


def choose(free: Sequence[Place], role: Role, taken: Iterable[tuple[Place, Role]]) -> Place | None:
    """The best place for one worker; None if none is free."""
    return Board(free, taken).choose(role)


def _meant(place: Place, role: Role) -> int:
    return 0 if place.role == role else 1 if place.role is None else 2
