"""The prompt of a chat: messages in the form that templates expect, the template's variables, and the rendering."""

from collections.abc import Sequence
from functools import partial

from jedlik.core.errors import RequestError
from jedlik.frontend.openai.sampling import refuse
from jedlik.frontend.openai.schema import (
    COMPLETION_ONLY,
    MESSAGE_NOT_SERVED,
    PART_WITHOUT_EFFECT,
    Message,
    OpenAIBody,
    refuse_unserved,
)
from jedlik.frontend.text.model import TextModel
from jedlik.frontend.text.tokenise import Tokeniser
from jedlik.frontend.turns import Steps

MESSAGES_A_STEP = 64
ROLES = frozenset({"system", "developer", "user", "assistant"})
TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of parts that are text, and the field that has it."""
REASONING = ("thinking", "reasoning", "redacted_thinking")
"""Types of an assistant's parts that are not said aloud."""
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
THINKING = {"enabled": True, "adaptive": True, "auto": True, "disabled": False}


def refuse_unserved_chat(body: OpenAIBody, text: TextModel) -> None:
    """Refuse fields that a chat completion does not serve. Raises RequestError."""
    refuse_unserved(body, COMPLETION_ONLY, text.template is None or text.template.reads_tools)


def prompt_text(body: OpenAIBody, text: TextModel, max_messages: int) -> Steps[tuple[str, Tokeniser]]:
    """Return the prompt of a chat's messages, and the tokeniser that has to take it. Raises RequestError."""
    template, control = text.template, text.control
    if template is None:
        raise RequestError("This model has no chat template; use /v1/completions.", param="model", code="no_template")
    if not body.messages:
        raise RequestError("messages is missing or empty.", param="messages", code="missing_parameter")
    _check_count(body.messages, max_messages)
    extra = variables(body, template.reserved)
    touched = control is not None and bool(extra) and control.touches_any(extra)
    messages = []
    for at, each in enumerate(body.messages, 1):
        message = rendered(each, f"messages[{at - 1}]", template.knows_developer)
        touched = touched or (control is not None and control.touches(message))
        messages.append(message)
        if not at % MESSAGES_A_STEP:
            yield None
    render = partial(template.steps, generation=body.add_generation_prompt is not False)
    if control is None or not touched:
        return (yield from render(messages, extra=extra)), text.tokeniser
    prompt, guarded = yield from control.guarded(render, messages, extra)
    return prompt, control.tokeniser if guarded else text.tokeniser


def _check_count(messages: Sequence[Message], most: int) -> None:
    count = len(messages)
    for message in messages:
        if isinstance(message.content, list):
            count += len(message.content) - 1
    if count > most:
        why = f"has more than {most} messages and parts of messages (the server's frontend.max_messages)"
        raise refuse("messages", why)


def rendered(message: Message, param: str, knows_developer: bool) -> dict[str, object]:
    """Return the message as chat templates expect it. `param` is its path in the request. Raises RequestError.

    `developer` is OpenAI's newer name for `system`. An assistant's reasoning goes by both names that templates read.
    """
    if message.role not in ROLES:
        raise _unsupported(f"{param}.role", f"{message.role[:40]!r} is not supported")
    for name in MESSAGE_NOT_SERVED:
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
    spoken: list[str] = []
    thought: list[str] = []
    for at, part in enumerate(content or ()):
        kind, text = _part(part, f"{param}[{at}]", assistant)
        (thought if kind in REASONING else spoken).append(text)
    return "\n".join(spoken), "\n".join(thought)


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


def variables(body: OpenAIBody, reserved: frozenset[str]) -> dict[str, object]:
    """Return what a template gets besides messages: how much to reason, and `chat_template_kwargs`, which win.

    A template that does not read these renders as without them. Raises RequestError.
    """
    own = body.chat_template_kwargs or {}
    for name in own:
        if name in reserved or name.startswith("_"):
            param = f"chat_template_kwargs.{name[:64]}"
            raise RequestError(f"{param} may not be set.", param=param, code="invalid_value")
    return _reasoning(body) | own


def _reasoning(body: OpenAIBody) -> dict[str, object]:
    """The effort by the name that gpt-oss reads; the switch by the names that Qwen and DeepSeek read."""
    asked = body.reasoning
    effort, param = body.reasoning_effort, "reasoning_effort"
    if effort is None and asked is not None:
        effort, param = asked.effort, "reasoning.effort"
    found: dict[str, object] = {}
    switch = body.enable_thinking
    if effort is not None:
        if effort not in EFFORTS:
            raise RequestError(f"{param} must be one of {', '.join(EFFORTS)}.", param=param, code="invalid_value")
        found["reasoning_effort"] = effort
        switch = False if effort == "none" else switch
    if asked is not None and asked.enabled is not None:
        switch = asked.enabled
    if body.thinking is not None:
        if body.thinking.type not in THINKING:
            what = f"thinking.type must be one of {', '.join(THINKING)}."
            raise RequestError(what, param="thinking.type", code="invalid_value")
        switch = THINKING[body.thinking.type]
    if switch is not None:
        found |= {"enable_thinking": switch, "thinking": switch}
    return found
