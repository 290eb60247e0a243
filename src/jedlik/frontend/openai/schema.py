"""The request body of chat and completions, and its decoding.

One schema serves both: parameters of the other endpoint are refused by name, and so is every unknown one. Nothing is
ignored silently: a parameter takes effect, is refused, or stands in one of the lists here: `WITHOUT_EFFECT`,
`MESSAGE_WITHOUT_EFFECT` and `PART_WITHOUT_EFFECT` change no answer; `NEUTRAL` is taken where it asks for nothing.
"""

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import TypeVar, cast

import msgspec

from jedlik.core.errors import RequestError
from jedlik.frontend.json_body import Reader

S = TypeVar("S", bound=msgspec.Struct)


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


def also_takes(names: Iterable[str]) -> Callable[[type[S]], type[S]]:
    """Return a decorator that gives a struct further fields: they take anything, and are None where nothing is sent.

    No other unknown field is taken.
    """
    fields = [(name, object, None) for name in sorted(names)]

    def extended(kind: type[S]) -> type[S]:
        more = msgspec.defstruct(
            kind.__name__, fields, bases=(kind,), module=__name__,
            frozen=True, kw_only=True, forbid_unknown_fields=True,
        )  # fmt: skip
        return cast(type[S], more)

    return extended


MESSAGE_WITHOUT_EFFECT = words(
    """
    annotations cache_control created created_at id metadata parsed provider_specific_fields reasoning_details
    status thinking_blocks timestamp
    """
)
"""Fields that clients keep with messages and send back. No template sees them."""
PART_WITHOUT_EFFECT = frozenset(
    {"annotations", "cache_control", "id", "index", "logprobs", "providerOptions", "provider_specific_fields"}
    | {"encrypted_content", "signature", "status", "summary"}
)
"""Fields of parts with text; the last line's are those of reasoning."""
MESSAGE_NOT_SERVED = ("tool_calls", "tool_call_id", "function_call", "audio", "prefix", "partial")
"""Fields of messages that must be null, empty or false."""


@also_takes(MESSAGE_WITHOUT_EFFECT.union(MESSAGE_NOT_SERVED))
class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a chat."""

    role: str
    content: str | list[dict[str, object]] | None = None
    name: str | None = None
    refusal: str | None = None
    """An assistant's words, where it has no content."""
    reasoning: str | None = None
    reasoning_content: str | None = None
    thinking: str | None = None


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class KvHintBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A client's knowledge of its conversation."""

    pin_s: float | None = None
    next_turn_s: float | None = None
    final: bool | None = None


class UsageBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """OpenRouter's way to ask for usage."""

    include: bool | None = None


class ThinkingBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Anthropic's way to ask for reasoning. `budget_tokens` and `display` have no effect."""

    type: str
    budget_tokens: int | None = None
    display: object = None


class ReasoningBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """OpenRouter's way. `max_tokens` and `summary` have no effect."""

    effort: str | None = None
    enabled: bool | None = None
    max_tokens: int | None = None
    summary: object = None


WITHOUT_EFFECT = words(
    """
    cache_control chat_id client_metadata conversation_id id keep_alive litellm_call_id litellm_metadata
    litellm_session_id litellm_trace_id max_retries metadata num_retries prompt_cache_options
    prompt_cache_retention provider request_id request_timeout safety_identifier service_tier session_id store
    tags thread_id timeout trace trace_id user_id verbosity
    """
)
"""Fields by which a client tells or keeps something for itself: names, labels, what another service would do."""
NEUTRAL: dict[str, tuple[object, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "early_stopping": (False,),
    "extra_body": ({},),
    "extra_headers": ({},),
    "extra_query": ({},),
    "function_call": ("none", "auto"),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_reasoning": (True,),
    "kv_transfer_params": ({},),
    "length_penalty": (1,),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "models": ([],),
    "moderation": (),
    "nvext": ({},),
    "parallel_tool_calls": (True, False),
    "plugins": ([],),
    "prediction": (),
    "prompt_logprobs": (),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "spaces_between_special_tokens": (True,),
    "structured_outputs": (),
    "suffix": (),
    "thinking_token_budget": (),
    "tool_choice": ("none", "auto"),
    "transforms": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
    "web_search_options": (),
}
"""Parameters that are not served, with the values that ask for nothing (null always does). The first that asks for
something is named: what must be removed stands before what only belongs to it."""


@also_takes(WITHOUT_EFFECT.union(NEUTRAL))
class OpenAIBody(msgspec.Struct, frozen=True, kw_only=True):
    """Every parameter known here. None is "not given"."""

    model: str
    messages: list[Message] | None = None
    prompt: str | list[str | int | list[int]] | None = None
    # sampling
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    n: int | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    # stopping
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    # shape
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    usage: UsageBody | None = None
    echo: bool | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    # template
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, object] | None = None
    reasoning_effort: str | None = None
    reasoning: ReasoningBody | None = None
    thinking: ThinkingBody | None = None
    enable_thinking: bool | None = None
    # serving
    priority: int | None = None
    cache_salt: str | None = None
    prompt_cache_key: str | None = None
    kv_hint: KvHintBody | None = None
    user: str | None = None


_not_served = attrgetter(*NEUTRAL)
_NOTHING = (None,) * len(NEUTRAL)
TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
CHAT_ONLY = (
    "messages", "top_logprobs", "max_completion_tokens", "add_generation_prompt", "chat_template_kwargs",
    "reasoning_effort", "reasoning", "thinking", "enable_thinking",
)  # fmt: skip
COMPLETION_ONLY = ("prompt", "echo", "add_special_tokens")

BODY = Reader(OpenAIBody)
"""Parses and type-checks. Raises RequestError that names the parameter, or says that this is no JSON."""


def _same(value: object, neutral: object) -> bool:
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def refuse_unserved(body: OpenAIBody, other_endpoint: tuple[str, ...], reads_tools: bool = True) -> None:
    """Raises RequestError naming the first parameter that would be ignored. `reads_tools`: the template does."""
    for name in other_endpoint:
        if getattr(body, name) is not None:
            raise RequestError(f"{name} is not a parameter of this endpoint.", param=name, code="unknown_parameter")
    if _not_served(body) != _NOTHING:
        _refuse_not_served(body, reads_tools)
    options = body.stream_options
    if options is not None:
        _refuse_stream_options(options, bool(body.stream))


def _refuse_not_served(body: OpenAIBody, reads_tools: bool) -> None:
    values = {name: getattr(body, name) for name in NEUTRAL}
    harmless = values["tool_choice"] == "none" and not reads_tools and isinstance(values["tools"], list)
    spared = TOOLS if harmless else ()
    for name, neutral in NEUTRAL.items():
        value = values[name]
        if value is not None and name not in spared and not any(_same(value, each) for each in neutral):
            remedy = f" with this value; leave it out, or send {_listed(neutral)}" if neutral else "; leave it out"
            raise RequestError(f"{name} is not supported{remedy}.", param=name, code="unsupported_parameter")


def _listed(values: tuple[object, ...]) -> str:
    return " or ".join([msgspec.json.encode(value).decode() for value in values])


def _refuse_stream_options(options: StreamOptions, stream: bool) -> None:
    if not stream:
        raise RequestError("stream_options needs stream: true.", param="stream_options", code="invalid_value")
    if options.include_obfuscation:
        param = "stream_options.include_obfuscation"
        raise RequestError(f"{param} is not supported; leave it out.", param=param, code="unsupported_parameter")
