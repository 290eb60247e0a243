"""Blocks for the store tests: ids, data that tells them apart, and memory to read into, aligned or not."""

import hashlib
import mmap
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jedlik.core.ids import BlockId
from jedlik.core.moves import StoredRun
from jedlik.transfer.file import FileStore

MINE = b"fingerprint-mine"
OTHER = b"fingerprint-othe"


def never() -> bool:
    return False


def names(count: int, chain: str = "") -> list[BlockId]:
    return [BlockId(hashlib.blake2b(f"{chain}/{i}".encode(), digest_size=16).digest()) for i in range(count)]


def memory(count: int, size: int, off: int = 0) -> list[memoryview]:
    """`count` buffers in a row; they begin at multiples of 4096 if `size` is one and `off` is 0."""
    whole = memoryview(mmap.mmap(-1, count * size + off + 1))
    return [whole[off + i * size : off + (i + 1) * size] for i in range(count)]


def filled(count: int, size: int, seed: int = 0, off: int = 0) -> list[memoryview]:
    buffers, rng = memory(count, size, off), random.Random(seed)
    for buffer in buffers:
        buffer[:] = rng.randbytes(size)
    return buffers


def data(buffers: Sequence[memoryview]) -> list[bytes]:
    return [bytes(buffer) for buffer in buffers]


def fast_folder() -> Path:
    """Where syncing costs nothing, if the machine has such a place: most tests are not about the disk."""
    return Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


@contextmanager
def opened(
    folder: Path, slots: int = 16, size: int = 4096, fingerprint: bytes = MINE
) -> Iterator[tuple[FileStore, list[StoredRun]]]:
    store = FileStore(folder, slots, size, fingerprint)
    runs = store.open()
    try:
        yield store, runs
    finally:
        store.close()
