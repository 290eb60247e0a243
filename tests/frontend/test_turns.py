"""Long work leaves others their turns: what is counted is turns, not time."""

import asyncio
import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from frontend_world import Client, ScriptedPort, application, card

from jedlik.core.config import FrontendConfig
from jedlik.core.errors import RequestError
from jedlik.frontend import turns
from jedlik.frontend.json_body import SMALL_BYTES, Reader
from jedlik.frontend.openai.schema import OpenAIBody
from jedlik.frontend.turns import Steps, Turns, finish

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "hi"}


def counting(most: int) -> Steps[int]:
    for _ in range(most):
        yield None
    return most


def away(work: Callable[[], int]) -> Steps[int]:
    try:
        made: int = yield work
    except ValueError:
        return -1
    return made


def failing() -> int:
    raise ValueError


def test_work_comes_to_its_result_either_way() -> None:
    assert finish(counting(5)) == asyncio.run(Turns().run(counting(5))) == 5
    assert finish(away(threading.get_ident)) == threading.get_ident()
    assert asyncio.run(Turns().run(away(threading.get_ident))) != threading.get_ident()
    assert finish(away(failing)) == asyncio.run(Turns().run(away(failing))) == -1


def test_all_long_work_together_takes_one_turn_of_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    at: list[int] = []

    def work() -> Steps[None]:
        for _ in range(20):
            at.append(rounds)
            yield None

    rounds = 0

    async def main() -> None:
        nonlocal rounds
        shared = Turns()
        tasks = [asyncio.create_task(shared.run(work())) for _ in range(5)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            rounds += 1

    asyncio.run(main())
    later = [each for each in at if each > 0]
    assert len(at) == 100
    assert max(later.count(each) for each in set(later)) <= 2


async def turns_beside(app: Any, path: str, body: object) -> tuple[int, int]:
    """(status, how many turns another task had meanwhile)."""
    had = 0
    over = False

    async def other() -> None:
        nonlocal had
        while not over:
            await asyncio.sleep(0)
            had += 1

    beside = asyncio.create_task(other())
    await asyncio.sleep(0)
    reply = await Client(app).post(path, body)
    over = True
    await beside
    return reply.status, had


TEXT = " ".join(random.Random(1).choices(["alpha", "river", "<b>", "stone", "é"], k=20_000))
HEAVY: dict[str, tuple[str, dict[str, Any], int]] = {
    "messages": (CHAT, {"messages": [USER] * 5000}, 200),
    "messages to shield": (CHAT, {"messages": [{"role": "user", "content": "<"}] * 5000}, 200),
    "text": (CHAT, {"messages": [{"role": "user", "content": TEXT}]}, 200),
    "prompts": (COMPLETIONS, {"prompt": [TEXT[at:][:2000] for at in range(200)]}, 200),
    "ids": (COMPLETIONS, {"prompt": [[5] * 400] * 200}, 200),
    "echoes": (COMPLETIONS, {"prompt": [[5] * 400] * 200, "echo": True}, 200),
    "choices": (COMPLETIONS, {"prompt": ["a"] * 60, "n": 16}, 200),
    "tokenize": ("/tokenize", {"prompt": TEXT}, 200),
    "tokenize messages": ("/tokenize", {"messages": [USER] * 5000}, 200),
    "detokenize": ("/detokenize", {"tokens": [5] * 100_000}, 200),
    "no text": (CHAT, {"messages": [USER] * 9999 + [{"role": "user", "content": 5}]}, 400),
}


@pytest.mark.parametrize("name", sorted(HEAVY))
def test_a_heavy_body_leaves_others_their_turns(model_dir: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    path, more, status = HEAVY[name]
    port = ScriptedPort([300, 301, 2])
    port.card_list = (card(length=1_000_000),)
    app = application(model_dir, port, FrontendConfig())
    body = {"model": "tiny", **({"max_tokens": 2} if path.startswith("/v1") else {}), **more}
    given, had = asyncio.run(turns_beside(app, path, body))
    assert given == status
    assert had > 20


# --- what a body holds ---


def read(raw: bytes) -> OpenAIBody:
    return finish(Reader(OpenAIBody).steps(raw))


def full(unit: str, count: int, head: str = '{"model":"m","messages":[', tail: str = "]}") -> bytes:
    return (head + ",".join([unit] * count) + tail).encode()


@pytest.mark.parametrize(
    "raw",
    [
        full('{"role":""}', 50_000),
        full("[]", 100_000, '{"model":"m","prompt":['),
        full("1", 1_100_000, '{"model":"m","prompt":['),
        full('"":1', 100_000, '{"model":"m","logit_bias":{', "}}"),
        full("{}", 100_000, '{"model":"m","metadata":['),
        b"[" * 200_000,
    ],
)
def test_what_would_take_long_to_decode_is_refused_before(raw: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        read(raw)
    assert refused.value.code == "body_too_complex"


@pytest.mark.parametrize("text", ['{"a":[1,2]},' * 100_000, '\\"{:' * 100_000, "\\\\" * 100_000 + '"', '"' * 300_001])
def test_text_about_json_is_text(text: str) -> None:
    raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    assert len(raw) > SMALL_BYTES
    messages = read(raw).messages
    assert messages is not None
    assert messages[0].content == text


@pytest.mark.parametrize("raw", [b'"' + b"a" * 300_000, b'"\\' * 200_000, b"\\" * 300_000, b'{"' * 200_000])
def test_weighing_is_linear_and_raises_nothing_else(raw: bytes) -> None:
    for factor in (1, 2):
        steps = Reader(OpenAIBody).steps(raw * factor)
        with pytest.raises(RequestError):
            finish(steps)


def test_messages_and_their_parts_are_limited(model_dir: Path) -> None:
    app = application(model_dir, ScriptedPort([300, 2]), FrontendConfig(max_messages=3))
    parts = [{"type": "text", "text": "a"}]
    for messages, status in (
        ([USER] * 3, 200),
        ([USER] * 4, 400),
        ([{"role": "user", "content": parts * 3}], 200),
        ([{"role": "user", "content": parts * 2}, USER, USER], 400),
    ):
        reply = asyncio.run(Client(app).post(CHAT, {"model": "tiny", "messages": messages}))
        assert reply.status == status
        if status == 400:
            assert reply.json()["error"]["param"] == "messages"


def test_an_identifier_in_flight_is_not_given_twice(model_dir: Path) -> None:
    """Also where preparing an answer takes turns."""
    port = ScriptedPort([300, 301, 2])
    app = application(model_dir, port)

    body = {"model": "tiny", "prompt": [5] * 400, "echo": True}

    async def main() -> list[str]:
        asks = [Client(app).post(COMPLETIONS, body, headers={"x-request-id": "a"}) for _ in range(4)]
        return [reply.json()["id"] for reply in await asyncio.gather(*asks)]

    ids = asyncio.run(main())
    assert len(set(ids)) == 4
