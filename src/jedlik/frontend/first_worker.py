"""Requests that come before a model's first worker: they wait for what it can do, which says how to read them.

Once a worker has been there its limits are known, and requests without a worker wait in the gateway's node instead.
Promised: nobody waits longer than `gateway.no_worker_wait_s`, after the client has left, or once the gateway leaves;
and no more wait than may be in flight.
"""

import asyncio
from contextlib import suppress

from jedlik.core.config import GatewayConfig
from jedlik.frontend.http import Disconnected, Receive, Web
from jedlik.frontend.openai.limits import LimitsBook, ModelLimits
from jedlik.frontend.port import GatewayPort

LOOK_EVERY_S = 0.05
"""Cards are looked at this often while somebody waits, once for all."""


class FirstWorkers:
    """Requests wait here for their model's first worker, as the module says. Runs on one event loop."""

    def __init__(self, port: GatewayPort, book: LimitsBook, config: GatewayConfig) -> None:
        self._port, self._book, self._config = port, book, config
        self._waiting: dict[asyncio.Future[None], str] = {}
        """The model that each waiting request is for."""

    def __len__(self) -> int:
        return len(self._waiting)

    async def limits(self, web: Web, model: str) -> ModelLimits | None:
        """What the model's workers can do; None if nobody has shown it in time. Raises RequestError, Disconnected."""
        limits = self._look(model)
        if limits is None and self._config.no_worker_wait_s > 0 and len(self) < self._config.max_in_flight:
            await self._wait(web.receive, model)
            limits = self._look(model)
        return limits

    def _look(self, model: str) -> ModelLimits | None:
        self._book.update(self._port.cards())
        return self._book.of(model)

    async def _wait(self, receive: Receive, model: str) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        if not self._waiting:
            loop.call_later(LOOK_EVERY_S, self._tick)
        self._waiting[ready] = model
        leaving = asyncio.create_task(_left(receive), name="watch for disconnect")
        try:
            wait_s = self._config.no_worker_wait_s
            await asyncio.wait((ready, leaving), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                raise Disconnected
        finally:
            del self._waiting[ready]
            leaving.cancel()
            with suppress(asyncio.CancelledError):
                await leaving

    def _tick(self) -> None:
        draining = bool(self._port.health().get("draining"))
        for ready, model in self._waiting.items():
            if not ready.done() and (draining or self._look(model) is not None):
                ready.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._tick)


async def _left(receive: Receive) -> None:
    """The body is read, so what comes next is the end of the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
