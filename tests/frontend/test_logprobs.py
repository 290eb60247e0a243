"""Log-probabilities and echo in the shapes that clients and lm-eval read."""

from pathlib import Path
from typing import Any

from frontend_world import HELLO, ScriptedPort, application, byte_level, post

TOKENIZER = byte_level()
SCRIPT = TOKENIZER.encode("The fox 😀").ids


def complete(model_dir: Path, **more: Any) -> Any:
    port = ScriptedPort(SCRIPT, end="length")
    return post(application(model_dir, port), "/v1/completions", {"model": "tiny", "max_tokens": len(SCRIPT), **more})


def test_chat_logprobs_spell_every_byte(model_dir: Path) -> None:
    for stream in (False, True):
        port = ScriptedPort([*SCRIPT, 2])
        body = {"model": "tiny", "messages": HELLO, "logprobs": True, "top_logprobs": 2, "stream": stream}
        reply = post(application(model_dir, port), "/v1/chat/completions", body)
        choices = [e["choices"][0] for e in reply.events()[:-1]] if stream else reply.json()["choices"]
        content = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
        assert len(content) == len(SCRIPT) + 1
        assert bytes(byte for entry in content[:-1] for byte in entry["bytes"]).decode() == "The fox 😀"
        assert all(len(entry["top_logprobs"]) == 2 for entry in content)


def test_completion_logprobs(model_dir: Path) -> None:
    choice = complete(model_dir, prompt="A", logprobs=2).json()["choices"][0]
    logprobs = choice["logprobs"]
    assert {len(column) for column in logprobs.values()} == {len(SCRIPT)}
    assert choice["text"][logprobs["text_offset"][1] :].startswith(logprobs["tokens"][1])
    assert logprobs["tokens"][-1].startswith("bytes:\\x")
    assert all(name in top for name, top in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True))


def test_echo_with_logprobs_as_lm_eval_reads_it(model_dir: Path) -> None:
    context, continuation = TOKENIZER.encode("The quick").ids, TOKENIZER.encode(" brown").ids
    prompts = [context + continuation, context]
    reply = complete(model_dir, prompt=prompts, max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1234)
    assert reply.status == 200
    choices = sorted(reply.json()["choices"], key=lambda choice: choice["index"])
    for prompt, choice in zip(prompts, choices, strict=True):
        logprobs = choice["logprobs"]
        assert len(logprobs["token_logprobs"]) == len(prompt) + 1
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
        assert all(value == -0.5 for value in logprobs["token_logprobs"][1:])
        assert choice["text"].startswith(TOKENIZER.decode(prompt))


def test_echo_streamed_and_with_no_output(model_dir: Path) -> None:
    for stream in (False, True):
        reply = complete(model_dir, prompt="The quick", max_tokens=0, echo=True, stream=stream)
        assert reply.status == 200
        choices = [e["choices"][0] for e in reply.events()[:-1]] if stream else reply.json()["choices"]
        assert "".join(choice["text"] for choice in choices) == "The quick"
        assert choices[-1]["finish_reason"] == "length"


def test_logprobs_behind_a_stop_string_are_dropped(model_dir: Path) -> None:
    choice = complete(model_dir, prompt="A", logprobs=0, stop=" f").json()["choices"][0]
    assert choice["text"] == "The"
    assert "".join(choice["logprobs"]["tokens"]) == "The"
    assert choice["logprobs"]["top_logprobs"] is None
