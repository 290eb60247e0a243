"""The little of HTTP that the frontend needs on top of ASGI: one request, its body within limits, one reply."""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import msgspec

from jedlik.core.errors import Fault, RequestError
from jedlik.frontend import content
from jedlik.frontend.errors import ErrorReply, error_reply
from jedlik.frontend.server.connection import CYCLE

Message = MutableMapping[str, Any]  # ASGI's own type: what a message holds depends on its "type"
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]
JSON = (b"content-type", b"application/json")
TEXT = (b"content-type", b"text/plain; charset=utf-8")
SSE: Headers = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
MAX_REQUEST_ID_CHARS = 128
ErrorForm = Callable[[RequestError | Fault], ErrorReply]


class Disconnected(Exception):
    """The client went away before its request was whole."""


class Web:
    """One HTTP request and its reply."""

    def __init__(self, scope: Message, receive: Receive, send: Send, fresh_id: Callable[[], str]) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        wanted_id = self.header(b"x-request-id")
        self.request_id = wanted_id if _usable(wanted_id) else fresh_id()
        self.tenant = ""
        self.argument = ""
        """What follows the route's prefix in the path."""
        self.begun = False
        self.shared: Headers = ()
        """What a browser needs to give the answer to a page of another origin."""
        self.error_form: ErrorForm = error_reply
        self._cycle = scope.get("extensions", {}).get(CYCLE)
        """uvicorn's, where that is the server."""

    @property
    def port(self) -> int | None:
        """The server's port that the connection came to, or None if the server does not tell."""
        server = self.scope.get("server")
        return None if server is None else server[1]

    def header(self, name: bytes) -> str:
        """Return a header's value; the empty string where there is none."""
        return self.headers.get(name, b"").decode("latin-1")

    async def json_body(self, limit_bytes: int) -> bytes:
        """The whole body of a request that says that it is JSON. Raises RequestError (413, 415, 400), Disconnected."""
        content.check_json(self.headers)
        return await content.whole(self.headers, self._part, limit_bytes)

    async def _part(self) -> tuple[bytes, bool]:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        return message.get("body", b""), message.get("more_body", False)

    async def begin(self, status: int, headers: Headers) -> None:
        """Send the head; `headers` come after the request id. What of the body nobody has read is not waited for."""
        self.begun = True
        all_headers = [(b"x-request-id", self.request_id.encode()), *headers, *self.shared]
        if self._cycle is not None and self._cycle.more_body:
            all_headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": status, "headers": all_headers})

    async def reply(self, status: int, body: bytes, headers: Headers = (), kind: tuple[bytes, bytes] = JSON) -> None:
        """The whole answer at once."""
        await self.begin(status, [kind, (b"content-length", b"%d" % len(body)), *headers])
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def reply_json(self, status: int, value: object, headers: Headers = ()) -> None:
        await self.reply(status, msgspec.json.encode(value), headers)

    async def refuse(self, error: RequestError | Fault) -> None:
        """Send an error in the form of the API that was asked."""
        reply = self.error_form(error)
        await self.reply(reply.status, reply.body, reply.headers)

    def cut(self) -> None:
        """Close the connection although bytes wait for the client. ASGI has no word for it.

        Elsewhere the server closes when the application returns without having finished its answer.
        """
        if self._cycle is not None:
            self._cycle.transport.abort()


def _usable(request_id: str) -> bool:
    """Printable ASCII; "~" is ours, it numbers the prompts of a batch."""
    return (
        0 < len(request_id) <= MAX_REQUEST_ID_CHARS
        and request_id.isascii() and request_id.isprintable() and "~" not in request_id
    )  # fmt: skip
