"""Whatever the body: never a 5xx, never anything left behind."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from frontend_world import HELLO, ScriptedPort, application, get, write_model
from hypothesis import given, settings
from hypothesis import strategies as st

from jedlik.core.config import FrontendConfig
from jedlik.frontend.app import Application
from jedlik.frontend.openai.schema import OpenAIBody

PATHS = ("/v1/chat/completions", "/v1/completions")
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=8,
)
VALUES = st.one_of(
    JSON,
    st.sampled_from(
        [0, 1, -1, 2, 2**31, 2**63, 2**64, 1e308, -0.0, "", "tiny", "\ud800", "\x00", [], {}, [[]], ["a"], [5]]
    ),
)
BODIES = st.dictionaries(st.sampled_from(OpenAIBody.__struct_fields__), VALUES, max_size=6)


def make(directory: Path) -> Application:
    return application(directory, ScriptedPort([300, 301, 2]), FrontendConfig(max_body_bytes=1 << 20))


def answered(app: Application, path: str, body: bytes) -> int:
    reply = get(app, path, "POST", body=body)
    assert reply.complete
    assert app.hub.state() == type(app.hub.state())(0, 0)
    if reply.status != 200:
        assert set(json.loads(reply.body)["error"]) == {"message", "type", "param", "code"}
    return reply.status


@pytest.fixture(scope="module")
def app(model_dir: Path) -> Application:
    return make(model_dir)


@settings(max_examples=150)
@given(body=st.binary(max_size=200), path=st.sampled_from((*PATHS, "/tokenize", "/detokenize")))
def test_any_bytes(app: Application, body: bytes, path: str) -> None:
    assert 400 <= answered(app, path, body) < 500


@settings(max_examples=250)
@given(more=BODIES, path=st.sampled_from(PATHS), valid=st.booleans())
def test_any_values(app: Application, more: dict[str, Any], path: str, valid: bool) -> None:
    base = {"model": "tiny", "messages": HELLO} if path == PATHS[0] else {"model": "tiny", "prompt": "Hi"}
    body = json.dumps({**(base if valid else {}), **more}).encode()
    assert answered(app, path, body) in (200, 400, 404)


@settings(max_examples=100)
@given(messages=st.lists(st.dictionaries(st.sampled_from(["role", "content", "name", "type", "tool_calls"]), VALUES)))
def test_any_messages(app: Application, messages: list[dict[str, Any]]) -> None:
    assert answered(app, PATHS[0], json.dumps({"model": "tiny", "messages": messages}).encode()) in (200, 400)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"metadata":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"tiny","model":"tiny"}',
        b'{"model":"tiny","prompt":"\\ud800"}',
        b'{"model":"tiny","prompt":"\\udc00 x"}',
        b'{"model":"tiny","prompt":"\xff\xfe"}',
        b'{"model":"tiny","prompt":"x","seed":' + b"9" * 5000 + b"}",
        b'{"model":"tiny","prompt":"x","temperature":NaN}',
        b'\xef\xbb\xbf{"model":"tiny","prompt":"x"}',
        msgspec.json.encode({"model": "tiny", "prompt": "a" * 900_000}),
        msgspec.json.encode({"model": "tiny", "prompt": "x" * 2_000_000}),
        msgspec.json.encode({"model": "tiny", "prompt": [1] * 300_000}),
        msgspec.json.encode({"model": "m" * 10_000, "prompt": "x"}),
    ],
)
def test_known_nastiness(app: Application, body: bytes) -> None:
    assert 400 <= answered(app, PATHS[1], body) < 500


def test_a_template_that_refuses_is_a_400(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m", template="{{ raise_exception('only users') }}")
    assert answered(make(directory), PATHS[0], json.dumps({"model": "tiny", "messages": HELLO}).encode()) == 400


def test_a_model_without_template_completes_but_does_not_chat(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m", template=None)
    assert answered(make(directory), PATHS[0], json.dumps({"model": "tiny", "messages": HELLO}).encode()) == 400
    assert answered(make(directory), PATHS[1], json.dumps({"model": "tiny", "prompt": "Hi"}).encode()) == 200
