"""Bodies: their type, their coding, and how much of one is ever held or unpacked."""

import asyncio
import gzip
import tracemalloc
import zlib

import pytest

from jedlik.core.errors import RequestError
from jedlik.frontend.content import check_json, whole

TEXT = b'{"a": 1}'


def read(body: bytes, headers: dict[bytes, bytes], limit: int = 1 << 20, size: int = 1 << 16) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]

    async def part() -> tuple[bytes, bool]:
        return parts.pop(0), bool(parts)

    return asyncio.run(whole(headers, part, limit))


def refused(body: bytes, coding: bytes, limit: int = 1 << 20) -> int:
    with pytest.raises(RequestError) as caught:
        read(body, {b"content-encoding": coding}, limit)
    return caught.value.status


@pytest.mark.parametrize("coding", [b"gzip", b"GZIP", b"x-gzip", b"gzip, identity", b" identity ,gzip ", b"gzip,"])
def test_gzip_is_unpacked(coding: bytes) -> None:
    assert read(gzip.compress(TEXT), {b"content-encoding": coding}) == TEXT
    for size in (1, 7):
        assert read(gzip.compress(TEXT * 999), {b"content-encoding": coding}, size=size) == TEXT * 999


@pytest.mark.parametrize("coding", [b"", b"identity", b"identity, identity"])
def test_what_is_not_packed(coding: bytes) -> None:
    assert read(TEXT, {b"content-encoding": coding}) == TEXT


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"deflate", b"gzip, gzip", b"gzip, br", b"gzip;q=1", b"*", b"\xff"])
def test_other_codings_are_named(coding: bytes) -> None:
    assert refused(gzip.compress(TEXT), coding) == 415


@pytest.mark.parametrize(
    "body",
    [
        b"", TEXT, gzip.compress(TEXT)[:-1], gzip.compress(TEXT)[:5], gzip.compress(TEXT) + b"x",
        gzip.compress(TEXT) * 2, zlib.compress(TEXT), gzip.compress(TEXT)[:-8] + bytes(8), b"\x1f\x8b" + bytes(100),
    ],
)  # fmt: skip
def test_what_is_no_gzip(body: bytes) -> None:
    assert refused(body, b"gzip") == 400


def test_a_bomb_costs_no_more_than_the_limit() -> None:
    bomb = gzip.compress(bytes(256 << 20))
    tracemalloc.start()
    try:
        assert refused(bomb, b"gzip", limit=1 << 20) == 413
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_limits_are_the_same_packed_or_not() -> None:
    exact = bytes(1000)
    for body, coding in ((exact, b""), (gzip.compress(exact), b"gzip")):
        assert read(body, {b"content-encoding": coding}, limit=1000) == exact
        assert refused(body, coding, limit=999) == 413
    with pytest.raises(RequestError):
        read(b"", {b"content-length": b"1001"}, limit=1000)


def test_others_have_their_turns_while_a_body_is_unpacked() -> None:
    body = gzip.compress(bytes(4 << 20))
    turns = 0

    async def part() -> tuple[bytes, bool]:
        return body, False

    async def scenario() -> None:
        nonlocal turns
        reading = asyncio.create_task(whole({b"content-encoding": b"gzip"}, part, 8 << 20))
        while not reading.done():
            turns += 1
            await asyncio.sleep(0)

    asyncio.run(scenario())
    assert turns > 50


@pytest.mark.parametrize(
    "kind", [b"application/json", b"Application/JSON; charset=UTF-8", b'application/json;charset="utf-8"']
)
def test_json(kind: bytes) -> None:
    check_json({b"content-type": kind})


@pytest.mark.parametrize(
    "kind",
    [
        b"", b"text/plain", b"text/plain; application/json", b"text/plain+json", b"multipart/form-data+json",
        b"application/x-www-form-urlencoded", b"application/jsonx", b"application/json, text/plain",
        b"application/json; charset=utf-16", b"\xff",
    ],
)  # fmt: skip
def test_what_a_page_could_send_unasked_is_no_json(kind: bytes) -> None:
    for headers in ({b"content-type": kind}, {} if not kind else {b"content-type": kind}):
        with pytest.raises(RequestError) as caught:
            check_json(headers)
        assert caught.value.status == 415
