"""The frame parser under any split, and under any bytes."""

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.ids import Handle
from jedlik.core.protocol import Ack, Cancel
from jedlik.core.wire import MAX_FRAME_BYTES, WireError, decode_to_worker, encode
from jedlik.net.frames import FrameParser

messages = st.lists(
    st.one_of(
        st.builds(Cancel, st.lists(st.integers(0, 2**32).map(Handle), max_size=40)),
        st.builds(Ack, st.lists(st.integers(0, 9).map(Handle)), st.lists(st.integers(0, 9))),
    ),
    max_size=12,
)


@given(messages, st.lists(st.integers(0, 2000), max_size=20))
def test_any_split_gives_the_same_frames(sent: list[Cancel | Ack], cuts: list[int]) -> None:
    stream = b"".join(map(encode, sent))
    edges = [0, *sorted(min(c, len(stream)) for c in cuts), len(stream)]
    parser, got = FrameParser(), []
    for start, end in pairwise(edges):
        got += [decode_to_worker(body) for body in parser.feed(stream[start:end])]
        parser.check()
    assert got == sent


@given(st.lists(st.binary(max_size=64), max_size=20))
def test_any_bytes_give_frames_or_a_wire_error(chunks: list[bytes]) -> None:
    parser = FrameParser()
    with contextlib.suppress(WireError):
        for chunk in chunks:
            for body in parser.feed(chunk):
                decode_to_worker(body)


def test_a_length_over_the_cap_is_refused_before_its_body_comes() -> None:
    with pytest.raises(WireError, match="at most"):
        FrameParser().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big") + b"\x01")


def test_another_version_is_refused() -> None:
    with pytest.raises(WireError, match="version 99"):
        FrameParser().feed(bytes((0, 0, 0, 1, 99, 0)))
