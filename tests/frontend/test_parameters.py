"""Every parameter takes effect or is a 400 that names it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from frontend_world import ABLE, HELLO, ScriptedPort, application, card, post

from jedlik.core import tokens
from jedlik.core.events import Arrived
from jedlik.core.protocol import Capabilities
from jedlik.core.requests import KvHint, Request
from jedlik.frontend.openai.plan import COUNTED
from jedlik.frontend.openai.schema import NEUTRAL, WITHOUT_EFFECT, OpenAIBody

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def ask(model_dir: Path, path: str, port: ScriptedPort | None = None, **more: Any) -> tuple[Any, list[Request]]:
    port = port or ScriptedPort([300, 301, 2])
    base: dict[str, Any] = {"model": "tiny"} | ({"messages": HELLO} if path == CHAT else {"prompt": "Hi"})
    reply = post(application(model_dir, port), path, base | more)
    return reply, [event.request for event in port.events if isinstance(event, Arrived)]


def refused(model_dir: Path, path: str, port: ScriptedPort | None = None, **more: Any) -> tuple[str | None, str | None]:
    reply, requests = ask(model_dir, path, port, **more)
    assert reply.status == 400, reply.body
    assert requests == []
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error["param"], error["code"]


def named(name: str, value: object) -> dict[str, Any]:
    return {name: value}


TAKES_EFFECT: list[tuple[str, Any, Any]] = [
    ("temperature", 0.5, lambda r: r.sampling.temperature == 0.5),
    ("temperature", 0, lambda r: r.sampling.temperature == 0),
    ("top_p", 0.5, lambda r: r.sampling.top_p == 0.5),
    ("top_k", 7, lambda r: r.sampling.top_k == 7),
    ("top_k", -1, lambda r: r.sampling.top_k == 0),
    ("min_p", 0.1, lambda r: r.sampling.min_p == 0.1),
    ("frequency_penalty", 1, lambda r: r.sampling.frequency_penalty == 1),
    ("presence_penalty", -1, lambda r: r.sampling.presence_penalty == -1),
    ("repetition_penalty", 1.1, lambda r: r.sampling.repetition_penalty == 1.1),
    ("logit_bias", {"5": -100}, lambda r: r.sampling.logit_bias == {5: -100.0}),
    ("seed", 11, lambda r: r.sampling.seed == 11),
    ("seed", 2**63 - 1, lambda r: r.sampling.seed == 2**63 - 1),
    ("seed", -(2**63), lambda r: r.sampling.seed == 2**63),
    ("seed", -2, lambda r: r.sampling.seed == 2**64 - 2),
    ("top_p", 0, lambda r: 0 < r.sampling.top_p < 1e-6),
    ("max_tokens", 9.0, lambda r: r.stopping.max_tokens == 9),
    ("n", 2, lambda r: r.choices == 2),
    ("max_tokens", 9, lambda r: r.stopping.max_tokens == 9),
    ("min_tokens", 3, lambda r: r.stopping.min_tokens == 3),
    ("ignore_eos", True, lambda r: r.stopping.ignore_eos),
    ("stop_token_ids", [7, 8], lambda r: r.stopping.stop_token_ids == (7, 8)),
    ("priority", -3, lambda r: r.priority == -3),
    ("cache_salt", "mine", lambda r: r.salt == "mine"),
    ("prompt_cache_key", "talk", lambda r: bool(r.session)),
    ("user", "ann", lambda r: bool(r.session)),
    ("kv_hint", {"pin_s": 30, "next_turn_s": 12.5}, lambda r: r.hint == KvHint(30.0, 12.5)),
    ("kv_hint", {"final": True}, lambda r: r.hint == KvHint(final=True)),
    ("kv_hint", {"next_turn_s": 0}, lambda r: r.hint == KvHint(next_turn_s=0.0)),
    ("kv_hint", {}, lambda r: r.hint == KvHint()),
]


@pytest.mark.parametrize(("name", "value", "holds"), TAKES_EFFECT)
def test_takes_effect(model_dir: Path, name: str, value: Any, holds: Any) -> None:
    for path in (CHAT, TEXT):
        reply, requests = ask(model_dir, path, **{name: value})
        assert reply.status == 200, reply.body
        assert holds(requests[0])


BAD: list[tuple[str, Any]] = [
    ("temperature", 2.5), ("temperature", -0.1), ("temperature", "hot"), ("top_p", -0.1), ("top_p", 1.5), ("top_k", -2),
    ("min_p", 2), ("frequency_penalty", 3), ("presence_penalty", -3), ("repetition_penalty", 0), ("seed", "x"),
    ("seed", 2**63), ("seed", -(2**63) - 1), ("seed", 10**30), ("seed", 1.5), ("seed", True),
    ("logit_bias", {"x": 1}), ("logit_bias", {"5": 101}), ("logit_bias", {"99999": 1}), ("logit_bias", {"-1": 1}),
    ("logit_bias", {" 5": 1}), ("logit_bias", {"+5": 1}), ("logit_bias", {"0_5": 1}), ("logit_bias", {"05": 1}),
    ("logit_bias", {"5.0": 1}), ("logit_bias", {"٥": 1}), ("logit_bias", {"": 1}), ("logit_bias", {"5\n": 1}),
    ("n", 0), ("n", 17), ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 5.5), ("max_tokens", "5"),
    ("min_tokens", -1), ("min_tokens", 100_000),
    ("stop_token_ids", [99_999]), ("stop", ""), ("stop", ["a", ""]), ("stop", ["a"] * 33), ("cache_salt", ""),
    ("priority", 2**40), ("user", 7), ("prompt_cache_key", ["a"]), ("stream", "yes"),
    ("stream_options", {"include_usage": True}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values_are_named(model_dir: Path, name: str, value: Any) -> None:
    for path in (CHAT, TEXT):
        param, code = refused(model_dir, path, **{name: value})
        assert param == name
        assert code == "invalid_value"


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_not_served_is_named_and_its_default_accepted(model_dir: Path, name: str) -> None:
    assert refused(model_dir, CHAT, **named(name, {"ask": "something"})) == (name, "unsupported_parameter")
    for value in (None, *NEUTRAL[name]):
        assert ask(model_dir, CHAT, **named(name, value))[0].status == 200


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
def test_documented_as_without_effect(model_dir: Path, name: str) -> None:
    _, plain = ask(model_dir, CHAT)
    reply, requests = ask(model_dir, CHAT, **named(name, "x"))
    assert reply.status == 200
    assert requests == plain


def test_unknown_parameters_are_named_with_their_path(model_dir: Path) -> None:
    assert refused(model_dir, CHAT, temprature=1) == ("temprature", "unknown_parameter")
    bad = [{"role": "user", "content": "x", "colour": "red"}]
    assert refused(model_dir, CHAT, messages=bad) == ("messages[0].colour", "unknown_parameter")
    assert refused(model_dir, TEXT, messages=HELLO) == ("messages", "unknown_parameter")
    assert refused(model_dir, CHAT, echo=True) == ("echo", "unknown_parameter")


def test_every_parameter_is_of_one_kind() -> None:
    """A new field of the schema has to be placed: effect, refused, or without effect."""
    tested = {name for name, _, _ in TAKES_EFFECT}
    elsewhere = {
        "model", "messages", "prompt", "stream", "stream_options", "stop", "include_stop_str_in_output", "echo",
        "logprobs", "top_logprobs", "max_completion_tokens", "skip_special_tokens", "add_special_tokens",
        "add_generation_prompt", "chat_template_kwargs", "usage",
        "reasoning_effort", "reasoning", "thinking", "enable_thinking",
    }  # fmt: skip
    assert set(OpenAIBody.__struct_fields__) == tested | elsewhere | set(NEUTRAL) | WITHOUT_EFFECT


WEAK = card(able=Capabilities())
NEEDS = ["temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty",
         "logit_bias", "seed", "min_tokens", "ignore_eos", "stop_token_ids"]  # fmt: skip


@pytest.mark.parametrize("name", NEEDS)
def test_what_workers_lack_is_named(model_dir: Path, name: str) -> None:
    port = ScriptedPort([5])
    port.card_list = (card("strong"), WEAK)
    value = next(value for known, value, _ in TAKES_EFFECT if known == name)
    assert refused(model_dir, CHAT, port, **{name: value}) == (name, "unsupported_parameter")


def test_workers_that_only_decode_greedily_serve_plain_requests(model_dir: Path) -> None:
    port = ScriptedPort([5])
    port.card_list = (WEAK,)
    reply, requests = ask(model_dir, CHAT, port)
    assert reply.status == 200
    assert requests[0].sampling.temperature == 0


def test_logprobs_need_capability_and_limit(model_dir: Path) -> None:
    port = ScriptedPort([5])
    port.card_list = (WEAK,)
    assert refused(model_dir, CHAT, port, logprobs=True) == ("logprobs", "unsupported_parameter")
    assert refused(model_dir, CHAT, logprobs=True, top_logprobs=6) == ("top_logprobs", "invalid_value")
    assert refused(model_dir, CHAT, top_logprobs=2) == ("top_logprobs", "invalid_value")
    assert refused(model_dir, CHAT, logprobs=2) == ("logprobs", "invalid_value")
    assert refused(model_dir, TEXT, logprobs=6) == ("logprobs", "invalid_value")
    assert refused(model_dir, TEXT, logprobs=True) == ("logprobs", "invalid_value")


def test_seeds_are_drawn_and_differ(model_dir: Path) -> None:
    app_port = ScriptedPort([5])
    app = application(model_dir, app_port)
    for _ in range(2):
        post(app, CHAT, {"model": "tiny", "messages": HELLO})
    first, second = (event.request.sampling.seed for event in app_port.events if isinstance(event, Arrived))
    assert first != second


def test_context_length(model_dir: Path) -> None:
    long = [{"role": "user", "content": "word " * 3000}]
    assert refused(model_dir, CHAT, messages=long) == ("messages", "context_length_exceeded")
    assert refused(model_dir, TEXT, prompt=[5] * 512) == ("prompt", "context_length_exceeded")
    _, requests = ask(model_dir, TEXT, prompt=[5] * 500, max_tokens=100)
    assert requests[0].stopping.max_tokens == 12
    _, requests = ask(model_dir, CHAT)
    assert requests[0].stopping.max_tokens == 512 - tokens.count(requests[0].prompt)
    _, requests = ask(model_dir, CHAT, max_tokens=5, max_completion_tokens=6)
    assert requests[0].stopping.max_tokens == 6


def test_what_is_scored_but_not_generated_needs_no_room(model_dir: Path) -> None:
    scored: dict[str, Any] = {"echo": True, "max_tokens": 0, "logprobs": 1}
    for prompt in ([5] * 512, "a" * 512):
        _, requests = ask(model_dir, TEXT, prompt=prompt, **scored)
        assert (tokens.count(requests[0].prompt), requests[0].stopping.max_tokens) == (512, 0)
        assert refused(model_dir, TEXT, prompt=prompt)[1] == "context_length_exceeded"
        assert refused(model_dir, TEXT, prompt=prompt, echo=True, max_tokens=1)[1] == "context_length_exceeded"
    assert refused(model_dir, TEXT, prompt=[5] * 513, **scored)[1] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("path", "prompt", "count"),
    [(TEXT, [5] * 700, "700"), (TEXT, " a" * 700, "700"), (TEXT, " a" * 100_000, f"more than {COUNTED * 512}")],
)
def test_a_prompt_that_is_too_long_is_counted(model_dir: Path, path: str, prompt: Any, count: str) -> None:
    reply, _ = ask(model_dir, path, prompt=prompt)
    assert f"has {count}" in reply.json()["error"]["message"]
    assert "512" in reply.json()["error"]["message"]


def test_every_seed_has_a_stream_of_its_own(model_dir: Path) -> None:
    seeds = (0, 1, 7, 2**63 - 1, 2**63 - 8, -2, -7, -(2**63), -(2**63) + 7)
    drawn = [ask(model_dir, TEXT, seed=seed)[1][0].sampling.seed for seed in seeds]
    assert len(set(drawn)) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in drawn)


def test_seed_minus_one_is_drawn_as_if_none_was_given(model_dir: Path) -> None:
    app_port = ScriptedPort([5])
    app = application(model_dir, app_port)
    for _ in range(2):
        post(app, CHAT, {"model": "tiny", "messages": HELLO, "seed": -1})
    first, second = (event.request.sampling.seed for event in app_port.events if isinstance(event, Arrived))
    assert first != second


def test_unknown_model_and_no_worker(model_dir: Path) -> None:
    reply, _ = ask(model_dir, CHAT, model="other")
    assert (reply.status, reply.json()["error"]["code"]) == (404, "model_not_found")
    port = ScriptedPort()
    port.card_list = ()
    reply, _ = ask(model_dir, CHAT, port)
    assert (reply.status, reply.json()["error"]["type"]) == (503, "service_unavailable")
    assert int(reply.headers["retry-after"]) >= 1


def test_messages(model_dir: Path) -> None:
    assert refused(model_dir, CHAT, messages=[])[0] == "messages"
    assert refused(model_dir, CHAT, messages=[{"role": "wizard", "content": "x"}])[0] == "messages[0].role"
    answer: dict[str, Any] = {
        "role": "assistant",
        "content": "x",
        "refusal": None,
        "annotations": [],
        "tool_calls": None,
        "audio": None,
    }
    assert ask(model_dir, CHAT, messages=[*HELLO, answer, *HELLO])[0].status == 200
    assert refused(model_dir, CHAT, chat_template_kwargs={"messages": "x"})[0] == "chat_template_kwargs.messages"


def test_prompts(model_dir: Path) -> None:
    good: list[tuple[Any, int]] = [("a", 1), (["a", "b"], 2), ([5, 6], 1), ([[5], [6, 7]], 2)]
    for prompt, count in good:
        _, requests = ask(model_dir, TEXT, prompt=prompt)
        assert len(requests) == count
        assert len({request.request_id for request in requests}) == count
    bad: list[Any] = ["", [], [[]], [5, "a"], [-1], [10**6], ["a"] * 257, None]
    for prompt in bad:
        assert refused(model_dir, TEXT, prompt=prompt)[0] == "prompt"


def test_capabilities_are_the_least_of_all(model_dir: Path) -> None:
    port = ScriptedPort([5])
    port.card_list = (card("a"), card("b", able=msgspec.structs.replace(ABLE, choices=2)), card("c", length=64))
    assert refused(model_dir, CHAT, port, n=3)[0] == "n"
    assert refused(model_dir, TEXT, port, prompt=[5] * 64)[1] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("hint", "param"),
    [
        ({"pin_s": -1}, "kv_hint.pin_s"),
        ({"pin_s": 3601}, "kv_hint.pin_s"),
        ({"next_turn_s": -0.5}, "kv_hint.next_turn_s"),
        ({"next_turn_s": 1e9}, "kv_hint.next_turn_s"),
        ({"pin_s": "long"}, "kv_hint.pin_s"),
        ({"final": 1}, "kv_hint.final"),
        ({"final": True, "pin_s": 5}, "kv_hint.final"),
        ({"final": True, "next_turn_s": 5}, "kv_hint.final"),
        ({"keep": 5}, "kv_hint.keep"),
        (5, "kv_hint"),
    ],
)
def test_a_hint_that_makes_no_sense_is_refused_by_name(model_dir: Path, hint: object, param: str) -> None:
    for path in (CHAT, TEXT):
        assert refused(model_dir, path, **named("kv_hint", hint))[0] == param
