"""What a chat template gets of a body: its messages in the form that templates expect, and its variables."""

from jedlik.core.errors import RequestError
from jedlik.frontend.openai.schema import PART_WITHOUT_EFFECT, Body, Message

ROLES = frozenset({"system", "developer", "user", "assistant"})
TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of parts that are text, and the field that has it."""
REASONING = ("thinking", "reasoning", "redacted_thinking")
"""Types of an assistant's parts that are not said aloud."""
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
THINKING = {"enabled": True, "adaptive": True, "auto": True, "disabled": False}
NOT_SERVED = ("tool_calls", "tool_call_id", "function_call", "audio", "prefix", "partial")
"""Fields of messages that must be null, empty or false."""


def rendered(message: Message, param: str, knows_developer: bool) -> dict[str, object]:
    """The message as chat templates expect it. `param` is its path in the request. Raises RequestError.

    `developer` is OpenAI's newer name for `system`. An assistant's reasoning goes by both names that templates read.
    """
    if message.role not in ROLES:
        raise _unsupported(f"{param}.role", f"{message.role[:40]!r} is not supported")
    for name in NOT_SERVED:
        if getattr(message, name):
            raise _unsupported(f"{param}.{name}", "is not supported; leave it out")
    assistant = message.role == "assistant"
    text, thought = _content(message, f"{param}.content", assistant)
    role = "system" if message.role == "developer" and not knows_developer else message.role
    shown: dict[str, object] = {"role": role, "content": text or (message.refusal or "" if assistant else "")}
    if message.name is not None:
        shown["name"] = message.name
    thought = message.reasoning_content or message.reasoning or message.thinking or thought
    if thought:
        shown["reasoning"] = shown["reasoning_content"] = thought
    return shown


def _content(message: Message, param: str, assistant: bool) -> tuple[str, str]:
    """Text and reasoning."""
    content = message.content
    if isinstance(content, str):
        return content, ""
    if not content and not assistant:
        raise RequestError(
            f'{param} is missing or empty: a {message.role} message needs text ("" will do).',
            param=param, code="invalid_value",
        )  # fmt: skip
    said: list[str] = []
    thought: list[str] = []
    for at, part in enumerate(content or ()):
        kind, text = _part(part, f"{param}[{at}]", assistant)
        (thought if kind in REASONING else said).append(text)
    return "\n".join(said), "\n".join(thought)


def _part(part: dict[str, object], param: str, assistant: bool) -> tuple[str, str]:
    """The type and the text of a content part. Raises RequestError naming what may not be there."""
    kind = part.get("type")
    if not isinstance(kind, str):
        raise _unsupported(f"{param}.type", "must be a string: text is a part of type 'text'")
    if kind in TEXTS:
        names: tuple[str, ...] = (TEXTS[kind],)
        text = part.get(TEXTS[kind])
    elif kind in REASONING and assistant:
        names = ("thinking", "reasoning", "text", "data")
        text = next((part[name] for name in names[:3] if part.get(name) is not None), "")
    else:
        named = next((name for name in (kind, kind.removeprefix("input_")) if name in part), _payload(part))
        raise _unsupported(f"{param}.{named[:64]}", f"is not supported (a part of type {kind[:40]!r}): only text is")
    if not isinstance(text, str):
        raise _unsupported(f"{param}.{names[0]}", "must be a string")
    for name, value in part.items():
        if value is not None and name != "type" and name not in names and name not in PART_WITHOUT_EFFECT:
            raise _unsupported(f"{param}.{name[:64]}", "is not supported; leave it out", "unknown_parameter")
    return kind, text


def _payload(part: dict[str, object]) -> str:
    """The field that makes a part what it is: `input_image` has `image_url`."""
    return next((name for name in part if name.endswith(("_url", "_data", "_id"))), "type")


def _unsupported(param: str, why: str, code: str = "unsupported_parameter") -> RequestError:
    return RequestError(f"{param} {why}.", param=param, code=code)


def variables(body: Body, reserved: frozenset[str]) -> dict[str, object]:
    """What a template is told besides messages: how much to reason, and `chat_template_kwargs`, which win.

    A template that does not read these renders as without them. Raises RequestError.
    """
    given = body.chat_template_kwargs or {}
    for name in given:
        if name in reserved or name.startswith("_"):
            param = f"chat_template_kwargs.{name[:64]}"
            raise RequestError(f"{param} may not be set.", param=param, code="invalid_value")
    return _reasoning(body) | given


def _reasoning(body: Body) -> dict[str, object]:
    """The effort by the name that gpt-oss reads; the switch by the names that Qwen and DeepSeek read."""
    asked = body.reasoning
    effort, param = body.reasoning_effort, "reasoning_effort"
    if effort is None and asked is not None:
        effort, param = asked.effort, "reasoning.effort"
    told: dict[str, object] = {}
    switch = body.enable_thinking
    if effort is not None:
        if effort not in EFFORTS:
            raise RequestError(f"{param} must be one of {', '.join(EFFORTS)}.", param=param, code="invalid_value")
        told["reasoning_effort"] = effort
        switch = False if effort == "none" else switch
    if asked is not None and asked.enabled is not None:
        switch = asked.enabled
    if body.thinking is not None:
        if body.thinking.type not in THINKING:
            what = f"thinking.type must be one of {', '.join(THINKING)}."
            raise RequestError(what, param="thinking.type", code="invalid_value")
        switch = THINKING[body.thinking.type]
    if switch is not None:
        told |= {"enable_thinking": switch, "thinking": switch}
    return told
