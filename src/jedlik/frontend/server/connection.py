"""One HTTP/1 connection: uvicorn's protocol, with the wire read here, bounded in size and time.

A head is gathered (in linear time) and read when it is whole; bodies are framed here, so that one request is under way
at a time and pipelined ones wait. Refusals are JSON like all others. A connection is closed in stages (RFC 9112, 9.6):
our side first, then what still comes is dropped for a moment, so that a client that is still sending can read why.
Nothing here is on the way of a streamed token: answers go from uvicorn's cycle to the transport.
"""

import asyncio
from typing import Any, Literal, NamedTuple

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from jedlik.core.errors import RequestError
from jedlik.frontend.errors import error_reply
from jedlik.frontend.server.chunked import Chunked
from jedlik.frontend.server.head import END, Head, bad, read_head, too_long
from jedlik.net.peer import is_gone

LINGER_S, LINGER_BYTES = 2.0, 64 << 20
"""What a client still sends after the last answer is dropped for so long, and as long as it is no more."""
CROWDED_S = 5.0
"""A connection that is going to be refused has so long to send its request."""
SLOWEST_BYTES_S = 16 << 10
"""A body that comes faster is never late."""
PEER_CHECK_S = 0.02
"""After a client's last byte: whether it closed its side only, or left."""
ASK_S = 2.0
"""A client that can only be asked is asked this often."""
CYCLE = "jedlik.cycle"
"""The ASGI extension under which an application finds uvicorn's cycle."""
_OPEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
"""What a method may begin with. A client that speaks TLS, say, is told at once."""


class ConnectionLimits(NamedTuple):
    """The limits on size and time that every connection has."""

    head_bytes: int
    receive_s: float
    """A head takes no longer; a body neither, unless it comes at a fair pace."""
    idle_s: float
    stalled_s: float
    """A client that takes nothing of the rest of its answer is cut then."""


class Exit:
    """The transport as a cycle sees it: when to close is the connection's to decide."""

    def __init__(self, connection: "HttpConnection") -> None:
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing
        self.abort = connection.transport.abort
        self.close = connection.leave


