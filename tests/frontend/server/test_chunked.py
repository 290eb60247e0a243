"""Chunked bodies, in any pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.errors import RequestError
from jedlik.frontend.server.chunked import MAX_LINE_BYTES, MOST_CHUNKS, Chunked


def decoded(raw: bytes, size: int = 1 << 20) -> tuple[bytes, bool, bytes]:
    """Content, whether the end was there, and what is behind it; given in pieces of `size`."""
    chunked, buffer, content = Chunked(), bytearray(), b""
    for at in range(0, len(raw), size):
        buffer += raw[at : at + size]
        more = True
        while more:
            part, more = chunked.take(buffer)
            content += part
    return content, chunked.over, bytes(buffer)


@given(parts=st.lists(st.binary(min_size=1, max_size=40), max_size=6), size=st.integers(1, 30))
def test_any_chunks_in_any_pieces(parts: list[bytes], size: int) -> None:
    raw = b"".join(b"%X;a=b\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\nTrailer: x\r\n\r\nGET /"
    content, over, behind = decoded(raw, size)
    assert (content, over) == (b"".join(parts), True)
    assert b"GET /".startswith(behind) or behind == b"GET /"


def test_trailers_and_extensions_are_read_over() -> None:
    raw = b'3 ; a="b"\r\nabc\r\n000;x\r\nauthorization: Bearer x\r\n\r\nrest'
    assert decoded(raw) == (b"abc", True, b"rest")


@pytest.mark.parametrize(
    "raw",
    [
        b"x\r\n", b"\r\n", b"-1\r\n", b"+3\r\nabc\r\n", b"0x3\r\nabc\r\n", b"3_0\r\n", b" 3\r\nabc\r\n", b"3\nabc\n",
        b"3\r\nabcd\r\n", b"3\r\nab\r\n\r\n", b"3\r\nabc0\r\n\r\n", b"f" * 16 + b"\r\n", b"3;a\x00\r\nabc\r\n",
        b"0\r\nno colon\r\n\r\n", b"0\r\n folded: x\r\n\r\n", b"0\r\na: b\n\r\n",
        b"1;" + b"a" * MAX_LINE_BYTES, b"0\r\n" + b"a: b\r\n" * 3000,
    ],
)  # fmt: skip
def test_what_is_no_chunk(raw: bytes) -> None:
    for size in (1, 7, 1 << 20):
        with pytest.raises(RequestError):
            decoded(raw, size)


def test_many_small_chunks_are_read_in_steps() -> None:
    buffer, chunked = bytearray(b"1\r\na\r\n" * MOST_CHUNKS + b"0\r\n\r\n"), Chunked()
    steps = 1
    while chunked.take(buffer)[1]:
        steps += 1
    assert steps == 3  # a chunk is two lines
    assert chunked.over
    assert not buffer
