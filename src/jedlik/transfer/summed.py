"""Blocks on a stream, each with a checksum: the bytes, a piece at a time, then the checksums of all of them.

A piece is summed right after it was sent or received, while it is in the processor's cache. Summed before it is sent,
it would keep the receiver waiting: measured.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from xxhash import xxh3_64, xxh3_64_intdigest

from jedlik.transfer.messages import Wire
from jedlik.transfer.store import Done

PIECE_BYTES = 1 << 20


class Sums:
    """Of blocks that come piece by piece, in order."""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._part = xxh3_64()
        self._part_bytes = 0
        self.values: list[int] = []

    def add(self, piece: Sequence[memoryview]) -> None:
        """Whole blocks, or one part of one block."""
        if len(piece[0]) == self._block_bytes:
            self.values += map(xxh3_64_intdigest, piece)
            return
        self._part.update(piece[0])
        self._part_bytes += len(piece[0])
        if self._part_bytes == self._block_bytes:
            self.values.append(self._part.intdigest())
            self._part.reset()
            self._part_bytes = 0


def pieces(blocks: Sequence[memoryview]) -> Iterator[Sequence[memoryview]]:
    """Several whole blocks, or a part of a large one."""
    size = len(blocks[0]) if blocks else 1
    together = PIECE_BYTES // size
    if together:
        for at in range(0, len(blocks), together):
            yield blocks[at : at + together]
        return
    for block in blocks:
        for at in range(0, size, PIECE_BYTES):
            yield (block[at : at + PIECE_BYTES],)


def send_blocks(wire: Wire, blocks: Sequence[memoryview]) -> None:
    """All of one size. Raises PeerError."""
    if not blocks:
        return
    sums = Sums(len(blocks[0]))
    for piece in pieces(blocks):
        wire.send_bytes(*piece)
        sums.add(piece)
    wire.send_bytes(np.array(sums.values, "<u8").view(np.uint8).data)


def receive_blocks(wire: Wire, blocks: Sequence[memoryview]) -> Done:
    """How many of the first blocks are what was sent. Raises PeerError."""
    if not blocks:
        return 0, ""
    sums = Sums(len(blocks[0]))
    for piece in pieces(blocks):
        wire.receive_into(*piece)
        sums.add(piece)
    expected = np.empty(len(blocks), "<u8")
    wire.receive_into(expected.view(np.uint8).data)
    wrong = np.flatnonzero(expected != np.array(sums.values, "<u8"))
    return (int(wrong[0]), "corrupt") if len(wrong) else (len(blocks), "")
