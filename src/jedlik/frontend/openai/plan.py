"""A valid body becomes a `Plan`: token ids, sampling, stopping, and how the answer is to be shaped."""

import random
from collections.abc import Sequence
from functools import partial

import msgspec

from jedlik.core import tokens
from jedlik.core.config import FrontendConfig
from jedlik.core.errors import RequestError
from jedlik.core.ids import RequestId, StreamId
from jedlik.core.requests import MOST_PRIORITY, KvHint, Request, Sampling, Stopping
from jedlik.frontend.models import ModelLimits
from jedlik.frontend.openai import chat, sampling
from jedlik.frontend.openai.schema import CHAT_ONLY, COMPLETION_ONLY, Body, KvHintBody, Message, refuse_unserved
from jedlik.frontend.text.model import TextModel
from jedlik.frontend.text.stop import Stops
from jedlik.frontend.text.tokenise import Tokeniser, TooLong
from jedlik.frontend.turns import Steps

COMPLETION_MAX_TOKENS = 16
"""OpenAI's documented default."""
MAX_STREAMS = 1024
MESSAGES_A_STEP = 64
MAX_SALT_CHARS = 1024
MAX_HINT_S = 3600
COUNTED = 4
"""Contexts: a prompt that is too long is counted up to here, to say by how much; more than valid ones is not done."""


class Shape(msgspec.Struct, frozen=True):
    """What the answer looks like."""

    chat: bool
    stream: bool
    include_usage: bool
    """A stream reports token usage in a last chunk of its own."""
    running_usage: bool
    """A stream reports token usage in every chunk."""
    stops: Stops | None
    min_tokens: int
    """Stop strings count behind so many tokens."""
    stop_token_ids: tuple[int, ...]
    """Stop tokens that the client named. `stop_reason` names the one that ended a choice. It is null for EOS."""
    include_stop: bool
    skip_special: bool
    logprobs: int | None
    """Alternatives per token, None: no logprobs at all."""
    echo: bool = False


class Prompt(msgspec.Struct, frozen=True):
    """One prompt of the call."""

    ids: bytes
    stopping: Stopping


class Plan(msgspec.Struct, frozen=True):
    """One HTTP call: prompts, each with n choices. Choice c of prompt p has index p * n + c."""

    model: str
    prompts: tuple[Prompt, ...]
    n: int
    sampling: Sampling
    shape: Shape
    salt: str
    priority: int
    hint: KvHint | None
    fingerprint: str

    def requests(self, request_id: RequestId, first: int, tenant: str, session: str = "") -> list[Request]:
        """Core requests on the streams from `first` on. Ids of further prompts are `request_id~1`, `~2`, ..."""
        return [
            Request(
                request_id=request_id if at == 0 else RequestId(f"{request_id}~{at}"),
                first_stream=StreamId(first + at * self.n),
                model=self.model,
                prompt=prompt.ids,
                sampling=self.sampling,
                stopping=prompt.stopping,
                choices=self.n,
                tenant=tenant,
                salt=self.salt,
                priority=self.priority,
                session=session,
                hint=self.hint,
            )
            for at, prompt in enumerate(self.prompts)
        ]


