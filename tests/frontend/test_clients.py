"""Clients that leave, stall or only wait; and real ones over a real socket."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
import uvloop
from frontend_world import HELLO, Client, Reply, ScriptedPort, application, byte_level, card, post

from jedlik.core.config import FrontendConfig
from jedlik.core.events import Abandoned, Consumed
from jedlik.core.ids import RequestId
from jedlik.core.protocol import RUN_AHEAD_TOKENS
from jedlik.frontend.server.connection import ConnectionLimits
from jedlik.frontend.server.serving import HttpServer

CHAT = "/v1/chat/completions"
TOKENIZER = byte_level()
LONG = TOKENIZER.encode("fox " * 400).ids


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_abandons_its_request(model_dir: Path, stream: bool) -> None:
    async def scenario() -> tuple[ScriptedPort, Reply]:
        arrived = asyncio.Event()
        port = ScriptedPort()
        port.silent, port.on_arrival = True, arrived.set
        app, leave = application(model_dir, port), asyncio.Event()
        body = {"model": "tiny", "messages": HELLO, "stream": stream, "n": 2}
        call = asyncio.create_task(Client(app).post(CHAT, body, leave=leave))
        await arrived.wait()
        leave.set()
        reply = await call
        assert app.hub.state().streams == app.hub.state().calls == 0
        return port, reply

    port, reply = asyncio.run(scenario())
    assert [event for event in port.events if isinstance(event, Abandoned)] == [Abandoned(RequestId("req1"))]
    assert reply.status == 0


def test_leaving_in_mid_stream(model_dir: Path) -> None:
    async def scenario() -> ScriptedPort:
        port, leave = ScriptedPort(LONG, end="length"), asyncio.Event()
        app = application(model_dir, port)

        def seen(reply: Reply) -> None:
            if len(reply.parts) == 5:
                leave.set()

        await Client(app).post(CHAT, {"model": "tiny", "messages": HELLO, "stream": True}, leave=leave, sent=seen)
        assert app.hub.state().streams == 0
        return port

    assert sum(isinstance(event, Abandoned) for event in asyncio.run(scenario()).events) == 1


def test_a_client_that_takes_nothing_is_bounded_and_cut(model_dir: Path) -> None:
    async def scenario() -> ScriptedPort:
        port = ScriptedPort(LONG, end="length")
        app = application(model_dir, port, FrontendConfig(stalled_client_s=0.05))

        def seen(reply: Reply) -> object:
            return asyncio.Event().wait() if len(reply.parts) == 3 else None

        body = {"model": "tiny", "messages": HELLO, "stream": True}
        reply = await asyncio.wait_for(Client(app).post(CHAT, body, sent=seen), 60)
        assert not reply.complete
        assert app.hub.state().calls == 0
        return port

    port = asyncio.run(scenario())
    assert isinstance(port.events[-1], Abandoned)
    taken = max((event.position for event in port.events if isinstance(event, Consumed)), default=0)
    assert taken <= RUN_AHEAD_TOKENS


def test_pings_while_nothing_comes(model_dir: Path) -> None:
    async def scenario() -> Reply:
        port, leave = ScriptedPort(), asyncio.Event()
        port.silent = True
        app = application(model_dir, port, FrontendConfig(ping_s=0.02))

        def seen(reply: Reply) -> None:
            if len(reply.parts) == 2:
                leave.set()

        return await Client(app).post(
            CHAT, {"model": "tiny", "messages": HELLO, "stream": True}, leave=leave, sent=seen
        )

    reply = asyncio.run(scenario())
    assert reply.status == 200
    assert reply.body == b": ping\n\n" * 2
    assert "x-jedlik-worker" not in reply.headers


def test_a_busy_request_id_is_not_shared(model_dir: Path) -> None:
    async def scenario() -> list[Reply]:
        app = application(model_dir, ScriptedPort([300, 2]))
        body = {"model": "tiny", "messages": HELLO}
        calls = [Client(app).post(CHAT, body, headers={"x-request-id": "same"}) for _ in range(2)]
        return list(await asyncio.gather(*calls))

    assert {reply.headers["x-request-id"] for reply in asyncio.run(scenario())} == {"same", "req1"}


@contextmanager
def served(model_dir: Path, port: ScriptedPort, config: FrontendConfig | None = None) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    app = application(model_dir, port, config)
    config = config or FrontendConfig()
    limits = ConnectionLimits(config.max_head_bytes, config.receive_s, config.idle_s, config.stalled_client_s)
    server = HttpServer(app, limits, 1000, lambda what, count: None)
    thread = threading.Thread(target=uvloop.run, args=(server.serve([listener]),))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def test_openai_python(model_dir: Path) -> None:
    text = "The quick brown fox 😀"
    port = ScriptedPort([*TOKENIZER.encode(text).ids, 2])
    with served(model_dir, port) as url, openai.OpenAI(base_url=url + "/v1", api_key="any", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        whole = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}])
        assert whole.choices[0].message.content == text
        assert whole.usage is not None
        assert whole.usage.prompt_tokens_details is not None
        assert whole.usage.prompt_tokens_details.cached_tokens == 3
        chunks = list(
            client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": "Hi"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == len(port.script)
        done = client.completions.create(model="tiny", prompt=["a", "b"], max_tokens=4)
        assert [choice.index for choice in done.choices] == [0, 1]
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="other", messages=[{"role": "user", "content": "Hi"}])
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "Hi"}], response_format={"type": "json_object"}
            )
        assert refused.value.param == "response_format"
        port.break_after = 4
        with pytest.raises(openai.APIError, match="the worker died"):
            list(client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x"}], stream=True))


def test_a_socket_that_closes_or_stalls(model_dir: Path) -> None:
    port = ScriptedPort(LONG * 200, end="length")
    port.card_list = (card(length=200_000),)
    body = {"model": "tiny", "messages": HELLO, "stream": True, "max_tokens": 190_000}
    with served(model_dir, port, FrontendConfig(stalled_client_s=0.2)) as url:
        with httpx.Client() as client, client.stream("POST", url + CHAT, json=body) as answer:
            next(answer.iter_bytes())
        until = time.monotonic() + 60
        while sum(isinstance(e, Abandoned) for e in port.events) < 1 and time.monotonic() < until:
            time.sleep(0.005)
        assert sum(isinstance(e, Abandoned) for e in port.events) == 1
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            request = httpx.Request("POST", url + CHAT, json=body)
            head = "".join(f"{k}: {v}\r\n" for k, v in request.headers.items())
            raw.sendall(f"POST {CHAT} HTTP/1.1\r\n{head}\r\n".encode() + request.content)
            while sum(isinstance(e, Abandoned) for e in port.events) < 2 and time.monotonic() < until:
                time.sleep(0.005)
            assert sum(isinstance(e, Abandoned) for e in port.events) == 2


def test_raw_post_of_a_bad_body_keeps_the_connection(model_dir: Path) -> None:
    with served(model_dir, ScriptedPort([300, 2])) as url, httpx.Client(base_url=url) as client:
        json = {"content-type": "application/json"}
        assert client.post(CHAT, content=b"{", headers=json).status_code == 400
        assert client.post(CHAT, content=b"\xff", headers=json).status_code == 400
        assert client.post(CHAT, json={"model": "tiny", "messages": HELLO}).status_code == 200


def test_post_helper_is_closed_at_once(model_dir: Path) -> None:
    assert post(application(model_dir, ScriptedPort([300, 2])), CHAT, {"model": "tiny", "messages": HELLO}).complete
