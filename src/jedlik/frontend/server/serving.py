"""uvicorn's server with our connections: takes a bounded number, looks after them every second and reports refusals.

Sockets are accepted here, a few at a time: a burst can't use up the process's descriptors, and who comes when all
places are taken is told so (503). A client that has waited without a whole request makes room first.
"""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn

from jedlik.frontend.server.connection import ConnectionLimits, HttpConnection

FLUSH_S = 2
"""After the last request ended: for answers that are still being written."""
ACCEPT_AT_ONCE = 64
SPARE = 64
"""Connections beyond the limit that are read from, so that their clients get a proper refusal. Further ones wait."""
PATIENCE_S = 1.0
"""A connection that has been without a request for longer than this is closed when others need the room."""
PAUSE_S = 0.05
"""Nobody is accepted for so long when there is no room for a refusal, or no descriptor."""
REPORT_EVERY_S = 10.0
TICKS_PER_LOOK = 10
"""uvicorn ticks ten times a second."""
Report = Callable[[str, int], None]
"""Takes what happened, and how often that was since the last report of it."""


class HttpServer(uvicorn.Server):
    """Serves `application` until `should_exit`. `most` connections at once."""

    def __init__(self, application: Any, limits: ConnectionLimits, most: int, report: Report) -> None:
        super().__init__(_config(application))
        self._limits = limits
        self._most = most
        self._report = report
        self._waiting: dict[HttpConnection, None] = {}
        self._joining: dict[asyncio.Task[Any], HttpConnection] = {}
        self._counts: dict[str, int] = {}
        self._reported_at = -REPORT_EVERY_S

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Whoever runs the server decides when it stops."""
        yield

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        self.servers = []
        for listener in sockets or ():
            listener.setblocking(False)
            self._listen(listener)
        self.started = True

    async def shutdown(self, sockets: Sequence[socket.socket] | None = None) -> None:
        for listener in sockets or ():
            asyncio.get_running_loop().remove_reader(listener)
        await super().shutdown(list(sockets or ()))

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_LOOK == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                connection.tick(now)  # type: ignore[union-attr]
            self._report_counts()
        return await super().on_tick(counter)

    # --- accepting ---

    def _listen(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0 and not self.should_exit:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            beyond = self._taken() - self._most
            if beyond >= SPARE:
                all(self._make_room() for _ in range(ACCEPT_AT_ONCE))
                self._pause(listener, "too many are open")
                return
            try:
                accepted = listener.accept()[0]
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # it left before it was served
            except OSError as error:
                self._pause(listener, error.strerror)
                return
            crowded = beyond >= 0 and not self._make_room()
            if crowded:
                self._count("connections refused: too many are open")
            self._join(accepted, crowded)

    def _taken(self) -> int:
        """How many connections are open or being set up. One whose set-up ends counts once."""
        connections = self.server_state.connections
        return len(connections) + sum(one not in connections for one in self._joining.values())

    def _pause(self, listener: socket.socket, why: str | None) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(PAUSE_S, self._listen, listener)
        self._count(f"connections wait: {why}")

    def _join(self, accepted: socket.socket, crowded: bool) -> None:
        accepted.setblocking(False)
        connection = HttpConnection(self.config, self.server_state, self._limits, self._waiting, crowded)
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(lambda: connection, accepted))
        self._joining[task] = connection
        task.add_done_callback(self._joined)

    def _joined(self, task: asyncio.Task[Any]) -> None:
        del self._joining[task]
        if not task.cancelled():
            task.exception()  # it left meanwhile

    def _make_room(self) -> bool:
        before = asyncio.get_running_loop().time() - PATIENCE_S
        if any(one.make_room(before) for one in list(itertools.islice(self._waiting, 8))):
            self._count("connections closed: they had no request, and others needed the room")
            return True
        return False

    # --- reports ---

    def _count(self, what: str) -> None:
        self._counts[what] = self._counts.get(what, 0) + 1
        self._report_counts()

    def _report_counts(self) -> None:
        """At most one line of each kind in ten seconds, however many there were."""
        now = asyncio.get_running_loop().time()
        if self._counts and now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            for what, count in self._counts.items():
                self._report(what, count)
            self._counts.clear()


def _config(application: Any) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http=HttpConnection,
        loop="none",
        lifespan="off",
        ws="none",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=FLUSH_S,
    )
