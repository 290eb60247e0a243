"""What is worth writing to a slow tier: what was asked for a second time, or anything while there is plenty of room.

Most prefixes are never asked for again, and writing them wears a disk and holds up the writes that matter. Ids seen are
remembered in two generations of sets, the older one forgotten when the younger is full: memory is bounded, and an id is
remembered for at least half of `capacity` others.
"""

from jedlik.core.ids import BlockId

ROOMY_SHARE = 0.5
"""A tier filled less than this takes anything: a filter on an empty tier keeps it empty."""


class SecondTouch:
    """Of one tier. `capacity`: how many ids are remembered, at most."""

    def __init__(self, capacity: int) -> None:
        self._half = max(1, capacity // 2)
        self._young: set[BlockId] = set()
        self._old: set[BlockId] = set()

    def __len__(self) -> int:
        """Ids remembered."""
        return len(self._young) + len(self._old)

    def admit(self, block: BlockId, fill_share: float) -> bool:
        """Whether this block is to be written, now that it was touched; `fill_share` of the tier is in use."""
        seen = block in self._young or block in self._old
        self._touch(block)
        return seen or fill_share < ROOMY_SHARE

    def _touch(self, block: BlockId) -> None:
        if block not in self._young and len(self._young) >= self._half:
            self._old, self._young = self._young, set()
        self._young.add(block)
