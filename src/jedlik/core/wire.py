"""Messages to bytes and back: msgpack by schema, nothing that could execute.

A frame on a stream is `length (4 bytes, big endian) | schema version (1 byte) | msgpack`. Decoding checks types and
rejects what does not fit with `WireError`; a length over the cap is rejected before anything is allocated.
"""

import struct
from typing import TypeVar

import msgspec

from jedlik.core.errors import PeerError
from jedlik.core.protocol import SCHEMA_VERSION, ToGateway, ToWorker

MAX_FRAME_BYTES = 64 << 20
_header = struct.Struct(">IB")
HEADER_BYTES = _header.size
Message = TypeVar("Message")


class WireError(PeerError):
    """A frame that is too long, of another version, or not of the schema."""


UNDECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""The exceptions that the decoder raises on bytes of others: invalid UTF-8 is a ValueError."""
_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_to_gateway: msgspec.msgpack.Decoder[ToGateway] = msgspec.msgpack.Decoder(ToGateway)


def encode(message: ToWorker | ToGateway) -> bytes:
    """Return a message as a whole frame."""
    return frame(_encoder.encode(message))


def frame(body: bytes) -> bytes:
    """Return a body as a frame, with its header."""
    return _header.pack(len(body), SCHEMA_VERSION) + body


def decode_to_worker(body: bytes | memoryview) -> ToWorker:
    """Decode the msgpack part of a frame sent by a gateway. Raises WireError."""
    return decoded(_to_worker, body, "gateway")


def decode_to_gateway(body: bytes | memoryview) -> ToGateway:
    """Decode the msgpack part of a frame sent by a worker. Raises WireError."""
    return decoded(_to_gateway, body, "worker")


def decoded(decoder: msgspec.msgpack.Decoder[Message], body: bytes | memoryview, sender: str) -> Message:
    """The msgpack part of a frame. Raises WireError naming the sender where it does not fit."""
    try:
        return decoder.decode(body)
    except UNDECODABLE as error:
        raise WireError(f"bad message from {sender}: {error}") from error


def body_length(data: bytes | memoryview, at: int = 0) -> int:
    """Check the 5-byte header at `data[at:]` and return the length of the body that follows. Raises WireError."""
    length, version = _header.unpack_from(data, at)
    if length > MAX_FRAME_BYTES:
        raise WireError(f"frame of {length} bytes; at most {MAX_FRAME_BYTES} are accepted")
    if version != SCHEMA_VERSION:
        raise WireError(f"peer speaks protocol version {version}, this is {SCHEMA_VERSION}: run the same release")
    return int(length)
