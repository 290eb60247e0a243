"""Requests that come while a model's first worker starts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from frontend_world import HELLO, Client, Reply, ScriptedPort, application, card

from jedlik.core.config import GatewayConfig

PATIENT = GatewayConfig(no_worker_wait_s=600.0)
CHAT: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 4}


class Starting:
    """A server whose first worker has not come yet, and its clients."""

    def __init__(self, directory: Path, config: GatewayConfig = PATIENT) -> None:
        self.port = ScriptedPort([5, 6])
        self.port.card_list = ()
        self.app = application(directory, self.port, gateway=config)

    def ask(self, leave: asyncio.Event | None = None, **more: object) -> asyncio.Task[Reply]:
        body = CHAT | more
        return asyncio.create_task(Client(self.app).post("/v1/chat/completions", body, leave=leave))


async def settled() -> None:
    """Everything that can go on has done so."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_request_waits_for_the_first_worker_and_is_served(model_dir: Path) -> None:
    async def scene() -> list[Reply]:
        server = Starting(model_dir)
        asked = [server.ask(), server.ask(stream=True)]
        await settled()
        assert not any(task.done() for task in asked)
        server.port.card_list = (card(),)
        return [await task for task in asked]

    whole, streamed = asyncio.run(asyncio.wait_for(scene(), 60))
    assert whole.status == streamed.status == 200
    assert whole.json()["usage"]["completion_tokens"] == 2
    assert streamed.events()[-1] == "[DONE]"


@pytest.mark.parametrize(
    "config",
    [GatewayConfig(), GatewayConfig(no_worker_wait_s=0.01), GatewayConfig(no_worker_wait_s=600.0, max_in_flight=0)],
)
def test_without_patience_time_or_room_it_is_refused(model_dir: Path, config: GatewayConfig) -> None:
    async def scene() -> Reply:
        return await Starting(model_dir, config).ask()

    reply = asyncio.run(asyncio.wait_for(scene(), 60))
    assert (reply.status, reply.json()["error"]["code"]) == (503, "no_worker")


def test_only_so_many_wait(model_dir: Path) -> None:
    async def scene() -> list[int]:
        server = Starting(model_dir, GatewayConfig(no_worker_wait_s=600.0, max_in_flight=2))
        waiting = [server.ask(), server.ask()]
        await settled()
        refused = await server.ask()
        server.port.card_list = (card(),)
        return [refused.status, *[(await task).status for task in waiting]]

    assert asyncio.run(asyncio.wait_for(scene(), 60)) == [503, 200, 200]


def test_a_client_that_leaves_makes_room(model_dir: Path) -> None:
    async def scene() -> tuple[Reply, Reply]:
        server, leave = Starting(model_dir, GatewayConfig(no_worker_wait_s=600.0, max_in_flight=1)), asyncio.Event()
        leaving = server.ask(leave)
        await settled()
        leave.set()
        gone = await leaving
        second = server.ask()
        await settled()
        server.port.card_list = (card(),)
        return gone, await second

    gone, second = asyncio.run(asyncio.wait_for(scene(), 60))
    assert (gone.status, second.status) == (0, 200)


def test_nobody_waits_at_a_gateway_that_leaves(model_dir: Path) -> None:
    async def scene() -> Reply:
        server = Starting(model_dir)
        asked = server.ask()
        await settled()
        server.port.draining = True
        return await asked

    assert asyncio.run(asyncio.wait_for(scene(), 60)).status == 503


def test_an_unknown_model_is_not_waited_for(model_dir: Path) -> None:
    async def scene() -> Reply:
        return await Starting(model_dir).ask(model="other")

    assert asyncio.run(asyncio.wait_for(scene(), 60)).status == 404
