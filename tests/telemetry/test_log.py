"""Log lines: the line of every request is written as any other would be, and the clock is read right."""

import sys
import time
from io import StringIO

from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.facts import Answered
from jedlik.core.ids import RequestId, WorkerId
from jedlik.core.trace import TraceContext
from jedlik.telemetry.log import Format, Log

SECONDS = st.floats(0, 1e5)
ANSWERED = st.builds(
    Answered,
    request_id=st.text(max_size=8).map(RequestId),
    choice=st.integers(0, 3),
    outcome=st.sampled_from(["stop", "length", "overloaded"]),
    prompt_tokens=st.integers(0, 9000),
    cached_tokens=st.integers(0, 9000),
    output_tokens=st.integers(0, 9000),
    attempts=st.integers(0, 3),
    queued_s=st.none(),
    ttft_s=st.none() | SECONDS,
    duration_s=SECONDS,
    tenant=st.sampled_from(["", "a tenant"]),
    model=st.sampled_from(["", "m"]),
    worker=st.none() | st.just(WorkerId("w@1")),
    pool=st.sampled_from(["", "chat"]),
    trace=st.none() | st.just(TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
)


def fields_of(fact: Answered) -> dict[str, object]:
    """In the order in which they are told."""
    return {
        "request_id": fact.request_id,
        "choice": fact.choice or None,
        "outcome": fact.outcome,
        "prompt_tokens": fact.prompt_tokens,
        "cached_tokens": fact.cached_tokens,
        "output_tokens": fact.output_tokens,
        "attempts": fact.attempts if fact.attempts > 1 else None,
        "ttft_s": fact.ttft_s,
        "duration_s": fact.duration_s,
        "tenant": fact.tenant or None,
        "model": fact.model or None,
        "pool": fact.pool or None,
        "worker": fact.worker,
        "trace_id": fact.trace and fact.trace.trace_id,
    }


@given(ANSWERED, st.sampled_from(["human", "json"]))
def test_the_line_of_a_request_is_like_any_other(fact: Answered, form: Format) -> None:
    short, long = StringIO(), StringIO()
    Log("gateway", form, short, lambda: 0.5).answered(fact)
    Log("gateway", form, long, lambda: 0.5).line("answered", **fields_of(fact))
    assert short.getvalue() == long.getvalue()
    assert short.getvalue().count("\n") == 1


@given(st.text(max_size=4))
def test_a_value_is_quoted_if_it_has_white_space_or_cannot_be_printed(text: str) -> None:
    stream = StringIO()
    Log("w", "human", stream, lambda: 0.0).line("said", value=text)
    bare = stream.getvalue().endswith(f"said value={text}\n")
    assert bare == all(c.isprintable() and not c.isspace() for c in text)


def test_the_time_follows_the_clock_from_second_to_second() -> None:
    times, stream = [86399.999, 86399.9995, 86400.0, 3.25], StringIO()
    ticks = iter(times)
    log = Log("w", "human", stream, lambda: next(ticks))
    for _ in times:
        log.line("tick")
    told = [line.split()[0] for line in stream.getvalue().splitlines()]
    assert told == [time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at % 1 * 1000):03d}" for at in times]


def test_there_are_no_white_spaces_but_the_blank_that_are_printable() -> None:
    assert [c for c in map(chr, range(sys.maxunicode + 1)) if c.isspace() and c.isprintable()] == [" "]
