"""Mooncake traces: one JSON object per line, with the prefix-chained ids of the prompt's blocks."""

from collections.abc import Iterator

import msgspec

from jedlik.sim.workload.reading import Source
from jedlik.sim.workload.trace import BlockIds, Row, Trace

BLOCK_TOKENS = 512


class Request(msgspec.Struct, frozen=True):
    timestamp: float
    """ms."""
    input_length: int
    output_length: int
    hash_ids: BlockIds


def read(source: Source, block_tokens: int | None = None) -> Trace:
    """All of it. Raises ConfigError with the line that is broken."""
    size = block_tokens or BLOCK_TOKENS
    return Trace(source.ordered(rows(source, size)), size)


def rows(source: Source, block_tokens: int) -> Iterator[Row]:
    for line, request in source.records(Request):
        lengths = (request.input_length, request.output_length)
        ids = source.whole(line, request.hash_ids, lengths[0], block_tokens)
        yield source.row(line, request.timestamp / 1000, lengths, ids)
