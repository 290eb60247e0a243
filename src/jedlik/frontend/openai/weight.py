"""How much a body holds, counted before it is decoded: decoding happens at once, so what is decoded must be bounded.

Text costs a decoder next to nothing; objects, lists and fields cost hundreds of nanoseconds each, items of lists tens.
Where the plain counts are too high strings are left out, so that text that talks about JSON counts as text.
"""

from collections.abc import Iterator
from typing import TypeVar

from jedlik.core.errors import RequestError
from jedlik.frontend.json_body import Reader
from jedlik.frontend.turns import Steps

T = TypeVar("T")
SMALL_BYTES = 128 << 10
"""A body of this size is decoded in some milliseconds, whatever it holds."""
MOST_FIELDS = 80_000
"""Objects, lists and fields of a body."""
MOST_ITEMS = 1_000_000
"""Values of a body: several times the token ids of the longest context."""
STRETCH_BYTES = 1 << 16


def weighed(raw: bytes, reader: Reader[T]) -> Steps[T]:
    """The body, read. Raises RequestError, also if it holds too much to be read at once."""
    if len(raw) > SMALL_BYTES and (yield from _heavy(_stretches(raw))) and (yield from _heavy(_outside_strings(raw))):
        raise RequestError(
            f"The body holds more than {MOST_FIELDS} objects, lists and fields, or more than {MOST_ITEMS} values; "
            "send it in parts.",
            code="body_too_complex",
        )
    return (yield from reader.steps(raw))


def _heavy(stretches: Iterator[bytes]) -> Steps[bool]:
    fields = items = 0
    for stretch in stretches:
        fields += stretch.count(b"{") + stretch.count(b"[") + stretch.count(b":")
        items += stretch.count(b",")
        if fields > MOST_FIELDS or items > MOST_ITEMS:
            return True
        yield None
    return False


def _stretches(raw: bytes) -> Iterator[bytes]:
    for begin in range(0, len(raw), STRETCH_BYTES):
        yield raw[begin : begin + STRETCH_BYTES]


def _outside_strings(raw: bytes) -> Iterator[bytes]:
    """What belongs to no string. Without escapes every quotation mark begins or ends one."""
    inside = 0
    for stretch in _stretches(raw.replace(rb"\\", b"").replace(rb"\"", b"")):
        parts = stretch.split(b'"')
        yield b"".join(parts[inside::2])
        inside = (inside + len(parts) - 1) % 2
