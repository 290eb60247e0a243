"""Sends from inside a delivery: done at once, handed over when the client is slow, failures kept for the task."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jedlik.frontend.http import Web
from jedlik.frontend.hub import Call
from jedlik.frontend.pump import Pump

Send = Callable[[Any], Awaitable[None]]


def pumping(send: Send, news: list[bytes]) -> tuple[Call, Pump]:
    call = Call([], [], eager=True)
    web = cast(Web, SimpleNamespace(send=send))
    return call, Pump(call, web, lambda: news.pop(0) if news else b"", lambda: 5.0)


def test_a_free_client_gets_it_at_once() -> None:
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message["body"])

    call, pump = pumping(send, [b"a", b"", b"b"])
    pump()
    pump()
    pump()
    assert sent == [b"a", b"b"]
    assert call.sending_since is None


def test_a_slow_client_is_waited_for_by_the_task() -> None:
    async def scenario() -> None:
        room = asyncio.get_running_loop().create_future()
        sent: list[bytes] = []

        async def send(message: Any) -> None:
            await room
            await asyncio.sleep(0)
            sent.append(message["body"])

        news = [b"a", b"later"]
        call, pump = pumping(send, news)
        pump()
        assert call.sending_since == 5.0
        await call.news()
        pump()
        assert news == [b"later"], "nothing more is taken while a send waits"
        room.set_result(None)
        await pump.settle()
        assert sent == [b"a"]
        since: float | None = call.sending_since
        assert since is None

    asyncio.run(scenario())


def test_a_failure_is_the_tasks() -> None:
    async def send(message: Any) -> None:
        raise RuntimeError("the server says no")

    _, pump = pumping(send, [b"a"])
    pump()
    with pytest.raises(RuntimeError, match="says no"):
        asyncio.run(pump.settle())


def test_a_stream_that_ends_leaves_no_half_send() -> None:
    closed: list[bool] = []

    async def send(message: Any) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            closed.append(True)

    async def scenario() -> None:
        call, pump = pumping(send, [b"a"])
        pump()
        pump.stop()
        assert call.pump is None

    asyncio.run(scenario())
    assert closed == [True]
