"""Bodies are read, or refused in our words with the path of what is wrong; never anything else."""

import json
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from frontend_world import ABLE, HELLO, write_model
from hypothesis import given, settings
from hypothesis import strategies as st

from jedlik.core.config import FrontendConfig
from jedlik.core.errors import RequestError
from jedlik.frontend import json_body as reading
from jedlik.frontend.dialect import AnswerPlan
from jedlik.frontend.errors import error_reply
from jedlik.frontend.json_body import Reader
from jedlik.frontend.models import ModelLimits
from jedlik.frontend.openai.plan import PlanMaker
from jedlik.frontend.openai.schema import BODY, Message, OpenAIBody
from jedlik.frontend.pages import DetokenizeBody, TokenizeBody
from jedlik.frontend.text.model import TextModel, load_text
from jedlik.frontend.turns import finish

BASE = {"model": "tiny", "messages": HELLO}
LIMITS = ModelLimits(max_model_len=512, vocab_size=900, sampling=ABLE.sampling, max_logprobs=5, choices=16)


def error_of(raw: bytes, read: Callable[[bytes], object] = BODY.read) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read(raw)
    return caught.value


def having(**more: Any) -> bytes:
    return json.dumps({**BASE, **more}).encode()


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"temperature": True}, "temperature", "invalid_value"),
        ({"max_tokens": 5.5}, "max_tokens", "invalid_value"),
        ({"max_tokens": "5"}, "max_tokens", "invalid_value"),
        ({"stream": 1}, "stream", "invalid_value"),
        ({"stop": [1]}, "stop[0]", "invalid_value"),
        ({"logit_bias": {"5": "x"}}, "logit_bias.5", "invalid_value"),
        ({"stream_options": {"usage": 1}}, "stream_options.usage", "unknown_parameter"),
        ({"messages": {}}, "messages", "invalid_value"),
        ({"messages": [*HELLO, 5]}, "messages[1]", "invalid_value"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_parameter"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x", "colour": 1}]}, "messages[0].colour", "unknown_parameter"),
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"model": None}, "model", "invalid_value"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(more: dict[str, Any], param: str, code: str) -> None:
    error = error_of(having(**more))
    assert (error.param, error.code, error.status) == (param, code, 400)
    assert param in str(error)


@pytest.mark.parametrize("read", [BODY.read, Reader(TokenizeBody).read, Reader(DetokenizeBody).read])
@pytest.mark.parametrize(
    "raw", [b"", b" ", b"{", b"[]", b"5", b"null", b'"x"', b"\xff", b"{'a':1}", b"[" * 100_000, b'{"model":5}']
)
def test_no_words_of_the_library_are_told(read: Callable[[bytes], object], raw: bytes) -> None:
    told = str(error_of(raw, read))
    assert not any(word in told for word in ("Expected", "Object", "truncated", "malformed", "`"))


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b'{"model":"\\ud800"}', "model"),
        (b'{"model":"x","messages":[{"role":"user","content":"a\\udc00"}]}', "messages[0].content"),
        (b'{"model":"x","metadata":{"a":["\\ud800"]}}', "metadata.a[0]"),
        (b'{"model":"x","temperature":1e999}', "temperature"),
        (b'{"model":"x","temperature":NaN}', "temperature"),
        (b'{"model":"x","seed":' + b"9" * 5000 + b"}", "seed"),
    ],
)
def test_a_value_that_nothing_can_hold_is_named(raw: bytes, param: str) -> None:
    error = error_of(raw)
    assert (error.param, error.code) == (param, "invalid_json")
    error_reply(error)


def test_what_asks_for_nothing_is_taken() -> None:
    plain = BODY.read(having(max_tokens=5))
    message = {**HELLO[0], "anything": None, "tool_calls": None}
    assert BODY.read(having(max_tokens=5.0, anything=None, messages=[message])) == plain
    assert BODY.read(having(max_tokens=5.0, seed=1e3)).seed == 1000


