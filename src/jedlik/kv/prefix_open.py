"""Blocks and holders for workers that evict in any order (`prefix_closed: false`): nothing to bisect on, so walk."""

from collections import OrderedDict
from collections.abc import Sequence


class OpenBlocks:
    """BlockKey -> bit set of holders, without order. Same calls as `ClosedBlocks`."""

    def __init__(self) -> None:
        self._masks: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._masks)

    def keys(self) -> list[int]:
        return list(self._masks)

    def holders(self, key: int) -> int:
        """Bits of the workers that hold a block."""
        return self._masks.get(key, 0)

    def store(self, bit: int, keys: Sequence[int]) -> None:
        for key in keys:
            self._masks[key] = self._masks.get(key, 0) | bit

    def sweep(self, keys: Sequence[int], dead: int) -> None:
        """Take the bits `dead` out of these blocks; unknown ones are a no-op."""
        for key in keys:
            rest = self._masks.get(key, 0) & ~dead
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
                spans.append((depth, mask & ~now))
                mask = now
            if not mask:
                return spans
        return [*spans, (len(keys), mask)]

    def trim(self, blocks: int) -> None:
        """Forget the oldest until at most `blocks` are left."""
        while len(self._masks) > blocks:
            self._masks.popitem(last=False)
