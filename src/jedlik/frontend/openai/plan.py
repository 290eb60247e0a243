"""A valid body becomes an `AnswerPlan`: token ids, sampling, stopping, and how the answer is to be sent."""

import random

from jedlik.core import tokens
from jedlik.core.config import FrontendConfig
from jedlik.core.errors import RequestError
from jedlik.core.requests import MOST_PRIORITY, KvHint
from jedlik.frontend.dialect import AnswerPlan, PlannedPrompt
from jedlik.frontend.models import ModelLimits
from jedlik.frontend.openai import chat, sampling
from jedlik.frontend.openai.schema import CHAT_ONLY, KvHintBody, OpenAIBody, refuse_unserved
from jedlik.frontend.text.model import TextModel
from jedlik.frontend.text.stop import Stops
from jedlik.frontend.text.tokenise import TooLong
from jedlik.frontend.turns import Steps

COMPLETION_MAX_TOKENS = 16
"""A completion has so many tokens where nothing is asked: OpenAI's documented default."""
MAX_STREAMS = 1024
MAX_SALT_CHARS = 1024
MAX_HINT_S = 3600
COUNTED = 4
"""A prompt that is too long is counted up to so many contexts, to say by how much: no more work than valid ones are."""


class PlanMaker:
    """The making of one plan. `rng` draws the seed; no clock is read."""

    def __init__(
        self, body: OpenAIBody, text: TextModel, limits: ModelLimits, config: FrontendConfig, rng: random.Random
    ) -> None:
        self._body = body
        self._text = text
        self._limits = limits
        self._config = config
        self._rng = rng

    def chat(self) -> Steps[AnswerPlan]:
        """Plan a chat completion. Raises RequestError."""
        body = self._body
        chat.refuse_unserved_chat(body, self._text)
        if not isinstance(body.logprobs, bool | None):
            raise sampling.refuse("logprobs", "must be true or false; top_logprobs says how many")
        if body.top_logprobs and not body.logprobs:
            raise sampling.refuse("top_logprobs", "needs logprobs: true")
        count = body.top_logprobs or 0 if body.logprobs else None
        if count is not None:
            self._check_logprobs(count, "top_logprobs" if count else "logprobs")
        text, tokeniser = yield from chat.prompt_text(body, self._text, self._config.max_messages)
        ids = yield from self._encode(tokeniser.steps(text, False, COUNTED * self._limits.max_model_len), "messages")
        return self._plan([ids], count)

    def completion(self) -> Steps[AnswerPlan]:
        """Plan a completion. Raises RequestError."""
        body = self._body
        refuse_unserved(body, CHAT_ONLY)
        if body.prompt is None:
            raise RequestError("prompt is missing.", param="prompt", code="missing_parameter")
        count = body.logprobs
        if isinstance(count, bool):
            raise sampling.refuse("logprobs", "must be a number here")
        if count is not None:
            self._check_logprobs(count, "logprobs")
        room = 0 if body.echo and sampling.output_limit(body, least=0) == 0 else 1
        prompts = []
        for prompt in self._prompts(body.prompt):
            prompts.append((yield from self._ids(prompt, body.add_special_tokens is not False, room)))
        return self._plan(prompts, count)

    def _check_logprobs(self, count: int, param: str) -> None:
        sampling.check_logprobs(count, param, self._limits, self._config.max_top_logprobs)

    def _plan(self, prompts: list[bytes], logprobs: int | None) -> AnswerPlan:
        body, limits, config = self._body, self._limits, self._config
        n = 1 if body.n is None else body.n
        most = min(config.max_choices, limits.choices)
        stops = sampling.stop_strings(body, config.max_stop_strings)
        include_stop = bool(body.include_stop_str_in_output)
        echo = bool(body.echo)
        if not 1 <= n <= most or n * len(prompts) > MAX_STREAMS:
            raise sampling.refuse("n", f"must be between 1 and {most}, and at most {MAX_STREAMS} over all prompts")
        asked = sampling.output_limit(body, least=0 if echo else 1)
        drawn = self._rng.getrandbits(63)
        options = body.stream_options
        return AnswerPlan(
            model=body.model,
            text=self._text,
            prompts=tuple([self._prompt(ids, asked) for ids in prompts]),
            n=n,
            sampling=sampling.sampling(body, limits, drawn, logprobs, echo and logprobs is not None),
            fingerprint=limits.fingerprint,
            salt=_salt(body),
            priority=_priority(body),
            hint=_hint(body.kv_hint),
            conversation=(body.prompt_cache_key or "", body.user or ""),
            stops=Stops(stops, include_stop) if stops else None,
            min_tokens=body.min_tokens or 0,
            stop_token_ids=tuple(body.stop_token_ids or ()),
            include_stop=include_stop,
            skip_special=body.skip_special_tokens is not False,
            logprobs=logprobs,
            echo=echo,
            stream=bool(body.stream),
            include_usage=bool((options and options.include_usage) or (body.usage and body.usage.include)),
            running_usage=bool(options and options.continuous_usage_stats),
        )

    def _prompt(self, ids: bytes, asked: int | None) -> PlannedPrompt:
        body, limits = self._body, self._limits
        room = limits.max_model_len - tokens.count(ids)
        if limits.defaults.max_tokens is not None:
            room = min(room, limits.defaults.max_tokens)
        default = self._config.default_max_tokens
        if default is None:
            default = room if body.prompt is None else COMPLETION_MAX_TOKENS
        return PlannedPrompt(ids, sampling.stopping(body, limits, min(room, default if asked is None else asked)))

    # --- prompts ---

    def _prompts(self, prompt: str | list[str | int | list[int]]) -> list[str | list[int]]:
        """A text, ids, or a list of either, as a list."""
        most = self._limits.max_model_len
        if isinstance(prompt, str):
            return [prompt]
        if len(prompt) > most and isinstance(prompt[0], int):
            raise too_long(str(len(prompt)), most, 1, "prompt")
        kinds = set(map(type, prompt))
        if kinds == {int}:
            return [prompt]  # type: ignore[list-item]  # all are int, and looking at each again would take long
        if int in kinds or not prompt:
            raise sampling.refuse("prompt", "must be a text, a list of texts, token ids, or a list of token id lists")
        if len(prompt) > self._config.max_batch_prompts:
            raise sampling.refuse("prompt", f"has more than {self._config.max_batch_prompts} prompts")
        return [item for item in prompt if not isinstance(item, int)]

    def _ids(self, prompt: str | list[int], special: bool, room: int) -> Steps[bytes]:
        if isinstance(prompt, str):
            steps = self._text.tokeniser.steps(prompt, special, COUNTED * self._limits.max_model_len)
            return (yield from self._encode(steps, "prompt", room))
        yield None
        if len(prompt) + room > self._limits.max_model_len:
            raise too_long(str(len(prompt)), self._limits.max_model_len, room, "prompt")
        if not prompt or min(prompt) < 0 or max(prompt) >= self._limits.vocab_size:
            raise sampling.refuse("prompt", "is empty or has an entry that is no token id of this model")
        return tokens.pack(prompt)

    def _encode(self, steps: Steps[bytes], param: str, room: int = 1) -> Steps[bytes]:
        """`room`: tokens that must be left for the answer."""
        most = self._limits.max_model_len
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


def too_long(count: str, most: int, room: int, param: str) -> RequestError:
    also = ", and the answer needs room for one more" if room else ""
    return RequestError(
        f"This model's maximum context length is {most} tokens; {param} has {count}{also}. Shorten it.",
        param=param,
        code="context_length_exceeded",
    )


def _salt(body: OpenAIBody) -> str:
    salt = body.cache_salt
    if salt is None:
        return ""
    if not salt or len(salt) > MAX_SALT_CHARS or not salt.isprintable():
        raise sampling.refuse("cache_salt", f"must have 1 to {MAX_SALT_CHARS} printable characters")
    return salt


def _priority(body: OpenAIBody) -> int:
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
