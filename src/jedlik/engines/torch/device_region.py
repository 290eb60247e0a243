"""A KV cache in a GPU's memory as blocks that can be read and written from the host (`transfer/region.Region`).

Bytes go through pinned memory on streams of their own, behind whatever the engine has queued so far: a block that a
step fills is read after that step, one that a step still reads is written after it. Several threads may call.
"""

import queue
from collections.abc import Iterator, Sequence

import torch

STREAMS = 2
"""The number of copies under way at a time: one each way."""
STAGING_BYTES = 16 << 20
"""The pinned memory of one stream; it holds at least one block."""


class _CopyStream:
    """A CUDA stream, and the pinned memory that it fills or empties."""

    def __init__(self, blocks: int, block_bytes: int, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        self.staged = torch.empty((blocks, block_bytes), dtype=torch.uint8, pin_memory=cuda)
        self.view = self.staged.numpy().reshape(-1).data


class DeviceRegion:
    """Blocks of `block_bytes` in `cache`, a flat uint8 tensor; on a CPU only for tests of this class."""

    mapped = None

    def __init__(self, cache: torch.Tensor, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self.blocks = cache.numel() // block_bytes
        self._cache = cache[: self.blocks * block_bytes].view(self.blocks, block_bytes)
        self._at_once = max(1, STAGING_BYTES // block_bytes)
        self._streams: queue.SimpleQueue[_CopyStream] = queue.SimpleQueue()
        for _ in range(STREAMS):
            self._streams.put(_CopyStream(self._at_once, block_bytes, cache.device))

    def read(self, blocks: Sequence[int], into: Sequence[memoryview]) -> None:
        """Copy blocks out. Returns when the bytes are there."""
        size, staging = self.block_bytes, self._streams.get()
        try:
            for at in range(0, len(blocks), self._at_once):
                some = blocks[at : at + self._at_once]
                self._copy(staging, some, out=True)
                for number, target in enumerate(into[at : at + len(some)]):
                    target[:] = staging.view[number * size : (number + 1) * size]
        finally:
            self._streams.put(staging)

    def write(self, blocks: Sequence[int], out_of: Sequence[memoryview]) -> None:
        """Copy blocks in. Returns when the bytes are there."""
        size, staging = self.block_bytes, self._streams.get()
        try:
            for at in range(0, len(blocks), self._at_once):
                some = blocks[at : at + self._at_once]
                for number, source in enumerate(out_of[at : at + len(some)]):
                    staging.view[number * size : (number + 1) * size] = source
                self._copy(staging, some, out=False)
        finally:
            self._streams.put(staging)

    def _copy(self, staging: _CopyStream, blocks: Sequence[int], *, out: bool) -> None:
        """Copy between the cache and the first staged blocks; whole when this returns."""
        if staging.stream is None:
            self._queue(staging, blocks, out=out)
            return
        with torch.cuda.stream(staging.stream):
            staging.stream.wait_stream(torch.cuda.default_stream(self._cache.device))
            self._queue(staging, blocks, out=out)
        staging.stream.synchronize()

    def _queue(self, staging: _CopyStream, blocks: Sequence[int], *, out: bool) -> None:
        for first, at, count in _runs(blocks):
            device, host = self._cache[first : first + count], staging.staged[at : at + count]
            source, target = (device, host) if out else (host, device)
            target.copy_(source, non_blocking=True)


def _runs(blocks: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield neighbours in the cache, copied together: (first block, position in the list, how many)."""
    begin = 0
    for at in range(1, len(blocks) + 1):
        if at == len(blocks) or blocks[at] != blocks[at - 1] + 1:
            yield blocks[begin], begin, at - begin
            begin = at
