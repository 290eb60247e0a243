"""Memory that holds blocks, and copying blocks between such memories.

A copy of many small blocks holds the interpreter's lock and lets go of it once per mebibyte: letting go for each block
would cost up to 5 ms a block while another thread computes in Python, never letting go would stop the engine.
"""

import ctypes
import mmap
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jedlik.transfer.store import Done

Bytes = NDArray[np.uint8]
LETTING_GO_BYTES = 1 << 20
"""A copy without the interpreter's lock is made at least once in so many bytes."""
STAGING_BLOCKS = 16
TOLERANCE = 0.05
"""Blocks whose mean difference is more than this share of the mean magnitude hold something else.

Two ways to compute one prefix differ in the last bits.
"""

_Memmove = Callable[[int, int, int], int]


def _memmove(library: ctypes.CDLL) -> _Memmove:
    function = library.memmove
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t], ctypes.c_void_p
    return function


def trial_memory(size_bytes: int) -> Bytes:
    """Return memory full of ones for a trial. The kernel gets it back at once; an allocator would keep it by thread."""
    array = np.frombuffer(mmap.mmap(-1, max(size_bytes, 1)), np.uint8)[:size_bytes]
    array.fill(1)
    return array


class Region(Protocol):
    """Blocks of equal size. Indices are checked by whoever calls; called from several threads, never for one block."""

    @property
    def blocks(self) -> int: ...

    @property
    def block_bytes(self) -> int: ...

    @property
    def mapped(self) -> "Mapped | None":
        """The region where the host can address it; None: only `read` and `write` access it."""

    def read(self, blocks: Sequence[int], into: Sequence[memoryview]) -> None:
        """Copy blocks out. Returns when the bytes are there."""

    def write(self, blocks: Sequence[int], out_of: Sequence[memoryview]) -> None:
        """Copy blocks in. Returns when the bytes are there."""


class Mapped:
    """Blocks one behind the other in addressable memory: block i begins at i * block_bytes."""

    def __init__(self, array: Bytes, block_bytes: int) -> None:
        """`array`: [bytes], a whole number of blocks, C-contiguous. It is kept alive by this."""
        if block_bytes < 1 or array.nbytes % block_bytes:
            raise ValueError(f"{array.nbytes} bytes are no whole number of blocks of {block_bytes}")
        self.array = array
        self.block_bytes = block_bytes
        self.blocks = array.nbytes // block_bytes
        self.address = int(array.ctypes.data)
        self._view = array.data

    @property
    def mapped(self) -> "Mapped":
        return self

    def views(self, blocks: Sequence[int]) -> list[memoryview]:
        """Return one writable view per block."""
        size, view = self.block_bytes, self._view
        return [view[at * size : (at + 1) * size] for at in blocks]

    def run_views(self, blocks: Sequence[int]) -> list[memoryview]:
        """Return views of the same bytes in the same order, with neighbours joined."""
        size, view = self.block_bytes, self._view
        return [view[first * size : (first + count) * size] for first, count in neighbours(blocks)]

    def read(self, blocks: Sequence[int], into: Sequence[memoryview]) -> None:
        for source, target in zip(self.views(blocks), into, strict=True):
            target[:] = source

    def write(self, blocks: Sequence[int], out_of: Sequence[memoryview]) -> None:
        for target, source in zip(self.views(blocks), out_of, strict=True):
            target[:] = source


def neighbours(blocks: Sequence[int]) -> list[tuple[int, int]]:
    """Return maximal runs of consecutive indices, in order: (first, how many)."""
    runs: list[tuple[int, int]] = []
    first = last = -2
    for block in blocks:
        if block == last + 1:
            last = block
            continue
        if last >= 0:
            runs.append((first, last - first + 1))
        first = last = block
    if last >= 0:
        runs.append((first, last - first + 1))
    return runs


