"""Connections between agents: blocking stream sockets that carry messages, and blocks with checksums.

A frame is `length (4 bytes, big endian) | msgpack`. Nothing received is executed, or allocated, before it was checked.
`dial` connects: on TCP both sides first prove that they know the cluster key, then AgentHello and Welcome are
exchanged. Blocks are sent a piece at a time and their checksums after the last of them: a piece is checksummed right
after it was sent or received, while it is in the processor's cache. Checksums that are computed before the sending
would keep the receiver waiting: measured.
"""

import contextlib
import errno
import os
import secrets
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec
import numpy as np
from xxhash import xxh3_64, xxh3_64_intdigest

from jedlik.core.authenticate import GREETING_BYTES, PROOF_BYTES, Handshake
from jedlik.core.errors import PeerError
from jedlik.core.moves import Cause
from jedlik.core.wire import decoded
from jedlik.transfer.messages import AgentHello, FromAgent, Refused, ToAgent, Welcome
from jedlik.transfer.store import Done

CONNECT_S = 5.0
"""The time limit of each step of connecting."""
SOCKET_BUFFER_BYTES = 4 << 20
BACKLOG = 128
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
MAX_MESSAGE_BYTES = 4 << 20
MAX_PARTS = 512
"""The largest number of buffers in one system call (the kernel takes 1024)."""
PIECE_BYTES = 1 << 20
"""Blocks are sent and checksummed in pieces of this size."""

MessageT = TypeVar("MessageT")
_length = struct.Struct(">I")
_encoder = msgspec.msgpack.Encoder()
_to_agent: msgspec.msgpack.Decoder[ToAgent] = msgspec.msgpack.Decoder(ToAgent)
_from_agent: msgspec.msgpack.Decoder[FromAgent] = msgspec.msgpack.Decoder(FromAgent)


class NobodyListens(PeerError):
    """Certainly nobody listens at an address: the listener has ended or closed, and takes nothing more."""


class NotWelcome(PeerError):
    """Another incarnation answers at an address, or an agent that can't talk to us."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.reason)
        self.cause: Cause = refused.cause


class AgentConnection:
    """One connected stream socket. Its calls block; `cut` from another thread ends whatever waits.

    Every call that sends or receives raises PeerError when the connection breaks or the stream ends.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, message: ToAgent | FromAgent) -> None:
        body = _encoder.encode(message)
        self.send_bytes(memoryview(_length.pack(len(body)) + body))

    def send_bytes(self, *views: memoryview) -> None:
        """Send buffers, one after the other."""
        waiting = list(views)
        try:
            while waiting:
                waiting = _remaining(waiting, self.sock.sendmsg(waiting[:MAX_PARTS]))
        except OSError as error:
            raise PeerError(f"connection lost: {error.strerror or error}") from error

    def receive_request(self) -> ToAgent:
        """Receive one message of the agent that connected."""
        return self._decode(_to_agent)

    def receive_answer(self) -> FromAgent:
        """Receive one message of the agent that was connected to."""
        return self._decode(_from_agent)

    def receive_into(self, *views: memoryview) -> None:
        """Fill buffers, one after the other."""
        waiting = list(views)
        try:
            while waiting:
                some = waiting[:MAX_PARTS]
                count = self.sock.recvmsg_into(some, 0, socket.MSG_WAITALL)[0]
                if not count:
                    raise PeerError("connection closed by the peer")
                waiting = _remaining(waiting, count)
        except OSError as error:
            raise PeerError(f"connection lost: {error.strerror or error}") from error

    def cut(self) -> None:
        """End both directions; the owner of the connection closes it."""
        with contextlib.suppress(OSError):  # the peer was first
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.sock.close()

    def prove(self, key: bytes, *, client: bool) -> None:
        """Prove the cluster key to each other, where the peer may be on another host."""
        if self.sock.family == socket.AF_UNIX:
            return
        handshake = Handshake(key, secrets.token_bytes(32), client=client)
        self.send_bytes(memoryview(handshake.greeting()))
        self.send_bytes(memoryview(handshake.feed(self._receive(GREETING_BYTES))))
        handshake.feed(self._receive(PROOF_BYTES))

    def _decode(self, decoder: "msgspec.msgpack.Decoder[MessageT]") -> MessageT:
        (size,) = _length.unpack(self._receive(_length.size))
        if size > MAX_MESSAGE_BYTES:
            raise PeerError(f"message of {size} bytes; at most {MAX_MESSAGE_BYTES} are accepted")
        return decoded(decoder, self._receive(size), "another agent")

    def _receive(self, size: int) -> bytes:
        data = bytearray(size)
        self.receive_into(memoryview(data))
        return bytes(data)


