"""Azure's inference traces: CSV of times and lengths, with date-times as published or in ms from the start.

Nothing is known of what prompts have in common, so they have nothing in common.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from jedlik.sim.workload.reading import Source
from jedlik.sim.workload.trace import Fresh, Row, Trace

PIECE_TOKENS = 512
PUBLISHED = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
RELATIVE = ("timestamp_ms", "input_length", "output_length")


def read(source: Source) -> Trace:
    """All of it. Raises ConfigError with the line that is broken."""
    published = source.first_line().lstrip(b"\xef\xbb\xbf").startswith(b"TIMESTAMP")
    timed = dated(source) if published else relative(source)
    return Trace(source.ordered(rows(source, timed)), PIECE_TOKENS)


def rows(source: Source, timed: Iterator[tuple[int, float, str, str]]) -> Iterator[Row]:
    fresh = Fresh(PIECE_TOKENS)
    for line, at_s, prompt, answer in timed:
        lengths = (source.length(line, "input", prompt), source.length(line, "output", answer))
        yield source.row(line, at_s, lengths, fresh.ids(lengths[0]))


def relative(source: Source) -> Iterator[tuple[int, float, str, str]]:
    for line, (at_ms, prompt, answer) in source.columns(RELATIVE):
        yield line, source.number(line, "timestamp_ms", at_ms) / 1000, prompt, answer


def dated(source: Source) -> Iterator[tuple[int, float, str, str]]:
    """Times since the earliest request."""
    found = [
        (line, moment(source, line, at), prompt, answer) for line, (at, prompt, answer) in source.columns(PUBLISHED)
    ]
    start = min((at for _, at, _, _ in found), default=None)
    for line, at, prompt, answer in found:
        yield line, (at - (start or at)).total_seconds(), prompt, answer


def moment(source: Source, line: int, text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise source.broken(line, f"TIMESTAMP is {text!r}, not a date and time like 2023-11-16 18:15:46.68") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
