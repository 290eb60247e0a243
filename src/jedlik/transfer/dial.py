"""Connecting to another agent, and being connected to: proof of the cluster key on TCP, then Hello and Welcome."""

import contextlib
import errno
import os
import secrets
import socket

from jedlik.core.authenticate import GREETING_BYTES, PROOF_BYTES, Handshake
from jedlik.core.errors import PeerError
from jedlik.core.moves import Cause
from jedlik.transfer.messages import Hello, Refused, Welcome, Wire

CONNECT_S = 5.0
"""For each step of becoming connected."""
SOCKET_BUFFER_BYTES = 4 << 20
BACKLOG = 128
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33


class NobodyListens(PeerError):
    """For certain: whoever listened there has ended or closed, and takes nothing more."""


class NotWelcome(PeerError):
    """Another incarnation answers there, or one that can't talk to us."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.reason)
        self.cause: Cause = refused.cause


def listen(address: str) -> tuple[socket.socket, str]:
    """A listening socket on `unix:PATH` or `tcp:HOST:PORT` (port 0: any), and the address to connect to."""
    kind, _, where = address.partition(":")
    if kind == "unix":
        with contextlib.suppress(FileNotFoundError):
            os.unlink(where)  # left by a dead incarnation; the run directory is private to us
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(where)
    else:
        host, _, port = where.rpartition(":")
        sock = socket.create_server((host, int(port)), family=_family(host))
        address = f"tcp:{host}:{sock.getsockname()[1]}"
    sock.listen(BACKLOG)
    return sock, address


def dial(address: str, key: bytes, hello: Hello) -> tuple[Wire, Welcome]:
    """Raises NobodyListens, NotWelcome, or another PeerError if it isn't clear why there is no answer."""
    sock = _connected(address)
    wire = Wire(sock)
    try:
        if sock.family != socket.AF_UNIX:
            prove(sock, Handshake(key, secrets.token_bytes(32), client=True))
        wire.send(hello)
        answer = wire.receive_answer()
        if isinstance(answer, Refused):
            raise NotWelcome(answer)
        if not isinstance(answer, Welcome):
            raise PeerError(f"{address} answered {type(answer).__name__} to Hello")
        sock.settimeout(None)
        return wire, answer
    except BaseException:
        wire.close()
        raise


def prove(sock: socket.socket, handshake: Handshake) -> None:
    """Mutual proof of the cluster key, blocking. Raises PeerError."""
    try:
        sock.sendall(handshake.greeting())
        sock.sendall(handshake.feed(_exactly(sock, GREETING_BYTES)))
        handshake.feed(_exactly(sock, PROOF_BYTES))
    except OSError as error:
        raise PeerError(f"no proof of the cluster key: {error}") from error


def tune(sock: socket.socket) -> None:
    """For bulk: large buffers (as far as we may), small messages at once."""
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


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (some := sock.recv(size - len(data))):
            raise PeerError("connection closed before the proof of the cluster key")
        data += some
    return data
