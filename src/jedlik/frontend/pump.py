"""Writes a stream's news to its client from inside the delivery that brought it.

Waking a task for each token costs more than the token. An ASGI send that has not to wait for the client ends at its
first step, so it is run right there; one that has to wait is handed to the stream's task, which awaits the rest.

    hub.deliver ─▶ pump() ─▶ web.send(...)
                               ├─ ended at its first step: sent; the stream's task has slept on
                               └─ waits for the client: kept half run ─▶ call.wake() ─▶ the task: await pump.settle()
"""

import types
from collections.abc import Callable, Generator
from typing import Any

from jedlik.frontend.http import Web
from jedlik.frontend.hub import Call

Sending = Generator[Any, Any, Any]
"""The server's send, run by hand. What it yields are futures of the event loop."""


@types.coroutine
def _rest(sending: Sending, awaited: Any) -> Generator[Any, Any, None]:
    """Await what a half-run coroutine waits for, and run it to its end.

    `awaited` is what its last step yielded: a future of the event loop that has not been waited for yet. A task that
    gets it from here waits for it, and goes on with the coroutine when it is done, as if it had run it from the start.
    """
    try:
        while True:
            yield awaited  # the task's event loop waits for this future
            awaited = sending.send(None)  # it is done: the next step, which may yield another
    except StopIteration:
        return
    finally:
        sending.close()


class Pump:
    """The pump of one stream. `news` returns the events to be sent."""

    def __init__(self, call: Call, web: Web, news: Callable[[], bytes], now: Callable[[], float]) -> None:
        self._call = call
        self._web = web
        self._news = news
        self._now = now
        self._half_run: tuple[Sending, Any] | None = None
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
            self._half_run = sending, sending.send(None)
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
        if self._half_run is not None:
            half_run, self._half_run = self._half_run, None
            await _rest(*half_run)
            self._call.sending_since = None

    def stop(self) -> None:
        self._call.pump = None
        if self._half_run is not None:
            self._half_run[0].close()
