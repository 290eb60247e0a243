"""The request body of chat and completions, and its decoding.

One schema serves both: parameters of the other endpoint are refused by name, and so is every unknown one. Nothing is
ignored silently: a parameter takes effect, is refused, or stands in `WITHOUT_EFFECT` or (at its default) in `NEUTRAL`.
"""

import re

import msgspec

from jedlik.core.errors import RequestError


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One part of a message's content; only text is served."""

    type: str
    text: str | None = None
    image_url: object = None
    input_audio: object = None
    video_url: object = None
    file: object = None


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message. The fields typed `object` are what openai-python sends back of an answer; they must be empty."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: object = None
    annotations: object = None
    audio: object = None
    function_call: object = None
    tool_calls: object = None
    tool_call_id: object = None
    reasoning: object = None
    reasoning_content: object = None


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class KvHintBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client knows of its conversation."""

    pin_s: float | None = None
    next_turn_s: float | None = None
    final: bool | None = None


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    echo: bool | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, str | int | float | bool | None] | None = None
    # serving
    priority: int | None = None
    cache_salt: str | None = None
    prompt_cache_key: str | None = None
    kv_hint: KvHintBody | None = None
    user: str | None = None
    # accepted without effect
    metadata: object = None
    store: object = None
    service_tier: object = None
    # accepted at their default only
    allowed_token_ids: object = None
    audio: object = None
    bad_words: object = None
    best_of: object = None
    chat_template: object = None
    continue_final_message: object = None
    documents: object = None
    early_stopping: object = None
    function_call: object = None
    functions: object = None
    guided_choice: object = None
    guided_grammar: object = None
    guided_json: object = None
    guided_regex: object = None
    include_reasoning: object = None
    kv_transfer_params: object = None
    length_penalty: object = None
    modalities: object = None
    parallel_tool_calls: object = None
    prediction: object = None
    prompt_logprobs: object = None
    reasoning_effort: object = None
    response_format: object = None
    return_token_ids: object = None
    return_tokens_as_token_ids: object = None
    spaces_between_special_tokens: object = None
    structured_outputs: object = None
    suffix: object = None
    tool_choice: object = None
    tools: object = None
    truncate_prompt_tokens: object = None
    use_beam_search: object = None
    verbosity: object = None
    web_search_options: object = None


WITHOUT_EFFECT = frozenset({"metadata", "store", "service_tier"})
NEUTRAL: dict[str, tuple[object, ...]] = {
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "early_stopping": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_reasoning": (True,),
    "kv_transfer_params": (),
    "length_penalty": (1, 1.0),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "prediction": (),
    "prompt_logprobs": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "spaces_between_special_tokens": (True,),
    "structured_outputs": (),
    "suffix": (),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Parameters that are not served, with the values that ask for nothing (null always does)."""
_neutral = {name: frozenset(map(msgspec.json.encode, values)) for name, values in NEUTRAL.items()}
CHAT_ONLY = ("messages", "top_logprobs", "max_completion_tokens", "add_generation_prompt", "chat_template_kwargs")
COMPLETION_ONLY = ("prompt", "echo", "add_special_tokens")

_decoder = msgspec.json.Decoder(Body)
_at = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>.*)`)?$", re.DOTALL)
_field = re.compile(r"(?:unknown|required) field `(.*)`$")


def _param(path: str | None, what: str) -> str | None:
    """`$.messages[0]` and "unknown field `x`" make `messages[0].x`."""
    parts = [(path or "$").removeprefix("$").removeprefix(".")]
    if field := _field.search(what):
        parts.append(field[1])
    return ".".join(part for part in parts if part) or None


def _bad_value(error: msgspec.ValidationError) -> RequestError:
    match = _at.match(str(error))
    what, path = (match["what"], match["path"]) if match else (str(error), None)
    param = _param(path, what)
    code = "unknown_parameter" if "unknown field" in what else "invalid_value"
    if "unknown field" in what:
        return RequestError(f"Parameter {param} is not supported.", param=param, code=code)
    return RequestError(what if param is None else f"{what} ({param})", param=param, code=code)


def decode_body(raw: bytes | bytearray) -> Body:
    """Parse and type-check. Raises RequestError that names the parameter, or says that this is no JSON."""
    try:
        return _decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _bad_value(error) from error
    except RecursionError as error:
        raise RequestError("The JSON is nested too deeply.", code="invalid_json") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise RequestError(f"The body is not valid JSON: {error}", code="invalid_json") from error


def refuse_unserved(body: Body, other_endpoint: tuple[str, ...]) -> None:
    """Raises RequestError naming the first parameter that would be ignored."""
    for name in other_endpoint:
        if getattr(body, name) is not None:
            raise RequestError(f"{name} is not a parameter of this endpoint.", param=name, code="unknown_parameter")
    for name, asks_nothing in _neutral.items():
        value = getattr(body, name)
        if value is not None and msgspec.json.encode(value) not in asks_nothing:
            raise RequestError(f"{name} is not supported with this value.", param=name, code="unsupported_parameter")
    options = body.stream_options
    if options is not None:
        _refuse_stream_options(options, bool(body.stream))


def _refuse_stream_options(options: StreamOptions, stream: bool) -> None:
    if not stream:
        raise RequestError("stream_options needs stream: true.", param="stream_options", code="invalid_value")
    for name in ("include_obfuscation", "continuous_usage_stats"):
        if getattr(options, name):
            param = f"stream_options.{name}"
            raise RequestError(f"{param} is not supported.", param=param, code="unsupported_parameter")