def paired_runs(sources: Sequence[int], targets: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return maximal runs that are consecutive on both sides: (source, target, how many)."""
    runs: list[tuple[int, int, int]] = []
    begin = 0
    for i in range(1, len(sources) + 1):
        if i < len(sources) and sources[i] == sources[i - 1] + 1 and targets[i] == targets[i - 1] + 1:
            continue
        runs.append((sources[begin], targets[begin], i - begin))
        begin = i
    return runs


class Copier:
    """Copies blocks from region to region."""

    def __init__(self) -> None:
        self._free = _memmove(ctypes.CDLL(None))
        self._locked = _memmove(ctypes.PyDLL(None))

    def copy(self, source: Region, source_blocks: Sequence[int], target: Region, target_blocks: Sequence[int]) -> None:
        """Copy the first block to the first, and so on. In one region, no block may be on both sides."""
        origin, destination = source.mapped, target.mapped
        if origin is not None and destination is not None:
            self._copy_mapped(origin, source_blocks, destination, target_blocks)
        elif origin is not None:
            target.write(target_blocks, origin.views(source_blocks))
        elif destination is not None:
            source.read(source_blocks, destination.views(target_blocks))
        else:
            self._copy_staged(source, source_blocks, target, target_blocks)

    def _copy_mapped(
        self, source: Mapped, source_blocks: Sequence[int], target: Mapped, target_blocks: Sequence[int]
    ) -> None:
        size, locked_bytes = source.block_bytes, 0
        for first, to, count in paired_runs(source_blocks, target_blocks):
            length = count * size
            locked_bytes += length
            move = self._locked
            if locked_bytes >= LETTING_GO_BYTES:
                move, locked_bytes = self._free, 0
            move(target.address + to * size, source.address + first * size, length)

    def _copy_staged(
        self, source: Region, source_blocks: Sequence[int], target: Region, target_blocks: Sequence[int]
    ) -> None:
        staging = staging_buffers(min(len(source_blocks), STAGING_BLOCKS), source.block_bytes)
        for at in range(0, len(source_blocks), STAGING_BLOCKS):
            some = source_blocks[at : at + STAGING_BLOCKS]
            source.read(some, staging[: len(some)])
            target.write(target_blocks[at : at + STAGING_BLOCKS], staging[: len(some)])


def staging_buffers(count: int, block_bytes: int) -> list[memoryview]:
    """Return buffers of one block each; every one begins at a multiple of 4096."""
    stride = -(-block_bytes // 4096) * 4096
    raw = np.empty(count * stride + 4096, np.uint8)
    skip = -raw.ctypes.data % 4096
    view = raw.data[skip:]
    return [view[i * stride : i * stride + block_bytes] for i in range(count)]


def views_to_read(region: Region, blocks: Sequence[int]) -> list[memoryview]:
    """Return one view per block: of its place, or of a copy where the host can't address the region."""
    if region.mapped is not None:
        return region.mapped.views(blocks)
    staging = staging_buffers(len(blocks), region.block_bytes)
    region.read(blocks, staging)
    return staging


def fill_blocks(region: Region, blocks: Sequence[int], fill: Callable[[list[memoryview]], Done]) -> Done:
    """Have blocks filled in their places, or in buffers of which the first that `fill` reports done are copied in."""
    if region.mapped is not None:
        return fill(region.mapped.views(blocks))
    staging = staging_buffers(len(blocks), region.block_bytes)
    done, cause = fill(staging)
    region.write(blocks[:done], staging[:done])
    return done, cause


def differing(region: Region, ones: Sequence[int], others: Sequence[int], dtype: str) -> int:
    """Return how many pairs of blocks differ by more than rounding; in any bit where the dtype is unknown here."""
    size = region.block_bytes
    buffers = [bytearray(size), bytearray(size)]
    found = 0
    for pair in zip(ones, others, strict=True):
        region.read(pair, [memoryview(buffer) for buffer in buffers])
        found += _differ(*(numbers(bytes(buffer), dtype) for buffer in buffers))
    return found


def numbers(data: bytes, dtype: str) -> NDArray[np.float32] | NDArray[np.uint8]:
    """Return a block's values, [values]; its bytes where numpy has no such numbers."""
    if dtype == "float32":
        return np.frombuffer(data, np.float32)
    if dtype == "float16":
        return np.frombuffer(data, np.float16).astype(np.float32)
    if dtype == "bfloat16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, np.uint8)


def _differ(one: NDArray[np.float32] | NDArray[np.uint8], other: NDArray[np.float32] | NDArray[np.uint8]) -> bool:
    if one.dtype == np.uint8:
        return bool(np.any(one != other))
    with np.errstate(invalid="ignore", over="ignore"):
        distance = float(np.mean(np.abs(one.astype(np.float64) - other)))
        scale = float(np.mean(np.abs(one.astype(np.float64))) + np.mean(np.abs(other.astype(np.float64)))) / 2
    return not distance <= TOLERANCE * scale  # NaN differs from everything