def test_a_second_look_is_bounded() -> None:
    many = [{"role": "user", "content": "x"}] * reading.MOST_LOOKED_AT
    assert error_of(having(messages=many, temperature="x")).param is None
    assert BODY.read(having(messages=many)).messages is not None
    ids = [5] * 200_000
    assert error_of(having(prompt=ids, temperature="x")).param == "temperature"
    assert error_of(having(prompt=[*ids, 1.5])).code == "invalid_value"


def test_errors_stay_small_and_can_be_sent() -> None:
    for error in (
        error_of(having(**{"x" * 1_000_000: 1})),
        error_of(having(messages=[{"role": "user", "content": [{"type": "y" * 1_000_000}], "z" * 100_000: 1}])),
        RequestError("\ud800" * 10_000, param="\udfff"),
    ):
        reply = error_reply(error)
        assert len(reply.body) < 16_000
        assert json.loads(reply.body)["error"]["type"] == "invalid_request_error"


# --- whatever comes ---

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.text(max_size=6),
        st.floats(),
        st.sampled_from(
            [0, 1, -1, 5.0, 2**31, 2**63, -(2**63) - 1, 2**64, 10**30, 1e308, "none", "auto", "text", "low"]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=4), inner, max_size=3),
        st.fixed_dictionaries({"type": st.sampled_from(["text", "thinking", "image_url", "enabled"]), "text": inner}),
    ),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.dictionaries(st.sampled_from([*Message.__struct_fields__, "x"]), JSON, max_size=5).flatmap(
        lambda some: st.builds(
            lambda role, content: {"role": role, "content": content, **some},
            st.sampled_from(["user", "assistant", "system", "developer", "tool", "?"]),
            st.one_of(st.text(max_size=8), JSON),
        )
    ),
    max_size=4,
)
FIELDS = st.dictionaries(
    st.one_of(st.sampled_from(OpenAIBody.__struct_fields__), st.text(max_size=4)), JSON, max_size=5
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    directory = write_model(tmp_path_factory.mktemp("planned"))
    return load_text(directory, time.time)


def planned(text: TextModel, raw: bytes, chat: bool) -> AnswerPlan | RequestError:
    """The validation path."""
    try:
        body = BODY.read(raw)
        planning = PlanMaker(body, text, LIMITS, FrontendConfig(), random.Random(1))
        return finish(planning.chat() if chat else planning.completion())
    except RequestError as error:
        error_reply(error)
        return error


@settings(max_examples=400)
@given(some=FIELDS, messages=st.none() | MESSAGES, chat=st.booleans(), escaped=st.booleans())
def test_any_body_is_a_plan_or_a_refusal(
    text: TextModel, some: dict[str, Any], messages: Any, chat: bool, escaped: bool
) -> None:
    base: dict[str, Any] = dict(BASE) if chat else {"model": "tiny", "prompt": "Hi"}
    if messages is not None and chat:
        base["messages"] = messages
    raw = json.dumps({**base, **some}, ensure_ascii=escaped).encode(errors="surrogatepass")
    outcome = planned(text, raw, chat)
    assert isinstance(outcome, AnswerPlan) or 400 <= outcome.status < 500


@settings(max_examples=200)
@given(raw=st.binary(max_size=60), at=st.integers(0, 200), chat=st.booleans())
def test_any_damage_is_a_refusal_or_a_plan(text: TextModel, raw: bytes, at: int, chat: bool) -> None:
    whole = having(temperature=0.5, stop=["a"], logit_bias={"5": 1.5})
    outcome = planned(text, whole[:at] + raw + whole[at + len(raw) // 2 :], chat)
    assert isinstance(outcome, AnswerPlan) or 400 <= outcome.status < 500


@settings(max_examples=300)
@given(some=FIELDS)
def test_the_second_look_takes_what_the_decoder_takes(some: dict[str, Any]) -> None:
    """Where msgspec refuses, the second look names what is wrong or mends it: it never only shrugs."""
    try:
        raw = json.dumps({**BASE, **some}, allow_nan=False).encode()
        msgspec.json.decode(raw)
    except (ValueError, msgspec.MsgspecError):
        return
    try:
        body, fault = BODY.read(raw), None
    except RequestError as error:
        body, fault = None, error
    assert body is not None or (fault is not None and fault.param)
    assert body is None or BODY.read(msgspec.json.encode(body)) == body
