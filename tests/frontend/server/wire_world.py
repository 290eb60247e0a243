"""A server on a real socket with an application of a few lines, and raw bytes as its client."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvloop

from jedlik.frontend.server.connection import ConnectionLimits
from jedlik.frontend.server.serving import HttpServer

LIMITS = ConnectionLimits(head_bytes=8192, receive_s=60.0, idle_s=60.0, stalled_s=60.0)
WAIT_S = 20.0
"""Only for what hangs."""


class Echo:
    """Answers each request with what it was: a stream at /stream, later at /wait, early at /early."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.client_left = threading.Event()
        self.go = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])
        body = b""
        more = scope["path"] != "/early"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.client_left.set()
                return
            body += message["body"]
            more = message["more_body"]
        if scope["path"] == "/wait" and not await self._waited(receive):
            self.client_left.set()
            return
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        shown = {"method": scope["method"], "path": scope["path"], "body": body.decode("latin-1"), "headers": headers}
        answer = json.dumps(shown | {"query": scope["query_string"].decode()}).encode()
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for part in (b"one,", b"two,", b""):
                await send({"type": "http.response.body", "body": part, "more_body": bool(part)})
            return
        size = [(b"content-length", b"%d" % len(answer))]
        if not more and scope["extensions"]["jedlik.cycle"].more_body:
            size.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": 200, "headers": size})
        await send({"type": "http.response.body", "body": answer, "more_body": False})

    async def _waited(self, receive: Any) -> bool:
        """Until `go`, or until the client has left."""
        leaving = asyncio.ensure_future(receive())
        while not self.go.is_set():
            await asyncio.wait((leaving,), timeout=0.005)
            if leaving.done():
                return False
        leaving.cancel()
        return True


class Served:
    """A server under test. `said` is what it logged."""

    def __init__(self, port: int, app: Any, server: HttpServer, reports: list[str]) -> None:
        self.port = port
        self.app = app
        self.server = server
        self.reports = reports

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)

    def ask(self, raw: bytes, *, whole: bool = True) -> bytes:
        """All that comes back until the server closes; `whole`: the client says that it sends no more."""
        with self.connect() as client:
            client.sendall(raw)
            if whole:
                client.shutdown(socket.SHUT_WR)
            return rest(client)


def rest(client: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(1 << 16):
            got += part
    return got


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def json_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


@contextlib.contextmanager
def serving(app: Any = None, limits: ConnectionLimits = LIMITS, most: int = 1000) -> Iterator[Served]:
    """`app`: an `Echo` unless given."""
    app = app or Echo()
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    reports: list[str] = []
    server = HttpServer(app, limits, most, lambda what, count: reports.append(what))

    async def run() -> None:
        await server.serve([listener])

    port = listener.getsockname()[1]
    thread = threading.Thread(target=lambda: asyncio.Runner(loop_factory=uvloop.new_event_loop).run(run()))
    thread.start()
    try:
        yield Served(port, app, server, reports)
    finally:
        server.should_exit = True
        thread.join()