class Planner:
    """Makes plans for one model's text and one configuration. `rng` draws seeds; reads no clock."""

    def __init__(self, text: TextModel, config: FrontendConfig, rng: random.Random) -> None:
        self._text = text
        self._config = config
        self._rng = rng

    def chat(self, body: Body, limits: ModelLimits) -> Steps[Plan]:
        """Raises RequestError."""
        self.refuse_unserved(body)
        if not isinstance(body.logprobs, bool | None):
            raise sampling.refuse("logprobs", "must be true or false; top_logprobs says how many")
        if body.top_logprobs and not body.logprobs:
            raise sampling.refuse("top_logprobs", "needs logprobs: true")
        count = body.top_logprobs or 0 if body.logprobs else None
        if count is not None:
            sampling.check_logprobs(
                count, "top_logprobs" if count else "logprobs", limits, self._config.max_top_logprobs
            )
        text, tokeniser = yield from self.rendered(body)
        ids = yield from self._encode(tokeniser.steps(text, False, COUNTED * limits.max_model_len), limits, "messages")
        return self._plan(body, limits, [ids], self._shape(body, True, count))

    def refuse_unserved(self, body: Body) -> None:
        """Refuses fields that a chat completion does not serve. Raises RequestError."""
        template = self._text.template
        refuse_unserved(body, COMPLETION_ONLY, template is None or template.reads_tools)

    def completion(self, body: Body, limits: ModelLimits) -> Steps[Plan]:
        """Raises RequestError."""
        refuse_unserved(body, CHAT_ONLY)
        if body.prompt is None:
            raise RequestError("prompt is missing.", param="prompt", code="missing_parameter")
        count = body.logprobs
        if isinstance(count, bool):
            raise sampling.refuse("logprobs", "must be a number here")
        if count is not None:
            sampling.check_logprobs(count, "logprobs", limits, self._config.max_top_logprobs)
        special = body.add_special_tokens is not False
        room = 0 if body.echo and sampling.output_limit(body, least=0).asked == 0 else 1
        prompts = []
        for prompt in self._prompts(body.prompt, limits):
            prompts.append((yield from self._ids(prompt, special, limits, room)))
        return self._plan(body, limits, prompts, self._shape(body, False, count))

    def _plan(self, body: Body, limits: ModelLimits, prompts: Sequence[bytes], shape: Shape) -> Plan:
        n = 1 if body.n is None else body.n
        most = min(self._config.max_choices, limits.choices)
        if not 1 <= n <= most or n * len(prompts) > MAX_STREAMS:
            raise sampling.refuse("n", f"must be between 1 and {most}, and at most {MAX_STREAMS} over all prompts")
        limit = sampling.output_limit(body, least=0 if shape.echo else 1)
        drawn = self._rng.getrandbits(63)
        return Plan(
            body.model,
            tuple([self._prompt(body, limits, ids, limit.asked) for ids in prompts]),
            n,
            sampling.sampling(body, limits, drawn, shape.logprobs, shape.echo and shape.logprobs is not None),
            shape,
            _salt(body),
            _priority(body),
            _hint(body.kv_hint),
            limits.fingerprint,
        )

    def _prompt(self, body: Body, limits: ModelLimits, ids: bytes, asked: int | None) -> Prompt:
        left = limits.max_model_len - tokens.count(ids)
        if limits.defaults.max_tokens is not None:
            left = min(left, limits.defaults.max_tokens)
        default = self._config.default_max_tokens
        if default is None:
            default = left if body.prompt is None else COMPLETION_MAX_TOKENS
        return Prompt(ids, sampling.stopping(body, limits, min(left, default if asked is None else asked)))

    def _shape(self, body: Body, chat: bool, logprobs: int | None) -> Shape:
        options = body.stream_options
        stops = sampling.stop_strings(body, self._config.max_stop_strings)
        include = bool(body.include_stop_str_in_output)
        return Shape(
            chat,
            bool(body.stream),
            bool((options and options.include_usage) or (body.usage and body.usage.include)),
            bool(options and options.continuous_usage_stats),
            Stops(stops, include) if stops else None,
            body.min_tokens or 0,
            tuple(body.stop_token_ids or ()),
            include,
            body.skip_special_tokens is not False,
            logprobs,
            bool(body.echo),
        )

    # --- prompts ---

    def _prompts(self, prompt: str | list[str | int | list[int]], limits: ModelLimits) -> list[str | list[int]]:
        """A text, ids, or a list of either, as a list."""
        if isinstance(prompt, str):
            return [prompt]
        if len(prompt) > limits.max_model_len and isinstance(prompt[0], int):
            raise too_long(str(len(prompt)), limits.max_model_len, 1, "prompt")
        kinds = set(map(type, prompt))
        if kinds == {int}:
            return [prompt]  # type: ignore[list-item]  # all are int, and looking at each again would take long
        if int in kinds or not prompt:
            raise sampling.refuse("prompt", "must be a text, a list of texts, token ids, or a list of token id lists")
        if len(prompt) > self._config.max_batch_prompts:
            raise sampling.refuse("prompt", f"has more than {self._config.max_batch_prompts} prompts")
        return [item for item in prompt if not isinstance(item, int)]

    def _ids(self, prompt: str | list[int], special: bool, limits: ModelLimits, room: int) -> Steps[bytes]:
        if isinstance(prompt, str):
            steps = self._text.tokeniser.steps(prompt, special, COUNTED * limits.max_model_len)
            return (yield from self._encode(steps, limits, "prompt", room))
        yield None
        if len(prompt) + room > limits.max_model_len:
            raise too_long(str(len(prompt)), limits.max_model_len, room, "prompt")
        if not prompt or min(prompt) < 0 or max(prompt) >= limits.vocab_size:
            raise sampling.refuse("prompt", "is empty or has an entry that is no token id of this model")
        return tokens.pack(prompt)

    def _encode(self, steps: Steps[bytes], limits: ModelLimits, param: str, room: int = 1) -> Steps[bytes]:
        """`room`: tokens that must be left for the answer."""
        most = limits.max_model_len
        try:
            ids = yield from steps
        except TooLong as error:
            raise too_long(f"more than {COUNTED * most}", most, room, param) from error
        except UnicodeError as error:
            raise RequestError(f"{param} is not valid Unicode.", param=param, code="invalid_value") from error
        if not ids:
            raise sampling.refuse(param, "is empty: a model needs at least one token")
        if tokens.count(ids) + room > most:
            raise too_long(str(tokens.count(ids)), most, room, param)
        return ids

    def rendered(self, body: Body) -> Steps[tuple[str, Tokeniser]]:
        """The prompt of a chat's messages, and the tokeniser that has to take it. Raises RequestError."""
        template = self._text.template
        if template is None:
            raise RequestError(
                "This model has no chat template; use /v1/completions.", param="model", code="no_template"
            )
        if not body.messages:
            raise RequestError("messages is missing or empty.", param="messages", code="missing_parameter")
        self._limited(body.messages)
        told = chat.variables(body, template.reserved)
        control = self._text.control
        touched = control is not None and bool(told) and control.touches_any(told)
        messages = []
        for at, each in enumerate(body.messages, 1):
            message = chat.rendered(each, f"messages[{at - 1}]", template.knows_developer)
            touched = touched or (control is not None and control.touches(message))
            messages.append(message)
            if not at % MESSAGES_A_STEP:
                yield None
        render = partial(template.steps, generation=body.add_generation_prompt is not False)
        if control is None or not touched:
            return (yield from render(messages, extra=told)), self._text.tokeniser
        text, guarded = yield from control.guarded(render, messages, told)
        return text, control.tokeniser if guarded else self._text.tokeniser

    def _limited(self, messages: Sequence[Message]) -> None:
        most = self._config.max_messages
        count = len(messages)
        for message in messages:
            if isinstance(message.content, list):
                count += len(message.content) - 1
        if count > most:
            why = f"has more than {most} messages and parts of messages (the server's frontend.max_messages)"
            raise sampling.refuse("messages", why)


