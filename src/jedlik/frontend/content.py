"""A request's body in whole: within a limit, unpacked where it came packed, and JSON if that is what is wanted.

Packed bodies are unpacked a slice per turn of the event loop, and no further than the limit: a small body that would
become a huge one costs what the limit costs, and other clients wait for no more than a slice of it.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping

from jedlik.core.errors import RequestError
from jedlik.frontend.errors import HttpRefusal

PACKED_SLICE_BYTES, SLICE_BYTES = 4096, 64 << 10
GZIP = (b"gzip", b"x-gzip")
_GZIP_WINDOW = 31
"""zlib's way to say: with gzip's header and check sum."""
Part = Callable[[], Awaitable[tuple[bytes, bool]]]
"""The next part of a body, and whether more follows."""


def check_json(headers: Mapping[bytes, bytes]) -> None:
    """Raises RequestError (415) unless the request says that its body is JSON.

    Any web page can send a body whose type it leaves open; for JSON its browser asks us first.
    """
    kind, _, parameters = headers.get(b"content-type", b"").lower().partition(b";")
    charset = parameters.partition(b"charset=")[2].strip(b' "')
    if kind.strip() != b"application/json" or charset not in (b"", b"utf-8", b"utf8", b"us-ascii"):
        declared = headers.get(b"content-type", b"").decode("latin-1")[:80]
        raise RequestError(
            f"content-type must be application/json, not {declared!r} (curl: add -H 'content-type: application/json').",
            param="content-type", code="unsupported_media_type", status=415,
        )  # fmt: skip


async def whole(headers: Mapping[bytes, bytes], part: Part, limit_bytes: int) -> bytes:
    """Return the whole body. Raises RequestError: 413, 415 for a coding unknown here, 400 where unpacking fails."""
    packed = _packed(headers)
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and len(declared) < 19 and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    first, more = await part()
    parts, size = [first], len(first)
    while more and size <= limit_bytes:
        following, more = await part()
        parts.append(following)
        size += len(following)
    if size > limit_bytes:
        raise _too_large(limit_bytes)
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    return await _unpacked(body, limit_bytes) if packed else body


def _packed(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the body is gzip; `identity` says nothing (RFC 9110, 8.4)."""
    encoding = headers.get(b"content-encoding", b"").lower()
    codings = [one for part in encoding.split(b",") if (one := part.strip()) not in (b"", b"identity")]
    if len(codings) > 1 or any(one not in GZIP for one in codings):
        raise HttpRefusal(
            f"content-encoding {encoding[:80].decode('latin-1')!r} is not understood here; send gzip, once, or none.",
            param="content-encoding", code="unsupported_content_encoding", status=415,
            headers=((b"accept-encoding", b"gzip"),),
        )  # fmt: skip
    return bool(codings)


async def _unpacked(body: bytes, limit_bytes: int) -> bytes:
    unpack = zlib.decompressobj(_GZIP_WINDOW)
    parts: list[bytes] = []
    size = 0
    try:
        for at in range(0, len(body), PACKED_SLICE_BYTES):
            packed = body[at : at + PACKED_SLICE_BYTES]
            while packed and not unpack.eof:
                parts.append(unpack.decompress(packed, SLICE_BYTES))
                packed = unpack.unconsumed_tail
                size += len(parts[-1])
                if size > limit_bytes:
                    raise _too_large(limit_bytes)
                if size > SLICE_BYTES:
                    await asyncio.sleep(0)
            if unpack.eof:
                break
        parts.append(unpack.flush())
    except zlib.error as error:
        raise _not_gzip(str(error)) from None
    if not unpack.eof:
        raise _not_gzip("it ends too early")
    if unpack.unused_data or at + PACKED_SLICE_BYTES < len(body):
        raise _not_gzip("something follows its end")
    if size + len(parts[-1]) > limit_bytes:
        raise _too_large(limit_bytes)
    return b"".join(parts)


def _not_gzip(why: str) -> RequestError:
    return RequestError(f"The body is no valid gzip: {why}.", param="content-encoding", code="invalid_gzip")


def _too_large(limit_bytes: int) -> RequestError:
    return RequestError(f"The body is larger than {limit_bytes} bytes.", code="body_too_large", status=413)
