"""Messages as clients send them: what is text, what changes no answer, and what is refused by its path."""

from pathlib import Path
from typing import Any

import pytest
from frontend_world import HELLO, ScriptedPort, application, post, write_model

from jedlik.core.events import Arrived

CHAT = "/v1/chat/completions"
SHOWING = (
    "{% for m in messages %}[{{ m.role }}|{{ m.content }}|{{ m.reasoning_content }}|{{ m.reasoning }}]{% endfor %}"
)


def prompt_of(directory: Path, messages: list[dict[str, Any]], **more: Any) -> bytes:
    port = ScriptedPort([300, 2])
    reply = post(application(directory, port), CHAT, {"model": "tiny", "messages": messages, **more})
    assert reply.status == 200, reply.body
    return next(event.request.prompt for event in port.events if isinstance(event, Arrived))


def refused(directory: Path, messages: list[dict[str, Any]], **more: Any) -> str | None:
    body = {"model": "tiny", "messages": messages, **more}
    reply = post(application(directory, ScriptedPort([2])), CHAT, body)
    assert reply.status == 400, reply.body
    param: str | None = reply.json()["error"]["param"]
    return param


def history(**turn: Any) -> list[dict[str, Any]]:
    return [*HELLO, {"role": "assistant", **turn}, *HELLO]


@pytest.fixture(scope="module")
def showing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("showing"), template=SHOWING)


TEXT = {"type": "text", "text": "x"}
ECHOED: list[dict[str, Any]] = [
    {"id": "m1"},
    {"cache_control": {"type": "ephemeral"}},
    {"thinking_blocks": [{"type": "thinking", "thinking": "h"}]},
    {"reasoning_details": [{"text": "h"}]},
    {"provider_specific_fields": {"a": 1}},
    {"parsed": {"a": [1]}},
    {"annotations": [{"type": "url_citation"}]},
    {"refusal": None, "audio": None, "tool_calls": [], "anything": None},
    {"function_call": None, "tool_call_id": None, "prefix": False, "partial": None},
]


@pytest.mark.parametrize("more", ECHOED)
def test_what_clients_keep_with_messages_changes_nothing(showing: Path, more: dict[str, Any]) -> None:
    plain = prompt_of(showing, history(content="x"))
    assert prompt_of(showing, history(content="x", **more)) == plain
    assert prompt_of(showing, history(content=[TEXT], **more)) == plain


@pytest.mark.parametrize(
    "part",
    [
        {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"annotations": [], "logprobs": []},
        {"id": "p1"},
        {"anything": None},
        {"type": "output_text"},
        {"type": "input_text"},
    ],
)
def test_parts_with_text(showing: Path, part: dict[str, Any]) -> None:
    assert prompt_of(showing, history(content=[{**TEXT, **part}])) == prompt_of(showing, history(content="x"))


@pytest.mark.parametrize(
    ("turn", "same"),
    [
        ({"content": [{"type": "refusal", "refusal": "no"}]}, {"content": "no"}),
        ({"content": None, "refusal": "no"}, {"content": "no"}),
        ({"content": [TEXT, TEXT]}, {"content": "x\nx"}),
        ({"content": None}, {"content": ""}),
        ({}, {"content": ""}),
        ({"content": []}, {"content": ""}),
        (
            {"content": [{"type": "thinking", "thinking": "h", "signature": "s"}, TEXT]},
            {"content": "x", "reasoning": "h"},
        ),
        ({"content": [{"type": "reasoning", "text": "h"}, TEXT]}, {"content": "x", "reasoning_content": "h"}),
        ({"content": [{"type": "reasoning", "reasoning": "h"}, TEXT]}, {"content": "x", "thinking": "h"}),
        ({"content": [{"type": "redacted_thinking", "data": "?"}, TEXT]}, {"content": "x"}),
        ({"content": "x", "reasoning": "h"}, {"content": "x", "reasoning_content": "h"}),
    ],
)
def test_what_an_assistant_said_and_thought(showing: Path, turn: dict[str, Any], same: dict[str, Any]) -> None:
    assert prompt_of(showing, history(**turn)) == prompt_of(showing, history(**same))


