"""Tables of requests: CSV of times and lengths as Azure, BurstGPT, Vidur and others name them.

Nothing is known of what prompts have in common, so they have nothing in common. Failed requests (no tokens in the
answer) are simulated with one token.
"""

from collections.abc import Iterator, Mapping, Sequence

from jedlik.sim.workload.reading import ReadRequest, Source
from jedlik.sim.workload.trace import Fresh, Trace

PIECE_TOKENS = 512
TIMES: Mapping[str, int] = {
    f"{name}{unit}": per_s
    for name in ("timestamp", "arrived_at", "arrival_time", "arrival", "time")
    for unit, per_s in {"_ms": 10**3, "_s": 1, "": 1, "_us": 10**6, "_ns": 10**9}.items()
}
"""Columns of times, and how many of their unit are a second."""
PROMPTS = (
    "input_length", "input_tokens", "contexttokens", "context_tokens", "request_tokens", "prompt_tokens",
    "prompt_length", "num_prefill_tokens",
)  # fmt: skip
ANSWERS = (
    "output_length", "output_tokens", "generatedtokens", "generated_tokens", "response_tokens", "completion_tokens",
    "response_length", "num_decode_tokens",
)  # fmt: skip
SESSIONS = ("session_id", "session", "conversation_id")


def known(header: Sequence[str]) -> bool:
    """Whether these columns may be such a table's: there are lengths."""
    return any(name in header for name in (*PROMPTS, *ANSWERS))


def read(source: Source) -> Trace:
    """All of it, of every model in it. Raises ConfigError with the line that is broken."""
    line, header = source.header()
    meanings = {"times": tuple(TIMES), "prompts' lengths": PROMPTS, "answers' lengths": ANSWERS}
    names = [named(source, line, header, *meaning) for meaning in meanings.items()]
    session = next((name for name in SESSIONS if name in header), SESSIONS[0])
    return Trace(source.ordered(requests(source, names, session), TIMES[names[0]]), PIECE_TOKENS)


def named(source: Source, line: int, header: Sequence[str], meaning: str, names: Sequence[str]) -> str:
    """The column that is there."""
    found = next((name for name in names if name in header), None)
    if found is None:
        remedy = f"add it, or name it {names[0]} (docs/simulator.md lists other names)"
        raise source.broken(line, f"no column of {meaning} among {', '.join(header)}", remedy)
    return found


def requests(source: Source, names: Sequence[str], session: str) -> Iterator[ReadRequest]:
    fresh, (time, prompt, answer) = Fresh(PIECE_TOKENS), names
    for line, (at, tokens, output_tokens, of) in source.columns(names, optional=(session,)):
        lengths = source.lengths(line, tokens, output_tokens, (prompt, answer))
        yield ReadRequest(line, source.moment(line, time, at), lengths, fresh.ids(lengths[0]), of)
