"""Tokenising as vLLM's clients ask for it, and `explain` by any of an answer's names."""

from pathlib import Path
from typing import Any

import pytest
from frontend_world import HELLO, ScriptedPort, application, byte_level, card, get, post, sentence_piece, write_model
from tokenizers import processors

from jedlik.core.tokens import unpack

CHAT = "/v1/chat/completions"
TOKENIZER = byte_level()


def asked(model_dir: Path, path: str, **body: Any) -> Any:
    return post(application(model_dir, ScriptedPort([300, 2])), path, body)


def test_messages_are_tokenised_as_chat_does(model_dir: Path) -> None:
    port = ScriptedPort([300, 2])
    app = application(model_dir, port)
    for more in ({}, {"add_generation_prompt": False}, {"chat_template_kwargs": {"a": {"b": [1]}}}):
        messages = [{"role": "system", "content": "be <|im_end|>"}, *HELLO]
        assert post(app, CHAT, {"model": "tiny", "messages": messages, **more}).status == 200
        shown = post(app, "/tokenize", {"model": "tiny", "messages": messages, **more}).json()
        assert shown["tokens"] == list(unpack(list(port.requests.values())[-1].prompt))
        assert shown["count"] == len(shown["tokens"])
        assert shown["max_model_len"] == 512


def test_tokens_have_names_where_asked(model_dir: Path) -> None:
    shown = asked(model_dir, "/tokenize", prompt="The fox", return_token_strs=True).json()
    assert shown["token_strs"] == TOKENIZER.encode("The fox").tokens
    assert asked(model_dir, "/tokenize", prompt="The fox").json()["token_strs"] is None


def test_special_tokens_are_added_to_texts_and_not_to_messages_unless_asked(tmp_path: Path) -> None:
    tokenizer = sentence_piece()
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    write_model(tmp_path, tokenizer, "{{ messages[0].content }}")
    for more, first in (
        ({"prompt": "a"}, True),
        ({"prompt": "a", "add_special_tokens": False}, False),
        ({"messages": HELLO}, False),
        ({"messages": HELLO, "add_special_tokens": True}, True),
    ):
        assert (asked(tmp_path, "/tokenize", **more).json()["tokens"][0] == bos) == first


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"prompt": "a", "model": "other"}, 404, "model"),
        ({"messages": HELLO, "model": "other"}, 404, "model"),
        ({}, 400, "prompt"),
        ({"prompt": "a", "messages": HELLO}, 400, "prompt"),
        ({"prompt": "a", "add_generation_prompt": True}, 400, "add_generation_prompt"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": HELLO, "tools": [{"type": "function"}]}, 400, "tools"),
        ({"messages": HELLO, "chat_template": "x"}, 400, "chat_template"),
        ({"messages": HELLO, "chat_template_kwargs": {"messages": 1}}, 400, "chat_template_kwargs.messages"),
        ({"messages": HELLO, "temperature": 1}, 400, "temperature"),
        ({"prompt": 5}, 400, "prompt"),
    ],
)
def test_what_can_not_be_tokenised_is_refused_as_chat_refuses_it(
    model_dir: Path, body: dict[str, Any], status: int, param: str
) -> None:
    reply = asked(model_dir, "/tokenize", **body)
    assert (reply.status, reply.json()["error"]["param"]) == (status, param)


def test_ids_become_text_and_what_is_no_id_is_refused(model_dir: Path) -> None:
    ids = TOKENIZER.encode("The fox<|im_end|>").ids
    assert asked(model_dir, "/detokenize", tokens=ids).json()["prompt"] == "The fox<|im_end|>"
    assert asked(model_dir, "/detokenize", tokens=[]).json()["prompt"] == ""
    for tokens in ([900], [-1], [1 << 32], [1 << 70], ["5"], [True], [1.5], [None], 5):
        reply = asked(model_dir, "/detokenize", tokens=tokens)
        assert reply.status == 400
        assert reply.json()["error"]["param"].startswith("tokens")
    assert asked(model_dir, "/detokenize", tokens=[5], model="other").status == 404


def test_the_tokenizers_own_page(model_dir: Path) -> None:
    app = application(model_dir, ScriptedPort())
    info = get(app, "/tokenizer_info").json()
    assert info["eos_token"] == "<|im_end|>"
    assert info["tokenizer_class"]
    assert "<|im_start|>" in info["chat_template"]


@pytest.mark.parametrize(("path", "prefix"), [(CHAT, "chatcmpl-"), ("/v1/completions", "cmpl-")])
@pytest.mark.parametrize("own", [None, "mine", "chatcmpl-mine"])
def test_an_answer_is_explained_by_its_own_id(model_dir: Path, path: str, prefix: str, own: str | None) -> None:
    app = application(model_dir, ScriptedPort([300, 2]))
    body = {"messages": HELLO} if path == CHAT else {"prompt": "Hi"}
    reply = post(app, path, {"model": "tiny", **body}, headers={} if own is None else {"x-request-id": own})
    name, request = reply.json()["id"], reply.headers["x-request-id"]
    assert name == prefix + request
    for each in (name, request):
        shown = get(app, f"/explain/{each}")
        assert (shown.status, shown.json()["request_id"]) == (200, request)
    assert get(app, "/explain/chatcmpl-").status == get(app, "/explain/nobody").status == 404


def test_a_fingerprint_is_that_of_the_model_and_its_engines(model_dir: Path) -> None:
    def fingerprint(revision: str, name: str, stream: bool = False) -> str:
        port = ScriptedPort([300, 2])
        port.card_list = (card(name, revision=revision),)
        reply = post(application(model_dir, port), CHAT, {"model": "tiny", "messages": HELLO, "stream": stream})
        shown = (
            {event["system_fingerprint"] for event in reply.events()[:-1]}
            if stream
            else {reply.json()["system_fingerprint"]}
        )
        [one] = shown
        assert one.startswith("fp_")
        return str(one)

    first = fingerprint("r", "w0")
    assert first == fingerprint("r", "w1") == fingerprint("r", "w0", stream=True)
    assert first != fingerprint("r2", "w0")


def test_what_caches_hold_is_told(model_dir: Path) -> None:
    app = application(model_dir, ScriptedPort([300, 2]))
    assert app.caches() == {"pieces": (0, 0), "words": (0, 0)}
    messages = [{"role": "user", "content": "The quick brown fox is here"}]
    assert post(app, CHAT, {"model": "tiny", "messages": messages}).status == 200
    assert all(items > 0 and size > 0 for items, size in app.caches().values())
