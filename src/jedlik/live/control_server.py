"""The supervisor's end of the control link: gateways connect, report and ask.

A gateway that can't be reached any more is told as gone; when it connects again, its next report says that it is back.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from jedlik.core.effects import ChangeRole
from jedlik.core.errors import PeerError
from jedlik.core.events import GatewayGone, Reported
from jedlik.core.ids import GatewayId
from jedlik.live.control import Answer, Ask, Greeting, decode_upward, encode
from jedlik.net.addresses import UnixAddress
from jedlik.net.streams import Connection, serve

Tell = Callable[[Reported | GatewayGone], None]
Reply = Callable[[Ask], Answer]


class ControlServer:
    """All gateways of one supervisor."""

    def __init__(self) -> None:
        self._gateways: dict[GatewayId, Connection] = {}
        self._server: asyncio.Server | None = None

    async def listen(self, path: Path, tell: Tell, reply: Reply) -> None:
        """Until closed."""
        self.tell, self.reply = tell, reply
        self._server, _ = await serve(UnixAddress(str(path)), lambda: _Gateway(self), b"")

    def change(self, change: ChangeRole) -> None:
        """Any gateway may tell a worker; none connected: nothing happens, and the planner sees that."""
        for _, connection in sorted(self._gateways.items())[:1]:
            connection.send(encode(change))

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._gateways.values()):
            connection.close("the supervisor leaves")

    def joined(self, gateway: GatewayId, connection: Connection) -> None:
        self._gateways[gateway] = connection

    def left(self, gateway: GatewayId, connection: Connection) -> None:
        """Its connection ended (ignored for one that was replaced)."""
        if self._gateways.get(gateway) is connection:
            del self._gateways[gateway]
            self.tell(GatewayGone(gateway))


class _Gateway:
    """One connection (a `net.streams.Listener`)."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._gateway: GatewayId | None = None

    def opened(self, connection: Connection) -> None:
        """The gateway speaks first."""

    def received(self, connection: Connection, bodies: list[memoryview]) -> None:
        for body in bodies:
            message = decode_upward(body)
            if isinstance(message, Greeting):
                self._gateway = message.gateway
                self._server.joined(message.gateway, connection)
            elif self._gateway is None:
                raise PeerError(f"{type(message).__name__} before a greeting")
            elif isinstance(message, Reported):
                self._server.tell(message)
            else:
                connection.send(encode(self._server.reply(message)))

    def lost(self, connection: Connection, reason: str) -> None:
        if self._gateway is not None:
            self._server.left(self._gateway, connection)
