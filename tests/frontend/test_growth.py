"""What a client sends costs time in proportion to its length: eight times the input, no more than eight times the time.

Quadratic work would cost 64 times as much; the limit of 24 leaves room for a busy machine. Time is the processor's.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from frontend_world import ScriptedPort, application, card, get

from jedlik.frontend.app import Application

SMALL, TIMES, LIMIT = 12_000, 8, 24
LEAST_S = 0.002
"""Below this a measurement is mostly noise."""
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
Make = Callable[[int], bytes]


def having(**more: Any) -> bytes:
    return json.dumps({"model": "tiny", "max_tokens": 1, **more}).encode()


def saying(content: object, **more: Any) -> bytes:
    return having(messages=[{"role": "user", "content": content}], **more)


def repeated(unit: str) -> Make:
    return lambda size: saying(unit * (size // len(unit)))


UNITS = (
    *("a", "word ", "1", " ", "\n", "\n ", " \n", "'", "<", "<|im_", "<|im_end|>", "<|im_start|>\n", "<tool>", "é"),
    *(
        "a\u0301",
        "\u0301",
        "😀",
        "\u200d",
        "\u180e",
        "字",
        "!?",
        "\t",
        "\r\n",
        "ᄀ",
        "{{7*7}}{% for %}",
        "a" + " " * 50,
    ),
)
BODIES: dict[str, Make] = {
    "unknown field": lambda n: saying("x", **{"unknown field `" * (n // 15) + "\nx": 1}),
    "unknown field with a path": lambda n: saying("x", **{" - at `$." * (n // 9): 1}),
    "unknown fields at null": lambda n: saying("x", **{f"f{i}": None for i in range(n // 12)}),
    "unknown field of an option": lambda n: saying("x", stream_options={"x" * n: 1}),
    "model": lambda n: json.dumps({"model": "m" * n, "messages": []}).encode(),
    "role": lambda n: having(messages=[{"role": "`" * n, "content": "x"}]),
    "type of a part": lambda n: saying([{"type": "text", "text": "x"}] * (n // 30) + [{"type": "q" * n}]),
    "fields of a part": lambda n: saying([{"type": "text", "text": "x", **{f"k{i}": None for i in range(n // 12)}}]),
    "parts": lambda n: saying([{"type": "text", "text": "x"}] * (n // 30)),
    "one bad message": lambda n: having(messages=[{"role": "user", "content": "x"}] * (n // 35) + [{"role": 7}]),
    "half a pair": lambda n: having(messages=[{"role": "user", "content": "x"}] * (n // 35) + ["\ud800"]),
    "a string without end": lambda n: b'{"model":"' + b"a" * n,
    "backslashes": lambda n: b'{"model":"' + b"\\\\" * (n // 2),
    "lines": lambda n: b"{" + b"\n" * n + b"}x",
    "no UTF-8": lambda n: b'{"model":"' + b"a" * n + b'\xff"}',
    "digits": lambda n: b'{"model":"x","seed":' + b"9" * n + b"}",
    "decimals": lambda n: b'{"model":"x","temperature":0.' + b"9" * n + b"}",
    "brackets": lambda n: b"[" * n,
    "keys of logit_bias": lambda n: saying("x", logit_bias={str(i): 1 for i in range(n // 10)}),
    "key of logit_bias": lambda n: saying("x", logit_bias={"1" * n: 1}),
    "chat_template_kwargs": lambda n: saying("x", chat_template_kwargs={f"k{i}": "v" for i in range(n // 10)}),
    "name of a variable": lambda n: saying("x", chat_template_kwargs={"_" * n: 1}),
    "cache_salt": lambda n: saying("x", cache_salt="s" * n),
    "user": lambda n: saying("x", user="u" * n),
    "stop": lambda n: saying("x", stop=["s"] * (n // 5)),
    "stop string": lambda n: saying("x", stop="s" * n),
    "reasoning_effort": lambda n: saying("x", reasoning_effort="r" * n),
    **{f"text of {unit[:12]!r}": repeated(unit) for unit in UNITS},
}
PROMPTS: dict[str, Make] = {
    "prompt": lambda n: having(prompt="a b" * (n // 3)),
    "prompt, echoed": lambda n: having(prompt="é<|im_end|>" * (n // 11), echo=True, max_tokens=0),
    "ids": lambda n: having(prompt=[5] * (n // 3), echo=True, max_tokens=0),
    "one bad id": lambda n: having(prompt=[5] * (n // 3) + [-1]),
    "one id that is none": lambda n: having(prompt=[5] * (n // 3) + ["x"]),
    "texts": lambda n: having(prompt=["a"] * (n // 5)),
}
PAGES: dict[str, Make] = {
    "text": lambda n: json.dumps({"prompt": "<|im_end|>" * (n // 10)}).encode(),
    "unknown": lambda n: json.dumps({"prompt": "x", "unknown field `" * (n // 15): 1}).encode(),
}


@pytest.fixture(scope="module")
def app(model_dir: Path) -> Application:
    port = ScriptedPort([300])
    port.card_list = (card(length=1_000_000),)
    return application(model_dir, port)


def took_s(app: Application, path: str, method: str, make: Make, size: int, headers: dict[str, str]) -> float:
    """The quicker of two, of bodies that differ, so that no cache answers the second."""
    best = float("inf")
    for odd in range(2):
        body = make(size + 40 * odd)
        began = time.process_time()
        reply = get(app, path, method, body=body, headers=headers)
        best = min(best, time.process_time() - began)
        assert 200 <= reply.status < 500
        assert reply.status == 200 or len(reply.body) < 16_000
    return best


def compare(app: Application, path: str, make: Make, method: str = "POST", header: str | None = None) -> None:
    """Measured up to three times: only what is slow each time is slow."""
    for _ in range(3):
        head = {} if header is None else {header: "A b,;=" * (SMALL // 6)}
        small_s = took_s(app, path, method, make, SMALL, head)
        large_s = took_s(app, path, method, make, SMALL * TIMES, {name: value * TIMES for name, value in head.items()})
        if large_s < LIMIT * max(small_s, LEAST_S):
            return
    raise AssertionError(f"{TIMES} times the input took {small_s:.4f} s, then {large_s:.4f} s")


@pytest.mark.parametrize("name", BODIES)
def test_chats(app: Application, name: str) -> None:
    compare(app, CHAT, BODIES[name])


@pytest.mark.parametrize("name", PROMPTS)
def test_completions(app: Application, name: str) -> None:
    compare(app, TEXT, PROMPTS[name])


@pytest.mark.parametrize("name", PAGES)
def test_pages(app: Application, name: str) -> None:
    compare(app, "/tokenize", PAGES[name])


@pytest.mark.parametrize("path", ["/explain/", "/v1/models/", "/"])
def test_paths(app: Application, path: str) -> None:
    for size in (SMALL, SMALL * TIMES):
        reply = get(app, path + "//a" * size)
        assert (reply.status, len(reply.body) < 16_000) == (404, True)


@pytest.mark.parametrize(
    "header", ["x-request-id", "x-session-id", "authorization", "content-type", "content-length", "host", "origin"]
)
def test_headers(app: Application, header: str) -> None:
    compare(app, CHAT, lambda size: saying("x"), header=header)
