"""A KV cache in a GPU's memory as blocks that can be read and written from the host (`transfer/region.Region`).

Bytes go through pinned memory on streams of their own, behind whatever the engine has queued so far: a block that a
step fills is read after that step, one that a step still reads is written after it. Several threads may call.
"""

import queue
from collections.abc import Iterator, Sequence

import torch

LANES = 2
"""Copies under way at a time: one each way."""
STAGING_BYTES = 16 << 20
"""Pinned memory of a lane, at least one block."""


class _Lane:
    """Pinned memory, and a stream that fills or empties it."""

    def __init__(self, blocks: int, block_bytes: int, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        self.staged = torch.empty((blocks, block_bytes), dtype=torch.uint8, pin_memory=cuda)
        self.view = self.staged.numpy().reshape(-1).data


class DeviceRegion:
    """Blocks of `block_bytes` in `cache`, a flat uint8 tensor; on a CPU only for tests of this."""

    mapped = None

    def __init__(self, cache: torch.Tensor, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self.blocks = cache.numel() // block_bytes
        self._cache = cache[: self.blocks * block_bytes].view(self.blocks, block_bytes)
        self._at_once = max(1, STAGING_BYTES // block_bytes)
        self._lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for _ in range(LANES):
            self._lanes.put(_Lane(self._at_once, block_bytes, cache.device))

    def read(self, blocks: Sequence[int], into: Sequence[memoryview]) -> None:
        """Copy blocks out. Returns when the bytes are there."""
        size, lane = self.block_bytes, self._lanes.get()
        try:
            for at in range(0, len(blocks), self._at_once):
                some = blocks[at : at + self._at_once]
                self._copy(lane, some, out=True)
                for number, target in enumerate(into[at : at + len(some)]):
                    target[:] = lane.view[number * size : (number + 1) * size]
        finally:
            self._lanes.put(lane)

    def write(self, blocks: Sequence[int], out_of: Sequence[memoryview]) -> None:
        """Copy blocks in. Returns when the bytes are there."""
        size, lane = self.block_bytes, self._lanes.get()
        try:
            for at in range(0, len(blocks), self._at_once):
                some = blocks[at : at + self._at_once]
                for number, source in enumerate(out_of[at : at + len(some)]):
                    lane.view[number * size : (number + 1) * size] = source
                self._copy(lane, some, out=False)
        finally:
            self._lanes.put(lane)

    def _copy(self, lane: _Lane, blocks: Sequence[int], *, out: bool) -> None:
        """Between the cache and the lane's first blocks; whole when this returns."""
        if lane.stream is None:
            self._queue(lane, blocks, out=out)
            return
        with torch.cuda.stream(lane.stream):
            lane.stream.wait_stream(torch.cuda.default_stream(self._cache.device))
            self._queue(lane, blocks, out=out)
        lane.stream.synchronize()

    def _queue(self, lane: _Lane, blocks: Sequence[int], *, out: bool) -> None:
        for first, at, count in _runs(blocks):
            device, host = self._cache[first : first + count], lane.staged[at : at + count]
            source, target = (device, host) if out else (host, device)
            target.copy_(source, non_blocking=True)


def _runs(blocks: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Neighbours in the cache, copied in one go: (first block, where in the list, how many)."""
    begin = 0
    for at in range(1, len(blocks) + 1):
        if at == len(blocks) or blocks[at] != blocks[at - 1] + 1:
            yield blocks[begin], begin, at - begin
            begin = at
