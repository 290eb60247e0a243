"""Whether blocks hold the same numbers, up to rounding: two ways to compute one prefix differ in the last bits."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jedlik.transfer.region import Region

TOLERANCE = 0.05
"""Of the mean magnitude: blocks whose mean difference is more than this hold something else."""


def differing(region: Region, ones: Sequence[int], others: Sequence[int], dtype: str) -> int:
    """How many of the pairs of blocks differ by more than rounding. Of a dtype unknown here: in any bit."""
    size = region.block_bytes
    buffers = [bytearray(size), bytearray(size)]
    found = 0
    for pair in zip(ones, others, strict=True):
        region.read(pair, [memoryview(buffer) for buffer in buffers])
        found += _differ(*(numbers(bytes(buffer), dtype) for buffer in buffers))
    return found


def numbers(data: bytes, dtype: str) -> NDArray[np.float32] | NDArray[np.uint8]:
    """A block's values, [values]; bytes, where numpy has no such numbers."""
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
