"""What agents say to each other, and the stream they say it on: msgpack by schema, then raw bytes where announced.

A frame is `length (4 bytes, big endian) | msgpack`. Nothing received is executed or allocated before it was checked.
Every connection begins with Hello and Welcome (or Refused); whoever connected asks, the other side answers in order.
"""

import socket
import struct
from typing import Literal, TypeVar

import msgspec

from jedlik.core.errors import PeerError
from jedlik.core.ids import Handle as Ticket
from jedlik.core.ids import WorkerId
from jedlik.core.moves import Cause, PathCosts
from jedlik.transfer.arena import Handle
from jedlik.transfer.hosts import HostFacts
from jedlik.transfer.processes import ProcessName

SCHEMA = 1
MAX_MESSAGE_BYTES = 4 << 20
MAX_PARTS = 512
"""Buffers of one system call (the kernel takes 1024)."""
MemoryTier = Literal["device", "host"]


class NixlCard(msgspec.Struct, frozen=True, array_like=True):
    """How to reach an arena through NIXL."""

    name: str
    metadata: bytes
    backend: str
    device_at: int
    """Address of the first device block in the owner's process."""
    host_at: int


class Card(msgspec.Struct, frozen=True, array_like=True):
    """Who an agent is and what memory it has."""

    schema: int
    worker: WorkerId
    process: ProcessName
    block_bytes: int
    device_blocks: int
    host_blocks: int
    arena: Handle | None = None
    """Where processes of its host may map it."""
    nixl: NixlCard | None = None


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    card: Card
    to: WorkerId
    """Whom the sender believes to talk to."""
    use: Literal["control", "data", "look"]
    """look: from somebody who has no blocks and only asks what ways there are."""


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    card: Card
    stopped: list[Ticket]
    """Tickets for which the sender of this takes no writes of the other."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    cause: Cause
    reason: str


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Write no more for these tickets; say Stopped when that is certain."""

    tickets: list[Ticket]


class Stopped(msgspec.Struct, frozen=True, tag="stopped"):
    tickets: list[Ticket]


class Put(msgspec.Struct, frozen=True, tag="put"):
    """These blocks follow (`summed`)."""

    ticket: Ticket
    tier: MemoryTier
    blocks: list[int]


class Landed(msgspec.Struct, frozen=True, tag="landed"):
    """Answer to Put."""

    blocks: int
    """How many of the first are in place, verified."""
    cause: Cause = ""


class Get(msgspec.Struct, frozen=True, tag="get"):
    tier: MemoryTier
    blocks: list[int]


class Sent(msgspec.Struct, frozen=True, tag="sent"):
    """Answer to Get; the blocks follow (`summed`)."""


class Trial(msgspec.Struct, frozen=True, tag="trial"):
    """So many blocks of so many bytes follow (`summed`), to be thrown away: measures a path. Answered by Landed."""

    parts: int
    part_bytes: int


class Look(msgspec.Struct, frozen=True, tag="look"):
    """What does moving cost, and where is this?"""


class Link(msgspec.Struct, frozen=True, array_like=True):
    """One way of an agent's."""

    to: str
    """A worker; "": itself."""
    costs: PathCosts


class Links(msgspec.Struct, frozen=True, tag="links"):
    """Answer to Look."""

    facts: HostFacts
    links: list[Link]


ToAgent = Hello | Stop | Put | Get | Trial | Look
FromAgent = Welcome | Refused | Stopped | Landed | Sent | Links

M = TypeVar("M")
_length = struct.Struct(">I")
_encoder = msgspec.msgpack.Encoder()
_to_agent: msgspec.msgpack.Decoder[ToAgent] = msgspec.msgpack.Decoder(ToAgent)
_from_agent: msgspec.msgpack.Decoder[FromAgent] = msgspec.msgpack.Decoder(FromAgent)


class Wire:
    """One connected stream socket. Blocking; `cut` from another thread ends whatever waits."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, message: ToAgent | FromAgent) -> None:
        """Raises PeerError."""
        body = _encoder.encode(message)
        self.send_bytes(memoryview(_length.pack(len(body)) + body))

    def send_bytes(self, *views: memoryview) -> None:
        """One after the other. Raises PeerError."""
        waiting = list(views)
        try:
            while waiting:
                waiting = _rest(waiting, self.sock.sendmsg(waiting[:MAX_PARTS]))
        except OSError as error:
            raise PeerError(f"connection lost: {error.strerror or error}") from error

    def receive_request(self) -> ToAgent:
        """Raises PeerError, also at the end of the stream."""
        return self._decode(_to_agent)

    def receive_answer(self) -> FromAgent:
        """Raises PeerError, also at the end of the stream."""
        return self._decode(_from_agent)

    def receive_into(self, *views: memoryview) -> None:
        """Fill them, one after the other. Raises PeerError."""
        waiting = list(views)
        try:
            while waiting:
                some = waiting[:MAX_PARTS]
                count = self.sock.recvmsg_into(some, 0, socket.MSG_WAITALL)[0]
                if not count:
                    raise PeerError("connection closed by the peer")
                waiting = _rest(waiting, count)
        except OSError as error:
            raise PeerError(f"connection lost: {error.strerror or error}") from error

    def cut(self) -> None:
        """End both directions; the owner of the wire closes it."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was first

    def close(self) -> None:
        self.sock.close()

    def _decode(self, decoder: "msgspec.msgpack.Decoder[M]") -> M:
        head = bytearray(_length.size)
        self.receive_into(memoryview(head))
        (size,) = _length.unpack(head)
        if size > MAX_MESSAGE_BYTES:
            raise PeerError(f"message of {size} bytes; at most {MAX_MESSAGE_BYTES} are accepted")
        body = bytearray(size)
        self.receive_into(memoryview(body))
        try:
            return decoder.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise PeerError(f"bad message from another agent: {error}") from error


def _rest(buffers: list[memoryview], count: int) -> list[memoryview]:
    """What is left after so many bytes."""
    for at, buffer in enumerate(buffers):
        if count < len(buffer):
            return [buffer[count:], *buffers[at + 1 :]]
        count -= len(buffer)
    return []
