"""Connections between gateways and workers: frames over unix sockets on one host, authenticated TCP elsewhere.

A peer that does not read is cut once `max_unsent_bytes` wait for it; bad frames and bad proofs cut it too. A listener
that got `opened` gets `lost` once, with a reason.

A side that leaves ends its own direction and reads on until the peer ends the other one, for `CLOSE_S` at most. If it
closed both at once, a peer whose own frames are under way would lose frames that it has received and not yet read: its
failed write, or the reset, discards them.
"""

import asyncio
import contextlib
import functools
import os
import secrets
import socket
from collections.abc import Callable
from typing import Protocol, cast

from jedlik.core.authenticate import Handshake
from jedlik.core.errors import PeerError
from jedlik.net.addresses import Address, TcpAddress, UnixAddress
from jedlik.net.frames import FrameParser

MAX_UNSENT_BYTES = 64 << 20
HANDSHAKE_S = 5.0
CONNECT_S = 5.0
CLOSE_S = 2.0
"""Seconds that a side which leaves waits for the peer to read what it was sent."""


class Listener(Protocol):
    """The owner of a connection. Calls come on the loop's thread."""

    def opened(self, connection: "Connection") -> None:
        """The peer is there (and has proved itself, on TCP)."""

    def received(self, connection: "Connection", bodies: list[memoryview]) -> None:
        """Whole frames' bodies, in order. A PeerError raised here cuts the connection."""

    def lost(self, connection: "Connection", reason: str) -> None:
        """The connection is gone. This comes once, after `opened`."""


class Connection(asyncio.Protocol):
    """One stream of frames."""

    def __init__(
        self, listener: Listener, handshake: Handshake | None, max_unsent_bytes: int = MAX_UNSENT_BYTES
    ) -> None:
        self._listener = listener
        self._handshake = handshake
        self._parser = FrameParser()
        self._max_unsent_bytes = max_unsent_bytes
        self._loop = asyncio.get_running_loop()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._opened = False
        self._reason = ""
        self._deadline: asyncio.TimerHandle | None = None
        self._leaving = False
        """This side has ended its direction: what still arrives is dropped."""
        self._gone = asyncio.Event()

    def send(self, frame: bytes) -> None:
        """Queue one frame; silently dropped once the connection is closing (its `lost` is on the way).

        What one turn of the loop sends leaves in one write: the peer wakes once for a step's tokens, facts and load.
        """
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(frame)

    def _flush(self) -> None:
        frames, self._unsent = self._unsent, []
        transport = self._transport
        if not frames or transport is None or transport.is_closing() or self._leaving:
            return
        transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
        if transport.get_write_buffer_size() > self._max_unsent_bytes:
            self.cut(f"peer does not read: {transport.get_write_buffer_size()} bytes wait for it")

    def cut(self, reason: str) -> None:
        """Drop the connection at once; what is unsent is lost."""
        if self._transport is not None and not self._transport.is_closing():
            self._reason = reason
            self._transport.abort()

    def close(self, reason: str) -> None:
        """Send what is queued, then close, once the peer has read it or `CLOSE_S` are over."""
        self._flush()
        if self._transport is not None and not self._transport.is_closing() and not self._leaving:
            self._reason, self._leaving = reason, True
            self._transport.write_eof()
            self._wait(CLOSE_S, reason)

    async def closed(self) -> None:
        """Wait until the connection is gone: after `close`, `CLOSE_S` at most."""
        if self._transport is not None:
            await self._gone.wait()

    def _wait(self, seconds: float, reason: str) -> None:
        """Cut the connection after a time, unless it is over before."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, self.cut, reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        no_delay(self._transport)
        if self._handshake is None:
            self._open()
            return
        self._transport.write(self._handshake.greeting())
        self._wait(HANDSHAKE_S, "no proof of the cluster key in time")

    def data_received(self, data: bytes) -> None:
        if self._leaving:
            return
        try:
            if self._handshake is not None:
                data = self._prove(self._handshake, data)
            if data and (bodies := self._parser.feed(data)):
                self._listener.received(self, bodies)
        except PeerError as error:
            self.cut(str(error))

    def connection_lost(self, error: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._gone.set()
        if self._opened:
            self._opened = False
            self._listener.lost(self, self._reason or (f"connection lost: {error}" if error else "connection closed"))

    def _prove(self, handshake: Handshake, data: bytes) -> bytes:
        if (answer := handshake.feed(data)) and self._transport is not None:
            self._transport.write(answer)
        if not handshake.done:
            return b""
        self._handshake = None
        if self._deadline is not None:
            self._deadline.cancel()
        self._open()
        return handshake.rest()

    def _open(self) -> None:
        self._opened = True
        self._listener.opened(self)


def no_delay(transport: asyncio.Transport) -> None:
    """Small frames must leave at once."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def connect(address: Address, listener: Listener, key: bytes) -> Connection:
    """Connect to an address. Raises PeerError if nobody answers there."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_S):
            if isinstance(address, UnixAddress):
                return (await loop.create_unix_connection(lambda: Connection(listener, None), address.path))[1]
            proving = functools.partial(_proving, listener, key, client=True)
            return (await loop.create_connection(proving, address.host, address.port))[1]
    except (OSError, TimeoutError) as error:
        raise PeerError(f"cannot connect to {address}: {error or 'no answer'}") from error


async def serve(address: Address, listener: Callable[[], Listener], key: bytes) -> tuple[asyncio.Server, Address]:
    """Listen on an address (port 0: any); return the server and the address that peers connect to."""
    loop = asyncio.get_running_loop()
    if isinstance(address, UnixAddress):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address.path)  # left by a dead incarnation; the run directory is private to us
        return await loop.create_unix_server(lambda: Connection(listener(), None), address.path), address
    server = await loop.create_server(lambda: _proving(listener(), key, client=False), address.host, address.port)
    return server, TcpAddress(address.host, server.sockets[0].getsockname()[1])


def _proving(listener: Listener, key: bytes, *, client: bool) -> Connection:
    return Connection(listener, Handshake(key, secrets.token_bytes(32), client=client))
