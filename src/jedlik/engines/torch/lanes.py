"""The engine's state of each lane: token history, block table, length, in arrays that live as long as the engine.

A step changes a few entries; nothing is rebuilt. Rows of closed lanes keep stale content that nobody reads.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from jedlik.core.errors import Bug
from jedlik.core.ids import BlockIndex, Lane
from jedlik.core.step import Open

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
SPARE_TOKENS = 2
"""A sequence that has ended may be decoded once more before it is closed; its dead token needs a place."""


class Lanes:
    """Histories and block tables of up to `count` sequences of at most `max_model_len` tokens."""

    def __init__(self, count: int, max_model_len: int, block_size: int) -> None:
        length = max_model_len + SPARE_TOKENS
        self.block_size = block_size
        self.history: Ints = np.zeros((count, length), np.int32)
        self.tables: Ints = np.zeros((count, -(-length // block_size)), np.int32)
        self.length: Longs = np.zeros(count, np.int64)
        self.prompt_length: Longs = np.zeros(count, np.int64)
        self._blocks = [0] * count
        self._open = [False] * count

    def open(self, opened: Open) -> None:
        """Take a lane with a history and an empty table. Raises Bug if it is taken or the history is too long."""
        lane = opened.lane
        ids = np.frombuffer(opened.prompt + opened.output, np.uint32)
        if self._open[lane] or len(ids) > self.history.shape[1]:
            room = self.history.shape[1]
            raise Bug(f"lane {lane}: open={self._open[lane]}, {len(ids)} tokens, room for {room}")
        self._open[lane] = True
        self.history[lane, : len(ids)] = ids
        self.length[lane] = len(ids)
        self.prompt_length[lane] = len(opened.prompt) // 4
        self.tables[lane] = 0
        self._blocks[lane] = 0

    def close(self, lane: Lane) -> None:
        """Close a lane. Raises Bug if it is not open."""
        if not self._open[lane]:
            raise Bug(f"lane {lane} closed but not open")
        self._open[lane] = False

    def extend(self, lane: Lane, blocks: Sequence[BlockIndex]) -> None:
        """Append blocks to a lane's table."""
        at = self._blocks[lane]
        if not self._open[lane] or at + len(blocks) > self.tables.shape[1]:
            raise Bug(f"lane {lane}: table of {at} blocks can't take {len(blocks)} more (open={self._open[lane]})")
        self.tables[lane, at : at + len(blocks)] = blocks
        self._blocks[lane] = at + len(blocks)

    def append(self, lanes: Longs, tokens: Longs) -> None:
        """Append one new token to each of several different lanes."""
        self.history[lanes, self.length[lanes]] = tokens
        self.length[lanes] += 1

    def output_length(self, lanes: Longs) -> Longs:
        """Return the number of output tokens so far, which is the output position that comes next."""
        return self.length[lanes] - self.prompt_length[lanes]

    def check(self) -> None:
        """Assert that tables hold as many blocks as they say, and histories at least their prompts."""
        for lane, is_open in enumerate(self._open):
            if is_open:
                assert self.length[lane] >= self.prompt_length[lane] > 0
                assert (self.tables[lane, self._blocks[lane] :] == 0).all()