def too_long(count: str, most: int, room: int, param: str) -> RequestError:
    left = ", and the answer needs room for one more" if room else ""
    return RequestError(
        f"This model's maximum context length is {most} tokens; {param} has {count}{left}. Shorten it.",
        param=param,
        code="context_length_exceeded",
    )


def _salt(body: Body) -> str:
    salt = body.cache_salt
    if salt is None:
        return ""
    if not salt or len(salt) > MAX_SALT_CHARS or not salt.isprintable():
        raise sampling.refuse("cache_salt", f"must have 1 to {MAX_SALT_CHARS} printable characters")
    return salt


def _priority(body: Body) -> int:
    priority = body.priority or 0
    if not -MOST_PRIORITY <= priority <= MOST_PRIORITY:
        raise sampling.refuse("priority", f"must be between -{MOST_PRIORITY} and {MOST_PRIORITY} (lower is earlier)")
    return priority


def _hint(hint: KvHintBody | None) -> KvHint | None:
    if hint is None:
        return None
    for name, value in (("pin_s", hint.pin_s), ("next_turn_s", hint.next_turn_s)):
        if value is not None and not 0 <= value <= MAX_HINT_S:
            raise sampling.refuse(f"kv_hint.{name}", f"must be between 0 and {MAX_HINT_S} seconds")
    final = bool(hint.final)
    if final and (hint.pin_s or hint.next_turn_s is not None):
        raise sampling.refuse("kv_hint.final", "says that no turn follows, pin_s or next_turn_s that one does")
    return KvHint(hint.pin_s or 0.0, hint.next_turn_s, final)
