"""Blocks and holders for workers that evict in any order (`prefix_closed: false`): nothing to bisect on, so walk."""

from collections import OrderedDict
from collections.abc import Sequence

BLOCK_BYTES = 240
"""What a block costs: key, entry and place in the order."""


class OpenBlocks:
    """BlockKey -> bit set of holders, without order. Same calls as `ClosedBlocks`."""

    def __init__(self) -> None:
        self._masks: OrderedDict[int, int] = OrderedDict()
        self._unswept: list[int] = []

    def __len__(self) -> int:
        return len(self._masks)

    def holders(self, key: int) -> int:
        """Bits of the workers that hold a block."""
        return self._masks.get(key, 0)

    def store(self, bit: int, keys: Sequence[int]) -> None:
        for key in keys:
            self._masks[key] = self._masks.get(key, 0) | bit

    def begin_sweep(self) -> None:
        self._unswept = list(self._masks)

    def sweep(self, blocks: int, dead: int) -> bool:
        """Take the bits `dead` out of the next few blocks. True when all are done."""
        self.evict(dead, self._unswept[-blocks:])
        del self._unswept[-blocks:]
        return not self._unswept

    def evict(self, bits: int, keys: Sequence[int]) -> None:
        """Take bits out of these blocks; unknown ones are a no-op."""
        for key in keys:
            rest = self._masks.get(key, 0) & ~bits
            if rest:
                self._masks[key] = rest
            else:
                self._masks.pop(key, None)

    def match(self, keys: Sequence[int], alive: int) -> list[tuple[int, int]]:
        """(depth in blocks, bits that end there), deepest last."""
        spans: list[tuple[int, int]] = []
        mask = alive
        for depth, key in enumerate(keys):
            now = self._masks.get(key, 0) & mask
            if now != mask:
                if depth:
                    spans.append((depth, mask & ~now))
                mask = now
            if not mask:
                return spans
        return [*spans, (len(keys), mask)] if keys else spans

    def size_bytes(self) -> int:
        """Memory, roughly."""
        return len(self._masks) * BLOCK_BYTES

    def trim(self, budget_bytes: int) -> None:
        """Forget the oldest until the budget holds."""
        while self._masks and self.size_bytes() > budget_bytes:
            self._masks.popitem(last=False)
