"""A chunked request body, decoded as it comes (RFC 9112, 7.1). Pure, linear, and strict: what it can't read is a 400.

Extensions of chunks and trailer fields are read over: trailers never become headers. Both are bounded.
"""

import re
from typing import Literal

from jedlik.core.errors import RequestError
from jedlik.frontend.server.head import bad

MOST_CHUNKS = 1000
"""No more chunks are read at one go: chunks of one byte would otherwise hold up everybody else."""
MAX_LINE_BYTES = 1024
MAX_TRAILER_BYTES = 8192
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*")


class Chunked:
    """One chunked body. `over`: its end has been read."""

    def __init__(self) -> None:
        self.over = False
        self._remaining = 0
        self._next: Literal["size", "end", "trailers"] = "size"
        self._trailer_bytes = 0

    def take(self, buffer: bytearray) -> tuple[bytes, bool]:
        """Consume the front of `buffer`: content, and whether more of it can be read at once. Raises RequestError."""
        content: list[bytes] = []
        at = chunks = 0
        while not self.over and chunks < MOST_CHUNKS:
            if self._remaining:
                piece = bytes(buffer[at : at + self._remaining])
                content.append(piece)
                at += len(piece)
                self._remaining -= len(piece)
                if self._remaining:
                    break
            end = buffer.find(b"\n", at, at + MAX_LINE_BYTES)
            if end < 0:
                if len(buffer) - at >= MAX_LINE_BYTES:
                    raise _broken("a line in it is too long")
                break
            if end == at or buffer[end - 1] != 13:
                raise _broken("a line ends without CR LF")
            self._line(bytes(buffer[at : end - 1]))
            at = end + 1
            chunks += 1
        del buffer[:at]
        return b"".join(content), chunks == MOST_CHUNKS and not self.over

    def _line(self, line: bytes) -> None:
        if self._next == "end":
            if line:
                raise _broken("a chunk is longer than its size")
            self._next = "size"
        elif self._next == "size":
            size = _SIZE.fullmatch(line)
            if size is None:
                raise _broken("a chunk has no valid size")
            self._remaining = int(size[1], 16)
            self._next = "end" if self._remaining else "trailers"
        elif not line:
            self.over = True
        else:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > MAX_TRAILER_BYTES:
                raise bad(f"The trailers are larger than {MAX_TRAILER_BYTES} bytes.", 431, "head_too_large")
            if not _TRAILER.fullmatch(line):
                raise _broken("a trailer is no valid field")


def _broken(why: str) -> RequestError:
    return bad(f"The chunked body can't be read: {why}.")
