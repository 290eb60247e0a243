"""How the conformance suite speaks each dialect: it makes bodies and reads answers, and knows their grammar."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from frontend_world import Reply

PROMPT = "The quick brown fox jumps"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request in no dialect. What a dialect has no word for is not asked of it (`Speaker.knows`)."""

    prompt: str = PROMPT
    stream: bool = False
    max_tokens: int = 100
    n: int = 1
    stops: Sequence[str] = ()
    logprobs: int | None = None
    echo: bool = False


class Answered(msgspec.Struct, kw_only=True):
    """An answer in no dialect; lists and texts are by the choice's index."""

    texts: dict[int, str] = {}
    finishes: dict[int, str] = {}
    logprobs: dict[int, list[Any]] = {}
    usage: tuple[int, int, int] | None = None
    """Tokens of prompt and output, and those that were cached."""
    error: Any = None
    complete: bool = False
    """The answer has its proper end."""


class Speaker(Protocol):
    """One dialect as a client speaks it."""

    path: str
    knows: frozenset[str]
    """Fields of `Asked` that the dialect has, of `n`, `stops`, `logprobs` and `echo`."""

    def body(self, asked: Asked) -> dict[str, Any]:
        """The request's body; a stream asks for usage."""

    def whole(self, reply: Reply) -> Answered:
        """Read an answer that is not streamed."""

    def streamed(self, reply: Reply) -> Answered:
        """Read a stream, and check that its events are in an order that the API allows."""

    def error(self, reply: Reply) -> dict[str, Any]:
        """Read a refusal: `message`, `param` and `code`."""


class OpenAISpeaker:
    """What chat and completions have in common. `content` is where a choice has its text."""

    def __init__(self, path: str, chat: bool) -> None:
        self.path = path
        self.chat = chat
        self.knows = frozenset({"n", "stops", "logprobs"} | (set() if chat else {"echo"}))

    def body(self, asked: Asked) -> dict[str, Any]:
        body: dict[str, Any] = {"model": "tiny", "max_tokens": asked.max_tokens, "n": asked.n, "stream": asked.stream}
        body |= {"stop": list(asked.stops)} if asked.stops else {}
        body |= {"stream_options": {"include_usage": True}} if asked.stream else {}
        if self.chat:
            alternatives = {} if asked.logprobs is None else {"logprobs": True, "top_logprobs": asked.logprobs}
            return body | alternatives | {"messages": [{"role": "user", "content": asked.prompt}]}
        return body | {"prompt": asked.prompt, "echo": asked.echo, "logprobs": asked.logprobs}

    def whole(self, reply: Reply) -> Answered:
        shown = reply.json()
        answered = Answered(usage=_usage(shown["usage"]), complete=reply.complete)
        for choice in shown["choices"]:
            index = choice["index"]
            answered.texts[index] = choice["message"]["content"] if self.chat else choice["text"]
            answered.finishes[index] = choice["finish_reason"]
            answered.logprobs[index] = self._logprobs(choice["logprobs"])
        return answered

    def streamed(self, reply: Reply) -> Answered:
        answered = Answered()
        opened: set[int] = set()
        for event in reply.events():
            assert not answered.complete, "something follows the end"
            assert answered.error is None, "something follows the error"
            if event == "[DONE]":
                answered.complete = True
            elif "error" in event:
                answered.error = event["error"]
            elif not event["choices"]:
                answered.usage = _usage(event["usage"])
            else:
                assert answered.usage is None, "a choice follows the usage"
                self._chunk(event["choices"][0], answered, opened)
        return answered

    def _chunk(self, choice: dict[str, Any], answered: Answered, opened: set[int]) -> None:
        index = choice["index"]
        assert index not in answered.finishes, "a choice goes on after its end"
        if self.chat and "role" in choice["delta"]:
            assert index not in opened
            opened.add(index)
        assert index in opened or not self.chat, "a choice begins without its opening"
        text = choice["delta"].get("content", "") if self.chat else choice["text"]
        answered.texts[index] = answered.texts.get(index, "") + text
        answered.logprobs.setdefault(index, []).extend(self._logprobs(choice["logprobs"]))
        if choice["finish_reason"] is not None:
            answered.finishes[index] = choice["finish_reason"]

    def _logprobs(self, shown: Any) -> list[Any]:
        if shown is None:
            return []
        if self.chat:
            return [(one["token"], one["logprob"], len(one["top_logprobs"])) for one in shown["content"]]
        tops = shown["top_logprobs"] or [None] * len(shown["tokens"])
        return list(zip(shown["tokens"], shown["token_logprobs"], tops, shown["text_offset"], strict=True))

    def error(self, reply: Reply) -> dict[str, Any]:
        error: dict[str, Any] = reply.json()["error"]
        return error


def _usage(shown: dict[str, Any]) -> tuple[int, int, int]:
    assert shown["total_tokens"] == shown["prompt_tokens"] + shown["completion_tokens"]
    return shown["prompt_tokens"], shown["completion_tokens"], shown["prompt_tokens_details"]["cached_tokens"]


SPEAKERS: dict[str, Speaker] = {
    "chat": OpenAISpeaker("/v1/chat/completions", chat=True),
    "completions": OpenAISpeaker("/v1/completions", chat=False),
}
