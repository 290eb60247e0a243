"""The little of HTTP that the surface needs on top of ASGI: one request, its body within limits, one reply."""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import msgspec

from jedlik.core.errors import RequestError
from jedlik.frontend.openai.errors import ErrorReply

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


class Disconnected(Exception):
    """The client went away before its request was whole."""


class Web:
    """One HTTP request and its reply."""

    def __init__(self, scope: Message, receive: Receive, send: Send, fresh_id: Callable[[], str]) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"").decode("latin-1")
        self.request_id = given if _usable(given) else fresh_id()
        self.tenant = ""
        self.argument = ""
        """What follows the route's prefix in the path."""
        self.begun = False

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body. Raises RequestError (413), Disconnected."""
        declared = self.headers.get(b"content-length", b"")
        if declared.isdigit() and len(declared) < 19 and int(declared) > limit_bytes:
            raise _too_large(limit_bytes)
        message = await self._part()
        if not message.get("more_body"):
            whole: bytes = message.get("body", b"")
            parts = [whole]
        else:
            parts = [message.get("body", b"")]
        size = len(parts[0])
        while message.get("more_body"):
            message = await self._part()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit_bytes:
                raise _too_large(limit_bytes)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _part(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        return message

    async def json_body(self, limit_bytes: int) -> bytes:
        """As `body`, of a request that says (or leaves open) that it is JSON. Raises RequestError (415)."""
        kind = self.headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind and kind != b"application/json" and not kind.endswith(b"+json"):
            said = kind[:80].decode("latin-1")
            raise RequestError(
                f"content-type must be application/json, not {said!r} (curl: add -H 'content-type: application/json').",
                param="content-type", code="unsupported_media_type", status=415,
            )  # fmt: skip
        return await self.body(limit_bytes)

    async def begin(self, status: int, headers: Headers) -> None:
        """Send the head; `headers` come after the request id."""
        self.begun = True
        own = (b"x-request-id", self.request_id.encode())
        await self.send({"type": "http.response.start", "status": status, "headers": [own, *headers]})

    async def reply(self, status: int, body: bytes, headers: Headers = (), kind: tuple[bytes, bytes] = JSON) -> None:
        """The whole answer at once."""
        await self.begin(status, [kind, (b"content-length", b"%d" % len(body)), *headers])
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def reply_json(self, status: int, value: object, headers: Headers = ()) -> None:
        await self.reply(status, msgspec.json.encode(value), headers)

    async def refuse(self, error: ErrorReply) -> None:
        await self.reply(error.status, error.body, error.headers)

    def cut(self) -> None:
        """Close the connection although bytes wait for the client. ASGI has no word for it: this knows uvicorn's.

        Elsewhere the server closes when the application returns without having finished its answer.
        """
        transport = getattr(getattr(self.send, "__self__", None), "transport", None)
        if transport is not None:
            transport.abort()


def _usable(request_id: str) -> bool:
    """Printable ASCII; "~" is ours, it numbers the prompts of a batch."""
    return (
        0 < len(request_id) <= MAX_REQUEST_ID_CHARS
        and request_id.isascii() and request_id.isprintable() and "~" not in request_id
    )  # fmt: skip


def _too_large(limit_bytes: int) -> RequestError:
    return RequestError(f"The body is larger than {limit_bytes} bytes.", code="body_too_large", status=413)
