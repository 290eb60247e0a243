"""Cutting a byte stream into frames (`core/wire` has the format).

Promises: any split of the same bytes gives the same frames; no more is buffered than one frame of the permitted size;
bytes that are no frame raise WireError and the parser must not be fed again.
"""

from jedlik.core.wire import HEADER_BYTES, body_length


class FrameParser:
    """Bytes in, bodies of whole frames out."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._have = 0
        self._need = HEADER_BYTES

    def feed(self, data: bytes) -> list[memoryview]:
        """Bodies of the frames that `data` completes, in order. Raises WireError."""
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:  # a long frame is joined once, not once per read
                return []
            data = b"".join(self._parts)
        bodies: list[memoryview] = []
        at, end = 0, len(data)
        self._need = HEADER_BYTES
        view = memoryview(data)
        while end - at >= HEADER_BYTES:
            size = HEADER_BYTES + body_length(data, at)
            if end - at < size:
                self._need = size
                break
            bodies.append(view[at + HEADER_BYTES : at + size])
            at += size
        self._parts = [data[at:]] if at < end else []
        self._have = end - at
        return bodies

    def check(self) -> None:
        """Assert that the buffered bytes are less than a frame."""
        assert self._have == sum(map(len, self._parts)) < self._need
