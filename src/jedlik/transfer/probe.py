"""What a way costs: short trials of two shapes, best of three, as seconds = blocks * block_s + bytes * byte_s.

Trials go into memory that nobody's blocks are in. On a busy machine they say too much; what moves corrects them.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from jedlik.core.errors import PeerError
from jedlik.core.moves import PathCosts, StoredRun
from jedlik.transfer.arena import SCRATCH_BYTES
from jedlik.transfer.region import Copier, Mapped
from jedlik.transfer.store import Store

SMALL_BYTES = 64 << 10
SHAPES = ((1, SMALL_BYTES), (SCRATCH_BYTES // SMALL_BYTES, SMALL_BYTES), (1, SCRATCH_BYTES))
"""(parts, bytes of each): one small block, many, and as many bytes in one."""
TRIES = 3
READ_BLOCKS = 8
Trial = Callable[[int, int], float]
"""Parts, bytes of each; seconds. Raises PeerError."""


def probe(path: str, trial: Trial) -> PathCosts:
    """Measure a way; where it fails, it is told as closed."""
    try:
        times = [min(trial(*shape) for _ in range(TRIES)) for shape in SHAPES]
    except PeerError:
        return PathCosts(path, 0.0, 0.0, open=False)
    return fitted(path, times)


def fitted(path: str, times: Sequence[float]) -> PathCosts:
    """From the seconds of each shape. The many small blocks tell what a block costs, the one large one what bytes do.

    Noise must not make either negative: a large copy that took longer than the same bytes in blocks costs bytes only.
    """
    _, many, large = times
    blocks, size_bytes = SHAPES[1][0], SCRATCH_BYTES
    byte_s = min(many, large) / size_bytes
    block_s = max(0.0, many - large) / blocks
    return PathCosts(path, block_s, byte_s)


class CopyTrial:
    """Copies inside this worker, in memory of its own."""

    def __init__(self, copier: Copier) -> None:
        self._copier = copier
        self._source, self._target = (np.ones(SCRATCH_BYTES, np.uint8) for _ in range(2))

    def __call__(self, count: int, part_bytes: int) -> float:
        source, target = (Mapped(array[: count * part_bytes], part_bytes) for array in (self._source, self._target))
        order = list(range(count))
        began_s = time.perf_counter()
        self._copier.copy(source, order[::2] + order[1::2], target, order)
        return time.perf_counter() - began_s


def reading_costs(store: Store, runs: Sequence[StoredRun], block_bytes: int) -> PathCosts | None:
    """What reading takes from a store that has something: its first blocks, best of three. None: it could not be told.

    Of an empty one there is nothing to read; what is written to it will say something.
    """
    if not runs:
        return None
    ids, slots = runs[0].ids[:READ_BLOCKS], runs[0].slots[:READ_BLOCKS]
    buffers = [memoryview(bytearray(block_bytes)) for _ in ids]
    times = []
    for _ in range(TRIES):
        began_s = time.perf_counter()
        done, _ = store.read(slots, ids, buffers, lambda: False)
        times.append(time.perf_counter() - began_s)
        if done < len(ids):
            return None
    return PathCosts(store.kind, 0.0, min(times) / (len(ids) * block_bytes))
