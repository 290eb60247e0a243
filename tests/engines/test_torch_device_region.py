"""Blocks of a device's cache, read and written from the host, in any order and from several threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from jedlik.engines.torch import device_region
from jedlik.engines.torch.device_region import DeviceRegion

SIZE = 24


def region(blocks: int, monkeypatch: pytest.MonkeyPatch) -> tuple[DeviceRegion, torch.Tensor]:
    """At most three blocks go at a time, so that lists are cut."""
    monkeypatch.setattr(device_region, "STAGING_BYTES", 3 * SIZE)
    cache = (torch.arange(blocks * SIZE + 5) % 251).to(torch.uint8)
    return DeviceRegion(cache, SIZE), cache


@pytest.mark.parametrize("blocks", [[2], [1, 2, 3, 4, 5], [7, 3, 4, 0, 9, 8, 1]])
def test_what_is_read_is_there_and_what_is_written_is_read(blocks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    source, cache = region(10, monkeypatch)
    assert (source.blocks, source.block_bytes, source.mapped) == (10, SIZE, None)
    buffers = [bytearray(SIZE) for _ in blocks]
    source.read(blocks, [memoryview(buffer) for buffer in buffers])
    whole = bytes(cache.numpy().tobytes())
    assert buffers == [whole[block * SIZE : (block + 1) * SIZE] for block in blocks]
    target, written = region(10, monkeypatch)
    written.zero_()
    target.write(blocks, [memoryview(buffer) for buffer in buffers])
    for block in range(10):
        there = written.numpy().tobytes()[block * SIZE : (block + 1) * SIZE]
        assert there == (whole[block * SIZE : (block + 1) * SIZE] if block in blocks else bytes(SIZE))


def test_threads_do_not_mix_their_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    source, cache = region(64, monkeypatch)
    whole = cache.numpy().tobytes()

    def one(block: int) -> bool:
        buffer = bytearray(SIZE)
        for _ in range(50):
            source.read([block], [memoryview(buffer)])
        return bytes(buffer) == whole[block * SIZE : (block + 1) * SIZE]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(one, range(64)))