class UnchunkedCycle(RequestResponseCycle):
    """A cycle for HTTP/1.0, which knows no chunks. An answer of unknown length ends with the connection."""

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            if all(name != b"content-length" for name, _ in message["headers"]):
                self.chunked_encoding = False
        elif self.chunked_encoding is False and self.expected_content_length <= 0:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class HttpConnection(HttpToolsProtocol):
    """`waiting` is shared by all connections: those with no whole request, who has waited longest first.

    `crowded`: there are too many; the request is answered 503.
    """

    def __init__(
        self,
        config: Config,
        state: ServerState,
        limits: ConnectionLimits,
        waiting: "dict[HttpConnection, None]",
        crowded: bool,
    ) -> None:
        super().__init__(config, state, {}, asyncio.get_running_loop())
        self._limits = limits
        self._waiting = waiting
        self._crowded = crowded
        self._phase: Literal["head", "body", "answer", "leaving"] = "head"
        self._inbox = bytearray()
        self._searched = 0
        self._since = 0.0
        """When this phase began; of a head: when its first byte came."""
        self._remaining: int | None = 0
        """Bytes of the body to come; None: it is chunked."""
        self._chunked = Chunked()
        self._body_bytes = 0
        self._dropped = 0
        self._ended = False
        """The client sends no more."""
        self._asked_at = 0.0
        """When a client that sends no more was last asked whether it is there."""

    # --- events of the transport ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._exit = Exit(self)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = "leaving"
        self._waiting.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._phase == "leaving":
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.transport.abort()
            return
        self._inbox += data
        self._advance()

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client may close its side only and wait for the answer (RFC 9112, 9.6). True: the transport stays open."""
        self._ended = True
        if self._phase == "answer":
            self._asked_at = self.loop.time()
            self.loop.call_later(PEER_CHECK_S, self._check_peer)
            return True
        if self._inbox or self._phase == "body":
            self._refuse(bad("The connection was closed before the request was whole."))
        return False

    # --- reading ---

    def _advance(self) -> None:
        try:
            while self._inbox and self._phase in ("head", "body"):
                if not (self._read_head() if self._phase == "head" else self._read_body()):
                    return
        except RequestError as error:
            self._refuse(error)
            return
        if self._phase == "answer" and len(self._inbox) > self._limits.head_bytes:
            self.flow.pause_reading()

    def _read_head(self) -> bool:
        """False: it is not whole yet."""
        inbox, limit = self._inbox, self._limits.head_bytes
        if inbox[0] not in _OPEN:
            del inbox[
                : len(inbox) - len(inbox.lstrip(b"\r\n"))
            ]  # before a request line it is read over (RFC 9112, 2.2)
            if not inbox:
                return False
            if inbox[0] not in _OPEN:
                raise bad("This is no HTTP/1.1; the server speaks plain HTTP on this port, no TLS.")
        if not self._searched:
            self._since = self.loop.time()
        found = END.search(inbox, max(0, self._searched - 2), limit)
        if found is None:
            self._searched = len(inbox)
            if len(inbox) >= limit:
                raise too_long(inbox, limit)
            return False
        raw = bytes(inbox[: found.end()])
        del inbox[: found.end()]
        self._searched = 0
        try:
            self._begin(read_head(raw))
        except RequestError as error:
            self._refuse(error, bodiless=raw.startswith(b"HEAD "))
        return True

    def _begin(self, head: Head) -> None:
        self._waiting.pop(self, None)
        if self._crowded:
            self._phase = "answer" if head.length == 0 else "head"  # nothing more comes, or something may
            raise full()
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": head.version,
            "server": self.server,
            "client": self.client,
            "scheme": "http",
            "method": head.method,
            "root_path": "",
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "headers": head.headers,
            "state": {},
        }
        make = RequestResponseCycle if head.version == "1.1" else UnchunkedCycle
        self.cycle = make(
            scope=self.scope,
            transport=self._exit,  # type: ignore[arg-type]
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=head.expects,
            keep_alive=head.keep_alive,
            on_response=self.on_response_complete,
        )
        self.scope["extensions"] = {CYCLE: self.cycle}  # type: ignore[dict-item]
        self._phase, self._since = "body", self.loop.time()
        self._remaining, self._chunked, self._body_bytes = head.length, Chunked(), 0
        if head.length == 0:
            self._whole()
        self._start_asgi_task(self.cycle, self.app)

    def _read_body(self) -> bool:
        """False: more must come first."""
        if self._remaining is None:
            content, more = self._chunked.take(self._inbox)
            over = self._chunked.over
        else:
            content, more = bytes(self._inbox[: self._remaining]), False
            del self._inbox[: self._remaining]
            self._remaining -= len(content)
            over = not self._remaining
        cycle = self.cycle
        if content and not cycle.response_complete:
            self._body_bytes += len(content)
            cycle.body += content
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()
        if over:
            self._whole()
        elif more:
            self.loop.call_soon(self._advance)
        return over

    def _whole(self) -> None:
        self._phase = "answer"
        self.cycle.more_body = False
        self.cycle.message_event.set()

    # --- after an answer ---

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self._phase == "body":
            self.leave()
        elif self._phase == "answer":
            self._await_head()
            self.flow.resume_reading()
            self._advance()
            if self._ended:
                self._last()

    def _last(self) -> None:
        """A client that sends no more has its answers, unless another request is under way."""
        if self._phase == "head":
            self.leave()

    def _await_head(self) -> None:
        self._phase, self._since = "head", self.loop.time()
        self._waiting[self] = None

    def _refuse(self, error: RequestError, bodiless: bool = False) -> None:
        """Answer without the application, and close."""
        cycle = self.cycle
        if self._phase == "body":
            if cycle.response_started:
                self.transport.abort()  # half an answer must not look like a whole one
                return
            cycle.disconnected = True
            cycle.message_event.set()
        reply = error_reply(error)
        fields = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(reply.body)),
            (b"connection", b"close"),
            *reply.headers,
        ]
        head = b"".join([b"%s: %s\r\n" % field for field in fields])
        self.transport.write(STATUS_LINE[reply.status] + head + b"\r\n" + (b"" if bodiless else reply.body))
        self.leave()

    def leave(self) -> None:
        """No more requests. Close at once where nothing can be on its way to us, else our side first."""
        if self._phase == "leaving":
            return
        sending = self._phase != "answer" or bool(self._inbox)
        self._phase, self._since = "leaving", self.loop.time()
        self._waiting.pop(self, None)
        self._inbox.clear()
        if sending and not self._ended and not self.transport.is_closing():
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()

    def make_room(self, older_than: float) -> bool:
        """Give up waiting for a request, for somebody who may have one; False: not if it began to wait only now."""
        if self._since > older_than:
            return False
        if self._inbox or self._crowded:
            self._refuse(full())
        else:
            self.leave_quietly()
        return True

    def leave_quietly(self) -> None:
        """Close a connection that asks nothing, without an answer."""
        self._phase, self._since = "leaving", self.loop.time()
        self._waiting.pop(self, None)
        self.transport.close()

    # --- time ---

    def tick(self, now: float) -> None:
        """Check the limits on time. It is called every second or so."""
        waited = now - self._since
        limits = self._limits
        if self._phase == "head":
            limit = CROWDED_S if self._crowded else limits.receive_s if self._inbox else limits.idle_s
            if waited >= limit:
                if self._crowded:
                    self._refuse(full())
                elif self._inbox:
                    self._refuse(late(limit))
                else:
                    self.leave_quietly()
        elif self._phase == "body":
            if waited >= limits.receive_s + self._body_bytes / SLOWEST_BYTES_S and not self.flow.read_paused:
                self._refuse(late(limits.receive_s))
        elif self._phase == "leaving":
            if waited >= (limits.stalled_s if self.transport.get_write_buffer_size() else LINGER_S):
                self.transport.abort()
        elif self._ended:
            self._check_peer()

    def _check_peer(self) -> None:
        """Cut a client that closed its side and left. Who may be there is asked, by what every client reads over."""
        if self._phase != "answer" or self.transport.is_closing():
            return
        gone, now = is_gone(self.transport.get_extra_info("socket")), self.loop.time()
        if gone is None and not self.cycle.response_started:  # what is streamed asks by itself
            if self.scope["http_version"] == "1.0":
                gone = True  # it knows no interim answers, and such clients close when they leave
            elif now - self._asked_at >= ASK_S:
                self._asked_at = now
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if gone:
            self.transport.abort()


def full() -> RequestError:
    return bad("The server has no room for another connection; try again soon.", 503, "too_many_connections")


def late(limit_s: float) -> RequestError:
    return bad(f"The request was not whole after {limit_s:g} s; send it faster.", 408, "request_timeout")
