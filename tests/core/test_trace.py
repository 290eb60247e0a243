"""The trace context of a request: valid headers are passed on, all others are as if they were not there."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.trace import MAX_MEMBERS, TraceContext, trace_of

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEX = "0123456789abcdef"
KEYS = st.from_regex(re.compile(r"[a-z0-9][a-z0-9_\-*/@]{0,9}", re.ASCII), fullmatch=True)
VALUES = st.text("!#$%&'()*+-./:;<>?@[]^_`{|}~azAZ09", min_size=1, max_size=12)


def headers(parent: str | bytes, *states: str) -> list[tuple[bytes, bytes]]:
    raw = parent if isinstance(parent, bytes) else parent.encode()
    return [(b"traceparent", raw), *((b"tracestate", state.encode()) for state in states)]


@given(
    st.text(HEX, min_size=32, max_size=32).filter(lambda text: set(text) != {"0"}),
    st.text(HEX, min_size=16, max_size=16).filter(lambda text: set(text) != {"0"}),
    st.text(HEX, min_size=2, max_size=2),
    st.dictionaries(KEYS, VALUES, max_size=MAX_MEMBERS),
)
def test_a_valid_context_is_passed_on_as_it_came(trace: str, span: str, flags: str, members: dict[str, str]) -> None:
    parent = f"00-{trace}-{span}-{flags}"
    state = ",".join(f"{key}={value}" for key, value in members.items())
    found = trace_of([(b"host", b"x"), *headers(parent, state)])
    assert found == TraceContext(parent, state)
    assert found is not None
    assert found.trace_id == trace


@given(st.binary(max_size=80), st.lists(st.binary(max_size=40), max_size=3))
def test_whatever_comes_is_valid_or_ignored(parent: bytes, states: list[bytes]) -> None:
    raw = [(b"traceparent", parent), *((b"tracestate", state) for state in states)]
    found = trace_of(raw)
    assert found is None or trace_of(headers(found.parent, found.state)) == found


@given(st.integers(0, len(PARENT) - 1), st.characters(codec="latin-1"))
def test_one_wrong_character_is_no_context_but_for_other_digits(at: int, character: str) -> None:
    changed = PARENT[:at] + character + PARENT[at + 1 :]
    found = trace_of([(b"traceparent", changed.encode("latin-1"))])
    valid = re.fullmatch(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", changed) and not changed.startswith("ff")
    assert (found is not None) == bool(valid)


@pytest.mark.parametrize(
    "parent",
    [
        "",
        PARENT.upper(),
        PARENT + "-",
        PARENT + "-01",
        "ff" + PARENT[2:],
        "00-" + "0" * 32 + PARENT[35:],
        PARENT[:36] + "0" * 16 + "-01",
        PARENT[:-1],
        "cc" + PARENT[2:] + "x",
    ],
)
def test_contexts_that_the_recommendation_refuses(parent: str) -> None:
    assert trace_of(headers(parent, "a=1")) is None


def test_a_later_version_is_read_and_passed_on_as_version_00() -> None:
    assert trace_of(headers("cc" + PARENT[2:-2] + "ff-what-comes-later")) == TraceContext(PARENT[:-2] + "03")


def test_two_parents_are_none() -> None:
    assert trace_of(headers(PARENT) + headers(PARENT)) is None


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((), ""),
        (("rojo=1,congo=t61",), "rojo=1,congo=t61"),
        (("rojo=1", "congo=t61"), "rojo=1,congo=t61"),
        ((" rojo=1 , ,congo=t61\t",), "rojo=1,congo=t61"),
        (("tenant@system=a b",), "tenant@system=a b"),
        (("rojo=1,rojo=2",), ""),
        (("Rojo=1",), ""),
        (("rojo=1=2",), ""),
        (("rojo",), ""),
        ((",".join(f"k{n}=v" for n in range(33)),), ""),
        (("k" * 256 + "=" + "v" * 256,), "k" * 256 + "=" + "v" * 256),
        (("k=" + "v" * 257,), ""),
    ],
)
def test_lists_of_vendors(states: tuple[str, ...], expected: str) -> None:
    assert trace_of(headers(PARENT, *states)) == TraceContext(PARENT, expected)
