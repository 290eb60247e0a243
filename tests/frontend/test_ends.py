"""How answers end: stop strings behind min_tokens, stop tokens and EOS, and characters across the prompt's end."""

from pathlib import Path
from typing import Any

import pytest
from frontend_world import ScriptedPort, application, byte_level, post, sentence_piece, write_model
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.events import Cut
from jedlik.frontend.text.stop import StopFinder, Stops

TOKENIZER = byte_level()
TEXT = "ab. cd. ef. gh."
SCRIPT = TOKENIZER.encode(TEXT).ids
COMPLETIONS = "/v1/completions"


def texts(reply: Any, stream: bool) -> dict[int, tuple[str, Any, Any]]:
    """Text, finish_reason and stop_reason by index."""
    assert reply.status == 200
    found: dict[int, tuple[str, Any, Any]] = {}
    for event in reply.events()[:-1] if stream else [reply.json()]:
        for choice in event["choices"]:
            text = found.get(choice["index"], ("", None, None))[0] + choice["text"]
            found[choice["index"]] = (text, choice["finish_reason"], choice.get("stop_reason"))
    return found


def complete(port: ScriptedPort, model_dir: Path, stream: bool = False, **more: Any) -> dict[int, tuple[str, Any, Any]]:
    body = {"model": "tiny", "prompt": "A", "max_tokens": 100, "stream": stream, **more}
    return texts(post(application(model_dir, port), COMPLETIONS, body), stream)


def expected(floor: int, stop: str, include: bool) -> tuple[str, int]:
    """As vLLM has it: the first stop string that a token behind the floor completes; and at which token."""
    before = len(TOKENIZER.decode(SCRIPT[:floor]))
    for position in range(floor + 1, len(SCRIPT) + 1):
        text = TOKENIZER.decode(SCRIPT[:position])
        at = text.find(stop, max(0, before - len(stop) + 1))
        if at >= 0:
            return text[: at + len(stop) if include else at], position
    return TEXT, len(SCRIPT)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("stop", [".", ". c", "b. cd. ef", " "])
def test_stop_strings_count_behind_the_floor(model_dir: Path, stop: str, include: bool, stream: bool) -> None:
    for floor in range(len(SCRIPT)):
        for per_delivery in (1, 3):
            port = ScriptedPort(SCRIPT, per_delivery, end="length")
            more = {"stop": stop, "min_tokens": floor, "include_stop_str_in_output": include, "n": 2}
            found = complete(port, model_dir, stream, **more)
            text, position = expected(floor, stop, include)
            stopped = position < len(SCRIPT) or text != TEXT
            assert {each[0] for each in found.values()} == {text}
            assert len(found) == 2
            if stopped:
                assert {each[1:] for each in found.values()} == {("stop", stop)}
            cuts = [event.position for event in port.events if isinstance(event, Cut)]
            assert all(cut == position for cut in cuts)


@given(
    text=st.text("ab", max_size=20),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    floor=st.integers(0, 20),
)
def test_a_floor_in_characters(text: str, stops: list[str], floor: int) -> None:
    finder, text_so_far = StopFinder(Stops(stops)), ""
    for at, char in enumerate(text):
        given_out, found = finder.feed(char, counts=at >= floor)
        text_so_far += given_out
        if found is not None:
            ends = [end for end in range(floor + 1, at + 2) if any(text[:end].endswith(stop) for stop in stops)]
            assert ends == [at + 1]
            assert text_so_far + found == text[: at + 1]
            return
    assert text_so_far + finder.finish() == text
    assert not any(text[:end].endswith(stop) for end in range(floor + 1, len(text) + 1) for stop in stops)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("asked", "reason"), [([], None), ([2], 2), ([7], None)])
def test_only_a_stop_token_that_was_asked_for_is_told(
    model_dir: Path, stream: bool, asked: list[int], reason: Any
) -> None:
    port = ScriptedPort([*SCRIPT, 2])
    assert complete(port, model_dir, stream, stop_token_ids=asked) == {0: (TEXT, "stop", reason)}


# --- echo ---

SEAMS = ["한국어 🙂🙂", "日本語 🎉🎉", "🙂🙂🙂🙂", "abc é"]


def echoed(model_dir: Path, tokenizer: Any, text: str, at: int, stream: bool, **more: Any) -> tuple[str, Any]:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    port = ScriptedPort(ids[at:], end="length")
    body = {"model": "tiny", "prompt": ids[:at], "echo": True, "max_tokens": len(ids) - at, "stream": stream, **more}
    reply = post(application(model_dir, port), COMPLETIONS, body)
    assert reply.status == 200
    choices = [event["choices"][0] for event in reply.events()[:-1]] if stream else [reply.json()["choices"][0]]
    logprobs_shown = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    return "".join(choice["text"] for choice in choices), logprobs_shown


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", SEAMS)
def test_a_character_across_the_end_of_the_prompt_is_whole(model_dir: Path, text: str, stream: bool) -> None:
    count = len(TOKENIZER.encode(text).ids)
    for at in range(1, count + 1):
        assert echoed(model_dir, TOKENIZER, text, at, stream)[0] == text
        found, logprobs_shown = echoed(model_dir, TOKENIZER, text, at, stream, logprobs=1)
        assert found == text
        offsets = [offset for each in logprobs_shown for offset in each["text_offset"]]
        names = [name for each in logprobs_shown for name in each["tokens"]]
        assert len(offsets) == len(names) == count
        assert offsets == sorted(offsets)
        for offset, name in zip(offsets, names, strict=True):
            assert name.startswith("bytes:") or text[offset:].startswith(name)


def test_each_choice_goes_on_from_the_prompt_by_itself(model_dir: Path) -> None:
    ids = TOKENIZER.encode("a🙂").ids
    port = ScriptedPort(ids[-2:], end="length")
    assert {each[0] for each in complete(port, model_dir, prompt=ids[:-2], echo=True, n=3).values()} == {"a🙂"}
    port = ScriptedPort(ids[-2:], end="length")
    assert complete(port, model_dir, prompt=ids[:-2], echo=True, max_tokens=0)[0][0] == "a\ufffd"


def test_a_leading_space_is_dropped_once(tmp_path: Path) -> None:
    tokenizer = sentence_piece()
    write_model(tmp_path, tokenizer)
    for at in (1, 2, 3):
        assert echoed(tmp_path, tokenizer, "The quick brown", at, False)[0] == "The quick brown"


def test_long_echoes_with_logprobs_come_whole(model_dir: Path) -> None:
    ids = [40 + at % 50 for at in range(500)]
    port = ScriptedPort([60], end="length")
    body = {"model": "tiny", "prompt": ids, "echo": True, "max_tokens": 1, "logprobs": 2}
    app = application(model_dir, port)
    whole = post(app, COMPLETIONS, body).json()["choices"][0]
    streamed = [e["choices"][0] for e in post(app, COMPLETIONS, {**body, "stream": True}).events()[:-1]]
    assert whole["text"] == "".join(choice["text"] for choice in streamed) == TOKENIZER.decode([*ids, 60])
    for name, column in whole["logprobs"].items():
        assert column == [each for choice in streamed if choice["logprobs"] for each in choice["logprobs"][name]]
        assert len(column) == 501
