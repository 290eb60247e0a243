"""Answers as JSON: whole ones, usage, and the lists of models."""

from collections.abc import Sequence

import msgspec

from jedlik.frontend.models import ModelLimits

Json = dict[str, object]
CHAT, COMPLETION = ANSWERS = ("chatcmpl-", "cmpl-")
"""What ids of answers begin with; the request's id follows."""


class Envelope(msgspec.Struct, frozen=True):
    """What all chunks of one answer share."""

    id: str
    created: int
    model: str
    chat: bool
    fingerprint: str


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Json:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": min(cached_tokens, prompt_tokens)},
    }


def chat_choice(index: int, text: str, logprobs: Json | None, finish: str | None, reason: str | int | None) -> Json:
    return {
        "index": index,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": logprobs,
        "finish_reason": finish,
        "stop_reason": reason,
    }


def completion_choice(
    index: int, text: str, logprobs: Json | None, finish: str | None, reason: str | int | None
) -> Json:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish, "stop_reason": reason}


def encoded(value: Json) -> msgspec.Raw:
    """A part of an answer, encoded ahead: the whole of a large one would take long at once."""
    return msgspec.Raw(msgspec.json.encode(value))


def whole(envelope: Envelope, choices: Sequence[Json | msgspec.Raw], used: Json) -> bytes:
    """The body of an answer that is not streamed."""
    return msgspec.json.encode(
        {
            "id": envelope.id,
            "object": "chat.completion" if envelope.chat else "text_completion",
            "created": envelope.created,
            "model": envelope.model,
            "system_fingerprint": envelope.fingerprint,
            "choices": choices,
            "usage": used,
        }
    )


def model_entry(name: str, created: int, limits: ModelLimits | None) -> Json:
    """One item of /v1/models, with vLLM's extras that clients read, and what holds where a request says nothing."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "jedlik",
        "root": name,
        "parent": None,
        "max_model_len": None if limits is None else limits.max_model_len,
        "default_sampling_params": None if limits is None else msgspec.to_builtins(limits.defaults),
    }
