"""Qwen-Bailian traces: one JSON object per line, turns of chats that name the turn before them; blocks of 16 tokens."""

from collections.abc import Iterator

import msgspec

from jedlik.sim.workload.reading import Source
from jedlik.sim.workload.trace import BlockIds, Row, Trace

BLOCK_TOKENS = 16


class Request(msgspec.Struct, frozen=True):
    chat_id: int
    timestamp: float
    """s."""
    input_length: int
    output_length: int
    hash_ids: BlockIds
    parent_chat_id: int = -1
    """-1: the first turn of its chat."""


def read(source: Source, block_tokens: int | None = None) -> Trace:
    """All of it, at the recorded times. Raises ConfigError with the line that is broken."""
    size = block_tokens or BLOCK_TOKENS
    return Trace(source.ordered(rows(source, size)), size)


def rows(source: Source, block_tokens: int) -> Iterator[Row]:
    roots: dict[int, int] = {}
    for line, request in source.records(Request):
        parent = request.parent_chat_id
        root = roots[request.chat_id] = request.chat_id if parent < 0 else roots.get(parent, parent)
        lengths = (request.input_length, request.output_length)
        ids = source.whole(line, request.hash_ids, lengths[0], block_tokens)
        yield source.row(line, request.timestamp, lengths, ids, str(root))
