"""Comparing blocks as numbers."""

from typing import Any

import numpy as np
import pytest

from jedlik.transfer.region import Mapped, differing


def region(blocks: list[Any]) -> Mapped:
    data = np.concatenate([block.view(np.uint8) for block in blocks])
    return Mapped(data, blocks[0].nbytes)


def test_rounding_is_no_difference_and_anything_else_is() -> None:
    rng = np.random.default_rng(1)
    one = rng.normal(size=512).astype(np.float32)
    rounded = (one * (1 + 1e-3 * rng.normal(size=512))).astype(np.float32)
    other = rng.normal(size=512).astype(np.float32)
    broken = one.copy()
    broken[7] = np.nan
    memory = region([one, rounded, other, broken, np.zeros(512, np.float32)])
    assert differing(memory, [0, 0, 0, 0], [1, 2, 3, 4], "float32") == 3
    assert differing(memory, [0], [0], "float32") == 0
    assert differing(memory, [4], [4], "float32") == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_as_what_it_is(dtype: str) -> None:
    values = np.linspace(-3, 3, 256, dtype=np.float32)
    one: Any
    near: Any
    if dtype == "float16":
        one, near = values.astype(np.float16), (values * 1.002).astype(np.float16)
    else:
        one, near = ((v.view(np.uint32) >> 16).astype(np.uint16) for v in (values, (values * 1.002).astype(np.float32)))
    memory = region([one, near, one[::-1].copy()])
    assert differing(memory, [0, 0], [1, 2], dtype) == 1


def test_unknown_numbers_are_compared_bit_by_bit() -> None:
    memory = region([np.arange(64, dtype=np.uint8), np.arange(64, dtype=np.uint8), np.arange(1, 65, dtype=np.uint8)])
    assert differing(memory, [0, 0], [1, 2], "float8_e4m3fn") == 1
