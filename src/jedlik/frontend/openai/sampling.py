"""Parameters become core `Sampling` and `Stopping`: ranges, limits, and what the model's workers can do."""

from jedlik.core.errors import RequestError
from jedlik.core.requests import RANGES, Sampling, Stopping
from jedlik.frontend.models import ModelLimits
from jedlik.frontend.openai.schema import OpenAIBody

SEEDS = 1 << 64
"""The number of seeds: those of signed 64 bits."""
DRAW_A_SEED = -1
"""This seed counts as no seed given: one is drawn (vLLM reads it so)."""
SMALLEST_NUCLEUS = 1e-9
MAX_LOGIT_BIAS = 1024
MAX_STOP_TOKEN_IDS = 1024
MAX_STOP_CHARS = 1024
NEUTRAL_NUMBERS = {
    "top_p": 1.0,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
}


def refuse(param: str, why: str) -> RequestError:
    """Return the error for a bad value, named."""
    return RequestError(f"{param} {why}.", param=param, code="invalid_value")


def _number(body: OpenAIBody, limits: ModelLimits, name: str) -> float:
    """One ranged parameter; the model's default if not given."""
    value: float | None = getattr(body, name)
    neutral = NEUTRAL_NUMBERS[name]
    if value is None:
        default: float = getattr(limits.defaults, name, neutral)
        return default
    if value == neutral:
        return neutral
    _in_range(name, value)
    limits.needs(name, name)
    return value


def _in_range(name: str, value: float) -> None:
    low, high = RANGES[name]
    if not low <= value <= high:
        raise refuse(name, f"must be between {low:g} and {high:g}, not {value:g}")


def _temperature(body: OpenAIBody, limits: ModelLimits) -> float:
    if body.temperature is None:
        return limits.defaults.temperature
    _in_range("temperature", body.temperature)
    if body.temperature:
        limits.needs("temperature", "temperature")
    return body.temperature


def _top_k(body: OpenAIBody, limits: ModelLimits) -> int:
    """vLLM's -1 and transformers' 0 both mean no limit."""
    if body.top_k is None:
        return limits.defaults.top_k
    if body.top_k in (-1, 0):
        return 0
    if not 1 <= body.top_k < 1 << 31:
        raise refuse("top_k", "must be positive, or 0 or -1 for no limit")
    limits.needs("top_k", "top_k")
    return body.top_k


def _top_p(body: OpenAIBody, limits: ModelLimits) -> float:
    """0 is what OpenAI takes for "only the most likely token": the smallest nucleus."""
    if body.top_p is not None and 0 <= body.top_p < SMALLEST_NUCLEUS:
        limits.needs("top_p", "top_p")
        return SMALLEST_NUCLEUS
    return _number(body, limits, "top_p")


def _token(text: str, vocab_size: int) -> int:
    """Digits only: Python's int() takes signs, blanks and underscores too, and 7 may not be named twice as 07."""
    token = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1
    if not 0 <= token < vocab_size or str(token) != text:
        raise refuse("logit_bias", f"has the key {text[:40]!r}, which is no token id of this model")
    return token


def _logit_bias(body: OpenAIBody, limits: ModelLimits) -> dict[int, float]:
    if not body.logit_bias:
        return {}
    limits.needs("logit_bias", "logit_bias")
    if len(body.logit_bias) > MAX_LOGIT_BIAS:
        raise refuse("logit_bias", f"has more than {MAX_LOGIT_BIAS} entries")
    if any(not -100 <= bias <= 100 for bias in body.logit_bias.values()):
        raise refuse("logit_bias", "must be between -100 and 100")
    return {_token(key, limits.vocab_size): bias for key, bias in body.logit_bias.items()}


def _seed(body: OpenAIBody, limits: ModelLimits, drawn: int) -> int:
    if body.seed is None or body.seed == DRAW_A_SEED:
        return drawn
    if not -SEEDS // 2 <= body.seed < SEEDS // 2:
        raise refuse("seed", f"must be a whole number from {-SEEDS // 2} to {SEEDS // 2 - 1}")
    limits.needs("seed", "seed")
    return body.seed % SEEDS


def check_logprobs(count: int, param: str, limits: ModelLimits, most: int) -> None:
    """Raises RequestError if so many alternatives per token can't be had."""
    limits.needs("logprobs", param)
    most = min(most, limits.max_logprobs)
    if not 0 <= count <= most:
        raise refuse(param, f"must be between 0 and {most}")


def sampling(
    body: OpenAIBody, limits: ModelLimits, drawn_seed: int, logprobs: int | None, prompt_logprobs: bool
) -> Sampling:
    """Return the sampling parameters. `logprobs` has been checked."""
    if prompt_logprobs:
        limits.needs("prompt_logprobs", "echo")
    return Sampling(
        seed=_seed(body, limits, drawn_seed),
        temperature=_temperature(body, limits),
        top_p=_top_p(body, limits),
        top_k=_top_k(body, limits),
        min_p=_number(body, limits, "min_p"),
        repetition_penalty=_number(body, limits, "repetition_penalty"),
        frequency_penalty=_number(body, limits, "frequency_penalty"),
        presence_penalty=_number(body, limits, "presence_penalty"),
        logit_bias=_logit_bias(body, limits),
        logprobs=logprobs,
        prompt_logprobs=logprobs if prompt_logprobs else None,
    )


def _stop_token_ids(body: OpenAIBody, limits: ModelLimits) -> tuple[int, ...]:
    ids = body.stop_token_ids
    if not ids:
        return ()
    limits.needs("stop_token_ids", "stop_token_ids")
    if len(ids) > MAX_STOP_TOKEN_IDS:
        raise refuse("stop_token_ids", f"has more than {MAX_STOP_TOKEN_IDS} entries")
    if any(not 0 <= token < limits.vocab_size for token in ids):
        raise refuse("stop_token_ids", "has an entry that is no token id of this model")
    return tuple(ids)


def output_limit(body: OpenAIBody, least: int) -> int | None:
    """Return the client's limit on output tokens. It is at least `least`; max_completion_tokens is newer and wins."""
    newer = body.max_completion_tokens is not None
    asked = body.max_completion_tokens if newer else body.max_tokens
    if asked is not None and asked < least:
        raise refuse("max_completion_tokens" if newer else "max_tokens", f"must be at least {least}")
    return asked


def stopping(body: OpenAIBody, limits: ModelLimits, max_tokens: int) -> Stopping:
    """Return when a sequence ends. `max_tokens` has been cut to the context."""
    least = body.min_tokens or 0
    if least < 0 or least > max_tokens:
        raise refuse("min_tokens", f"must be between 0 and the {max_tokens} tokens that may come")
    if least:
        limits.needs("min_tokens", "min_tokens")
    if body.ignore_eos:
        limits.needs("ignore_eos", "ignore_eos")
    return Stopping(max_tokens, least, bool(body.ignore_eos), _stop_token_ids(body, limits))


def stop_strings(body: OpenAIBody, most: int) -> tuple[str, ...]:
    """Return the stop strings, checked. They are the frontend's work, so every model has them."""
    if body.stop is None:
        return ()
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if len(stops) > most:
        raise refuse("stop", f"has more than {most} strings")
    if any(not stop or len(stop) > MAX_STOP_CHARS for stop in stops):
        raise refuse("stop", f"has a string that is empty or longer than {MAX_STOP_CHARS} characters")
    return stops