def _remaining(buffers: list[memoryview], count: int) -> list[memoryview]:
    """Return what remains of some buffers after their first `count` bytes."""
    for at, buffer in enumerate(buffers):
        if count < len(buffer):
            return [buffer[count:], *buffers[at + 1 :]]
        count -= len(buffer)
    return []


def listen(address: str) -> tuple[socket.socket, str]:
    """Listen on `unix:PATH` or `tcp:HOST:PORT` (port 0: any); return the socket and the address to connect to."""
    kind, _, where = address.partition(":")
    if kind == "unix":
        with contextlib.suppress(FileNotFoundError):
            os.unlink(where)  # of a dead incarnation; the run directory is private to us
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(where)
    else:
        host, _, port = where.rpartition(":")
        sock = socket.create_server((host, int(port)), family=_family(host))
        address = f"tcp:{host}:{sock.getsockname()[1]}"
    sock.listen(BACKLOG)
    return sock, address


def dial(address: str, key: bytes, hello: AgentHello) -> tuple[AgentConnection, Welcome]:
    """Connect to an agent. Raises NobodyListens, NotWelcome, or PeerError if it isn't clear why there is no answer."""
    connection = AgentConnection(_connected(address))
    try:
        connection.prove(key, client=True)
        connection.send(hello)
        answer = connection.receive_answer()
        if isinstance(answer, Refused):
            raise NotWelcome(answer)
        if not isinstance(answer, Welcome):
            raise PeerError(f"{address} answered {type(answer).__name__} to AgentHello")
        connection.sock.settimeout(None)
        return connection, answer
    except BaseException:
        connection.close()
        raise


def tune(sock: socket.socket) -> None:
    """Make a socket fit for bulk: large buffers (as far as the kernel allows), and small messages leave at once."""
    for forced, asked in ((SO_SNDBUFFORCE, socket.SO_SNDBUF), (SO_RCVBUFFORCE, socket.SO_RCVBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, SOCKET_BUFFER_BYTES)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, asked, SOCKET_BUFFER_BYTES)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _connected(address: str) -> socket.socket:
    kind, _, where = address.partition(":")
    host, _, port = where.rpartition(":")
    sock = socket.socket(socket.AF_UNIX if kind == "unix" else _family(host))
    try:
        sock.settimeout(CONNECT_S)
        tune(sock)
        sock.connect(where if kind == "unix" else (host, int(port)))
        return sock
    except OSError as error:
        sock.close()
        text = f"cannot connect to {address}: {error.strerror or error}"
        if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
            raise NobodyListens(text) from error
        raise PeerError(text) from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class _Checksums:
    """The checksums of blocks that come piece by piece, in order."""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._part = xxh3_64()
        self._part_bytes = 0
        self.values: list[int] = []

    def add(self, piece: Sequence[memoryview]) -> None:
        """Count whole blocks, or one part of one block."""
        if len(piece[0]) == self._block_bytes:
            self.values += map(xxh3_64_intdigest, piece)
            return
        self._part.update(piece[0])
        self._part_bytes += len(piece[0])
        if self._part_bytes == self._block_bytes:
            self.values.append(self._part.intdigest())
            self._part.reset()
            self._part_bytes = 0


def _pieces(blocks: Sequence[memoryview]) -> Iterator[Sequence[memoryview]]:
    """Split blocks into pieces: several whole blocks, or a part of a large one."""
    size = len(blocks[0]) if blocks else 1
    together = PIECE_BYTES // size
    if together:
        for at in range(0, len(blocks), together):
            yield blocks[at : at + together]
        return
    for block in blocks:
        for at in range(0, size, PIECE_BYTES):
            yield (block[at : at + PIECE_BYTES],)


def send_blocks(connection: AgentConnection, blocks: Sequence[memoryview]) -> None:
    """Send blocks of one size, then their checksums. Raises PeerError."""
    if not blocks:
        return
    checksums = _Checksums(len(blocks[0]))
    for piece in _pieces(blocks):
        connection.send_bytes(*piece)
        checksums.add(piece)
    connection.send_bytes(np.array(checksums.values, "<u8").view(np.uint8).data)


def receive_blocks(connection: AgentConnection, blocks: Sequence[memoryview]) -> Done:
    """Fill blocks; return how many of the first ones are what was sent. Raises PeerError."""
    if not blocks:
        return 0, ""
    checksums = _Checksums(len(blocks[0]))
    for piece in _pieces(blocks):
        connection.receive_into(*piece)
        checksums.add(piece)
    expected = np.empty(len(blocks), "<u8")
    connection.receive_into(expected.view(np.uint8).data)
    wrong = np.flatnonzero(expected != np.array(checksums.values, "<u8"))
    return (int(wrong[0]), "corrupt") if len(wrong) else (len(blocks), "")