@pytest.mark.parametrize(
    ("turn", "path"),
    [
        ({"content": [TEXT, {"type": "image_url", "image_url": {"url": "x"}}]}, "content[1].image_url"),
        ({"content": [{"type": "input_image", "image_url": "x", "detail": "auto"}]}, "content[0].image_url"),
        ({"content": [{"type": "input_audio", "input_audio": {}}]}, "content[0].input_audio"),
        ({"content": [{"type": "file", "file": {}}]}, "content[0].file"),
        ({"content": [{"type": "tool_use", "name": "f"}]}, "content[0].type"),
        ({"content": [{"text": "x"}]}, "content[0].type"),
        ({"content": [{"type": "text"}]}, "content[0].text"),
        ({"content": [{"type": "text", "text": 7}]}, "content[0].text"),
        ({"content": [{"type": "text", "text": "x", "colour": 1}]}, "content[0].colour"),
        ({"content": [{"type": "thinking", "thinking": 7}]}, "content[0].thinking"),
        ({"content": "x", "tool_calls": [{}]}, "tool_calls"),
        ({"content": "x", "function_call": {"name": "f"}}, "function_call"),
        ({"content": "x", "prefix": True}, "prefix"),
        ({"content": "x", "reasoning_content": 7}, "reasoning_content"),
        ({"content": "x", "reasoning": {"a": 1}}, "reasoning"),
        ({"content": "x", "colour": 1}, "colour"),
    ],
)
def test_what_changes_answers_is_refused_by_its_path(showing: Path, turn: dict[str, Any], path: str) -> None:
    assert refused(showing, history(**turn)) == f"messages[1].{path}"


@pytest.mark.parametrize("role", ["user", "system", "developer"])
def test_only_assistants_may_say_nothing(showing: Path, role: str) -> None:
    empty: list[dict[str, Any]] = [{"content": None}, {}, {"content": []}]
    for turn in empty:
        assert refused(showing, [*HELLO, {"role": role, **turn}]) == "messages[1].content"
    thought = [{"type": "thinking", "thinking": "h"}]
    assert refused(showing, [{"role": role, "content": thought}]) == "messages[0].content[0].thinking"
    prompt_of(showing, [{"role": role, "content": ""}])


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{}], "tool_choice": "required", "parallel_tool_calls": False}, "tools"),
        ({"tools": [{}], "response_format": {"type": "json_object"}}, "tools"),
        ({"functions": [{}], "function_call": {"name": "f"}}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": {}, "tool_choice": "none"}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_the_field_that_must_go_is_named_first(showing: Path, more: dict[str, Any], param: str) -> None:
    assert refused(showing, HELLO, **more) == param


def test_tools_that_may_not_be_called_are_taken_where_nobody_reads_them(showing: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {"tools": [{"type": "function"}], "tool_choice": "none", "parallel_tool_calls": False}
    assert prompt_of(showing, HELLO, **more) == prompt_of(showing, HELLO)
    reading = write_model(tmp_path / "m", template="{{ tools }}" + SHOWING)
    assert refused(reading, HELLO, **more) == "tools"


VARIABLES = "{{ reasoning_effort }}|{{ enable_thinking }}|{{ thinking }}|{{ deep }}"


@pytest.mark.parametrize(
    ("asked", "same"),
    [
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "none"}, {"reasoning_effort": "none", "enable_thinking": False, "thinking": False}),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, {"enable_thinking": True, "thinking": True}),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False, "thinking": False}),
        ({"enable_thinking": False}, {"enable_thinking": False, "thinking": False}),
        ({"reasoning": {"enabled": False}}, {"enable_thinking": False, "thinking": False}),
        ({"chat_template_kwargs": {"deep": {"a": [1, {"b": None}]}}}, {"deep": {"a": [1, {"b": None}]}}),
    ],
)
def test_how_much_to_reason_reaches_the_template(
    tmp_path: Path, showing: Path, asked: dict[str, Any], same: dict[str, Any]
) -> None:
    directory = write_model(tmp_path / "m", template=VARIABLES)
    assert prompt_of(directory, HELLO, **asked) == prompt_of(directory, HELLO, chat_template_kwargs=same)
    assert prompt_of(showing, HELLO, **asked) == prompt_of(showing, HELLO)
    winning = {"chat_template_kwargs": {"reasoning_effort": 1, "enable_thinking": 2, "thinking": 3, "deep": 4}}
    assert prompt_of(directory, HELLO, **{**asked, **winning}) == prompt_of(directory, HELLO, **winning)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"reasoning_effort": "a lot"}, "reasoning_effort"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"reasoning": {"exclude": True}}, "reasoning.exclude"),
        ({"thinking": {"type": "perhaps"}}, "thinking.type"),
        ({"thinking": True}, "thinking"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools"),
        ({"chat_template_kwargs": {"_x": 1}}, "chat_template_kwargs._x"),
    ],
)
def test_nonsense_about_reasoning_is_refused(showing: Path, more: dict[str, Any], param: str) -> None:
    assert refused(showing, HELLO, **more) == param
