"""Qwen-Bailian traces: one JSON object per line, turns of chats that name the turn before them; blocks of 16 tokens."""

from collections.abc import Iterator

import msgspec

from jedlik.sim.workload.reading import Number, ReadRequest, Source
from jedlik.sim.workload.trace import BlockIds, Trace

BLOCK_TOKENS, PER_S = 16, 1


class BailianLine(msgspec.Struct, frozen=True, kw_only=True):
    chat_id: int
    timestamp: Number
    """The time of arrival in seconds."""
    input_length: Number
    output_length: Number
    hash_ids: BlockIds
    parent_chat_id: int = -1
    """-1: the first turn of its chat."""


def read(source: Source, block_tokens: int | None = None) -> Trace:
    """All of it, at the recorded times. Raises ConfigError with the line that is broken."""
    size = block_tokens or BLOCK_TOKENS
    return Trace(source.ordered(requests(source, size), PER_S), size)


def requests(source: Source, block_tokens: int) -> Iterator[ReadRequest]:
    roots: dict[int, int] = {}
    for number, line in source.records(BailianLine):
        parent = line.parent_chat_id
        root = roots[line.chat_id] = line.chat_id if parent < 0 else roots.get(parent, parent)
        at = source.moment(number, "timestamp", line.timestamp)
        lengths = source.lengths(number, line.input_length, line.output_length)
        ids = source.whole(number, line.hash_ids, lengths[0], block_tokens)
        yield ReadRequest(number, at, lengths, ids, str(root))
