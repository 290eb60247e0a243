"""The grid of steps that `jedlik profile` measures: cut to what there is room for, as tasks in order.

Lanes are filled by the very prefills that are measured, from short contexts to long ones, so that every decode attends
to keys and values that were computed: memory that was never written is faster than it should be.
"""

from itertools import product

import msgspec

from jedlik.core.errors import ConfigError

REPEATS = 3
"""Steps measured at a visit; and there are `PASSES` visits, so that what disturbs one of them is outvoted."""
PASSES = 3
MARGIN = 32
"""Tokens set aside for a lane beyond its context: what it decodes, and the rest of its last block."""
MIXED = 2
"""The number of batches and of lengths with which steps that prefill and decode are measured."""


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of the steps to measure. Every list ascends."""

    lengths: tuple[int, ...]
    """Tokens of a prefill, in one step."""
    contexts: tuple[int, ...]
    """Tokens a sequence has when it decodes; prefills are measured behind the longest too."""
    batches: tuple[int, ...]
    fill_tokens: int
    """Batch x context, at most: what filling may cost."""


CPU = Grid(lengths=(16, 64, 128, 256, 512), contexts=(64, 256, 1024), batches=(1, 2, 4, 8, 16, 32), fill_tokens=8192)
GPU = Grid(
    lengths=(64, 256, 512, 1024, 2048, 4096),
    contexts=(256, 1024, 4096),
    batches=(1, 2, 4, 8, 16, 32, 64),
    fill_tokens=65536,
)
ENDPOINT = Grid(lengths=(32, 128, 256, 512, 1024, 2048), contexts=(64, 512), batches=(1, 2, 4, 8, 16), fill_tokens=8192)


class GridTask(msgspec.Struct, frozen=True, omit_defaults=True):
    """One kind of step, several times: a prefill of `length` behind `start` tokens, a decode of `batch` sequences with
    `context` tokens each, or both in one step.
    """

    length: int = 0
    start: int = 0
    batch: int = 0
    context: int = 0

    @property
    def work_tokens(self) -> int:
        """Roughly what it takes, for a progress bar."""
        return self.length * 4 + self.batch * 8 + 32


class Room(msgspec.Struct, frozen=True):
    """The room of an engine."""

    max_model_len: int
    kv_tokens: int


def fitting(grid: Grid, room: Room) -> Grid:
    """The grid cut to a context length and a KV cache; the smallest of everything stays."""
    third = room.kv_tokens // 3 - MARGIN
    lengths = _up_to(grid.lengths, min(room.max_model_len // 2, third))
    contexts = _up_to(grid.contexts, min(room.max_model_len - lengths[-1] - MARGIN, third))
    return msgspec.structs.replace(grid, lengths=lengths, contexts=contexts)


def decodes(grid: Grid, room: Room) -> list[tuple[int, int]]:
    """(context, batch) of the decodes there is room for: short contexts first, so that lanes only grow."""
    found: list[tuple[int, int]] = []
    affordable_tokens = room.kv_tokens - grid.contexts[-1] - grid.lengths[-1] - MARGIN
    for context, batch in product(grid.contexts, grid.batches):
        affordable = batch == grid.batches[0] or batch * context <= grid.fill_tokens
        if affordable and sum(_lanes([*found, (context, batch)]).values()) <= affordable_tokens:
            found.append((context, batch))
    return found


def plan(grid: Grid, room: Room) -> list[GridTask]:
    """All tasks, in an order in which lanes only grow. Raises ConfigError if there is no room for any decode."""
    found = decodes(grid, room)
    if not found:
        raise ConfigError(
            f"no room for {grid.batches[0]} sequences of {grid.contexts[0]} tokens in a KV cache of {room.kv_tokens}: "
            "give smaller --batches or --contexts, or more --kv-cache-bytes"
        )
    shortest = [batch for context, batch in found if context == grid.contexts[0]]
    both = product(grid.lengths[-MIXED - 1 : -1], shortest[1::2][-MIXED:])
    return [
        *(GridTask(length, 0) for length in grid.lengths),
        *(GridTask(length, grid.contexts[-1]) for length in grid.lengths[1::2]),
        *(GridTask(0, 0, batch, context) for context, batch in found),
        *(GridTask(length, 0, batch, grid.contexts[0]) for length, batch in both),
    ]


def lane_tokens(grid: Grid, room: Room) -> list[int]:
    """Return the most tokens that each lane holds, the lane for prefills last."""
    lanes = _lanes(decodes(grid, room))
    return [lanes[lane] - MARGIN + 2 * REPEATS for lane in sorted(lanes)] + [grid.contexts[-1] + grid.lengths[-1]]


def _lanes(found: list[tuple[int, int]]) -> dict[int, int]:
    """Tokens by lane: contexts ascend, so the last is the longest."""
    return {lane: context + MARGIN for context, batch in found for lane in range(batch)}


def _up_to(values: tuple[int, ...], most: int) -> tuple[int, ...]:
    return tuple(value for value in values if value <= most) or (max(min(most, values[0]), 1),)
