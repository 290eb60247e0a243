"""Given a scripted gateway, expect exactly these chunks."""

from pathlib import Path
from typing import Any

from frontend_world import HELLO, ScriptedPort, application, byte_level, post

from jedlik.core.errors import Fault
from jedlik.core.events import Abandoned, Consumed, Cut

CHAT = "/v1/chat/completions"
TOKENIZER = byte_level()


def ids(text: str, end: bool = True) -> list[int]:
    return [*TOKENIZER.encode(text).ids, *([2] if end else [])]


def chat(model_dir: Path, port: ScriptedPort, **more: Any) -> Any:
    return post(application(model_dir, port), CHAT, {"model": "tiny", "messages": HELLO, **more})


def test_stream_is_role_deltas_finish_usage_done(model_dir: Path) -> None:
    port = ScriptedPort(ids("The fox."))
    reply = chat(model_dir, port, stream=True, stream_options={"include_usage": True})
    assert reply.status == 200
    assert reply.complete
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-jedlik-worker"] == "w0@1"
    assert reply.headers["x-jedlik-cached-tokens"] == "3"
    *chunks, last, done = reply.events()
    assert done == "[DONE]"
    assert {(c["id"], c["created"], c["model"], c["object"], c["usage"]) for c in chunks} == {
        ("chatcmpl-req1", 1_700_000_000, "tiny", "chat.completion.chunk", None)
    }
    deltas = [c["choices"][0]["delta"] for c in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(d["content"] for d in deltas[1:-1]) == "The fox."
    assert deltas[-1] == {}
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    prompt = last["usage"]["prompt_tokens"]
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": len(port.script),
        "total_tokens": prompt + len(port.script),
        "prompt_tokens_details": {"cached_tokens": 3},
    }


def test_usage_is_not_sent_unasked(model_dir: Path) -> None:
    reply = chat(model_dir, ScriptedPort(ids("The fox.")), stream=True)
    assert all("usage" not in event for event in reply.events()[:-1])
    assert all(event["choices"] for event in reply.events()[:-1])


def test_whole_answer(model_dir: Path) -> None:
    reply = chat(model_dir, ScriptedPort(ids("The fox.")))
    message = reply.json()
    assert message["object"] == "chat.completion"
    assert message["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "The fox.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ]
    assert reply.headers["x-request-id"] == "req1"


def test_choices_interleave_and_finish_once(model_dir: Path) -> None:
    port = ScriptedPort(ids("The quick brown fox", end=False), end="length")
    events = chat(model_dir, port, stream=True, n=3).events()[:-1]
    texts, finishes = ["", "", ""], [0, 0, 0]
    for choice in (event["choices"][0] for event in events):
        texts[choice["index"]] += choice["delta"].get("content", "")
        finishes[choice["index"]] += choice["finish_reason"] == "length"
    assert texts == ["The quick brown fox"] * 3
    assert finishes == [1, 1, 1]


def test_stop_string_across_tokens_is_cut_and_told(model_dir: Path) -> None:
    port = ScriptedPort(ids("The quick brown fox jumps over the lazy dog", end=False))
    reply = chat(model_dir, port, stream=True, stop=["own fox ju"], stream_options={"include_usage": True})
    events = reply.events()
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-2])
    assert text == "The quick br"
    cuts = [event for event in port.events if isinstance(event, Cut)]
    assert len(cuts) == 1
    assert TOKENIZER.decode(port.script[: cuts[0].position]).startswith("The quick brown fox ju")
    assert "own fox ju" not in TOKENIZER.decode(port.script[: cuts[0].position - 1])
    assert events[-2]["usage"]["completion_tokens"] == cuts[0].position
    assert events[-3]["choices"][0]["stop_reason"] == "own fox ju"
    assert not any(isinstance(event, Abandoned) for event in port.events)


def test_stop_string_may_be_included(model_dir: Path) -> None:
    port = ScriptedPort(ids("The quick brown fox", end=False))
    reply = chat(model_dir, port, stop="quick", include_stop_str_in_output=True)
    assert reply.json()["choices"][0]["message"]["content"] == "The quick"


def test_refusal_before_the_first_token_is_a_status(model_dir: Path) -> None:
    port = ScriptedPort(ids("x"))
    port.refuse = Fault(kind="overloaded", message="full", retry_after_s=1.2)
    reply = chat(model_dir, port, stream=True)
    assert reply.status == 429
    assert (reply.headers["retry-after"], reply.headers["retry-after-ms"]) == ("2", "1200")
    assert reply.json()["error"] == {"message": "full", "type": "rate_limit_error", "param": None, "code": "overloaded"}


