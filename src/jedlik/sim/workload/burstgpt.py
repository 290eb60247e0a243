"""BurstGPT traces: CSV of times in seconds and lengths, with a session where the release has one.

Nothing is known of what prompts have in common. Failed requests (no response tokens) are simulated with one token.
"""

from collections.abc import Iterator

from jedlik.sim.workload.reading import Source
from jedlik.sim.workload.trace import Fresh, Row, Trace

PIECE_TOKENS = 512
NEEDED = ("Timestamp", "Request tokens", "Response tokens")


def read(source: Source) -> Trace:
    """All of it, of every model in it. Raises ConfigError with the line that is broken."""
    return Trace(source.ordered(rows(source)), PIECE_TOKENS)


def rows(source: Source) -> Iterator[Row]:
    fresh = Fresh(PIECE_TOKENS)
    for line, (at, prompt, answer, session) in source.columns(NEEDED, optional=("Session ID",)):
        lengths = (source.length(line, NEEDED[1], prompt), source.length(line, NEEDED[2], answer))
        yield source.row(line, source.number(line, "Timestamp", at), lengths, fresh.ids(lengths[0]), session)
