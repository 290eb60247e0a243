"""Writes a stream's news to its client from inside the delivery that brought it.

Waking a task for each token costs more than the token. An ASGI send that has not to wait for the client ends at its
first step, so it is run right there; one that has to wait is handed to the stream's task, which awaits the rest.
"""

import types
from collections.abc import Callable, Generator
from typing import Any

from jedlik.frontend.http import Web
from jedlik.frontend.hub import Call

Sending = Generator[Any, Any, Any]  # what the server's send is made of; its futures are the event loop's own


@types.coroutine
def _rest(sending: Sending, awaited: Any) -> Generator[Any, Any, None]:
    """Await what a half-run coroutine waits for, and run it to its end."""
    try:
        while True:
            yield awaited
            awaited = sending.send(None)
    except StopIteration:
        return
    finally:
        sending.close()


class Pump:
    """One stream's. `news` gives the events to be sent."""

    def __init__(self, call: Call, web: Web, news: Callable[[], bytes], now: Callable[[], float]) -> None:
        self._call = call
        self._web = web
        self._news = news
        self._now = now
        self._held: tuple[Sending, Any] | None = None
        self._failed: Exception | None = None

    def __call__(self) -> None:
        call = self._call
        if call.ending or call.sending_since is not None:
            call.wake()
            return
        body = self._news()
        if body:
            self._send(body)
        if self._call.ending:  # a stop string
            call.wake()

    def _send(self, body: bytes) -> None:
        call = self._call
        call.quiet_since = self._now()
        sending: Any = self._web.send({"type": "http.response.body", "body": body, "more_body": True})
        try:
            self._held = sending, sending.send(None)
        except StopIteration:
            return
        except Exception as error:  # the stream's task raises it: a delivery is no place for one stream's failure
            self._failed = error
        call.sending_since = call.quiet_since
        call.wake()

    async def settle(self) -> None:
        """Await a send that is under way; raises what it does."""
        if self._failed is not None:
            raise self._failed
        if self._held is not None:
            held, self._held = self._held, None
            await _rest(*held)
            self._call.sending_since = None

    def stop(self) -> None:
        self._call.pump = None
        if self._held is not None:
            self._held[0].close()