def test_failure_in_mid_stream_is_an_error_event_and_no_done(model_dir: Path) -> None:
    port = ScriptedPort(ids("The quick brown fox"))
    port.break_after = 3
    reply = chat(model_dir, port, stream=True)
    events = reply.events()
    assert reply.complete
    assert events[-1]["error"]["message"] == "the worker died"
    assert all(event["choices"][0]["finish_reason"] is None for event in events[:-1])


def test_failure_of_a_whole_answer_is_a_status(model_dir: Path) -> None:
    port = ScriptedPort(ids("The quick brown fox"))
    port.break_after = 3
    assert chat(model_dir, port).status == 500


def test_tokens_are_acknowledged_so_that_long_answers_end(model_dir: Path) -> None:
    for stream in (True, False):
        port = ScriptedPort(ids("fox " * 200, end=False), per_delivery=4, end="length")
        reply = chat(model_dir, port, stream=stream, max_tokens=300)
        assert reply.status == 200
        assert any(isinstance(event, Consumed) for event in port.events)
        assert not any(isinstance(event, Abandoned) for event in port.events)


def test_tokens_that_come_together_are_chunks_of_their_own(model_dir: Path) -> None:
    tokens = ids("The quick brown fox", end=False)
    port = ScriptedPort(tokens, per_delivery=64, end="length")
    events = chat(model_dir, port, stream=True).events()
    assert len(events) == 1 + len(tokens) + 1 + 1
    deltas = [event["choices"][0]["delta"].get("content", "") for event in events[1:-2]]
    assert all(deltas)
    assert "".join(deltas) == "The quick brown fox"


def test_characters_are_never_split(model_dir: Path) -> None:
    text = "😀 ñandú 漢字 👩‍👩‍👧‍👦!"
    events = chat(model_dir, ScriptedPort(ids(text)), stream=True).events()
    deltas = [e["choices"][0]["delta"].get("content", "") for e in events[:-1]]
    assert "".join(deltas) == text
    assert not any("\ufffd" in delta for delta in deltas)


def usages(reply: Any) -> list[tuple[int | None, int, int, int]]:
    """Of every chunk: index (None: the last one), prompt, output, total."""
    *chunks, done = reply.events()
    assert done == "[DONE]"
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    shown = [[c["choices"][0]["index"] if c["choices"] else None, *(c["usage"][key] for key in names)] for c in chunks]
    return [tuple(one) for one in shown]


RUNNING = {"include_usage": True, "continuous_usage_stats": True}


def test_every_chunk_may_say_what_was_used_so_far(model_dir: Path) -> None:
    port = ScriptedPort(ids("The quick brown fox", end=False), end="length")
    count = len(port.script)
    first, *shown, last = usages(chat(model_dir, port, stream=True, stream_options=RUNNING))
    prompt = first[1]
    assert first == (0, prompt, 0, prompt)
    outputs = [output for _, _, output, _ in shown]
    assert outputs == sorted(outputs)
    assert shown[-1] == (0, prompt, count, prompt + count)
    assert last == (None, prompt, count, prompt + count)
    assert all(total == before + output for _, before, output, total in shown)


def test_running_usage_is_of_the_chunks_own_choice(model_dir: Path) -> None:
    """As in vLLM; the last chunk has the sum."""
    for more in ({}, {"logprobs": True}, {"stop": ["never"]}, {"skip_special_tokens": False}):
        port = ScriptedPort(ids("The quick brown fox", end=False), end="length", per_delivery=2)
        count = len(port.script)
        *shown, last = usages(chat(model_dir, port, stream=True, n=3, stream_options=RUNNING, **more))
        for index in range(3):
            outputs = [output for at, _, output, _ in shown if at == index]
            assert outputs == sorted(outputs)
            assert (outputs[0], outputs[-1]) == (0, count)
        assert last[2] == 3 * count


def test_running_usage_of_a_batch_counts_each_prompt(model_dir: Path) -> None:
    port = ScriptedPort(ids("The fox", end=False), end="length")
    body = {"model": "tiny", "prompt": [[5], [6, 7, 8]], "stream": True, "echo": True, "n": 2, "max_tokens": 2}
    *shown, last = usages(post(application(model_dir, port), "/v1/completions", {**body, "stream_options": RUNNING}))
    assert {(index, prompt) for index, prompt, _, _ in shown} == {(0, 1), (1, 1), (2, 3), (3, 3)}
    assert last == (None, 4, 8, 12)


def test_running_usage_without_a_last_chunk(model_dir: Path) -> None:
    port = ScriptedPort(ids("The fox", end=False), end="length")
    shown = usages(chat(model_dir, port, stream=True, stream_options={"continuous_usage_stats": True}))
    assert shown[-1][0] == 0
    assert shown[-1][2] == len(port.script)


def test_usage_may_be_asked_for_as_at_openrouter(model_dir: Path) -> None:
    events = chat(model_dir, ScriptedPort(ids("The fox.")), stream=True, usage={"include": True}).events()
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] > 0
