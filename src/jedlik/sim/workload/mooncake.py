"""Mooncake traces: one JSON object per line, with the prefix-chained ids of the prompt's blocks."""

from collections.abc import Iterator

import msgspec

from jedlik.sim.workload.reading import Number, ReadRequest, Source
from jedlik.sim.workload.trace import BlockIds, Trace

BLOCK_TOKENS, PER_S = 512, 1000


class MooncakeLine(msgspec.Struct, frozen=True):
    timestamp: Number
    """The time of arrival in milliseconds."""
    input_length: Number
    output_length: Number
    hash_ids: BlockIds


def read(source: Source, block_tokens: int | None = None) -> Trace:
    """All of it. Raises ConfigError with the line that is broken."""
    size = block_tokens or BLOCK_TOKENS
    return Trace(source.ordered(requests(source, size), PER_S), size)


def requests(source: Source, block_tokens: int) -> Iterator[ReadRequest]:
    for number, line in source.records(MooncakeLine):
        at = source.moment(number, "timestamp", line.timestamp)
        lengths = source.lengths(number, line.input_length, line.output_length)
        yield ReadRequest(number, at, lengths, source.whole(number, line.hash_ids, lengths[0], block_tokens))
