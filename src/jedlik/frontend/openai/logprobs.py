"""Log-probabilities in OpenAI's two shapes: chat's list of tokens, completions' four columns."""

from collections.abc import Callable, Sequence

import msgspec

from jedlik.frontend.dialect import AnswerToken

TokenBytes = Callable[[int], bytes]
LOWEST = -9999.0
"""Stands for minus infinity, which JSON does not have; vLLM and OpenAI use the same."""


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST)


def _one(token: int, logprob: float, token_bytes: TokenBytes) -> dict[str, object]:
    raw = token_bytes(token)
    return {"token": raw.decode(errors="replace"), "logprob": _finite(logprob), "bytes": list(raw)}


def chat_logprobs(entries: Sequence[AnswerToken], count: int, token_bytes: TokenBytes) -> dict[str, object]:
    """Return `choices[].logprobs` of chat: {"content": [...], "refusal": null}."""
    content = []
    for entry in entries:
        at = entry.logprobs
        item = _one(entry.token, LOWEST if at is None else at.logprob, token_bytes)
        item["top_logprobs"] = [_one(t, p, token_bytes) for t, p in at.top[:count]] if at else []
        content.append(item)
    return {"content": content, "refusal": None}


def token_name(token: int, token_bytes: TokenBytes) -> str:
    """Return a token's text; one of partial characters in the spelling `bytes:\\xe2\\x80`, so that names differ."""
    raw = token_bytes(token)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join([f"\\x{byte:02x}" for byte in raw])


def _top(entry: AnswerToken, count: int, token_bytes: TokenBytes) -> dict[str, float] | None:
    """The most likely tokens by name; the chosen one always among them, as lm-eval's greedy check needs."""
    at = entry.logprobs
    if at is None or not count:
        return None
    named: dict[str, float] = {}
    for token, logprob in (*at.top[:count], (entry.token, at.logprob)):
        named.setdefault(token_name(token, token_bytes), _finite(logprob))
    return named


class Columns:
    """One choice's logprobs, encoded as they come: at the end of a long answer they are only joined."""

    def __init__(self, make: Callable[[Sequence[AnswerToken]], dict[str, object]]) -> None:
        self._make = make
        self._parts: dict[str, list[bytes] | None] = {}

    def add(self, entries: Sequence[AnswerToken]) -> None:
        for name, values in self._make(entries).items():
            parts = self._parts.setdefault(name, None if values is None else [])
            if parts is not None and entries:
                parts.append(msgspec.json.encode(values)[1:-1])

    def whole(self) -> dict[str, object]:
        """Return all that was added, in the shape of one call of `make`. It is asked for once."""
        self.add(())
        joined = {name: None if parts is None else b",".join(parts) for name, parts in self._parts.items()}
        return {name: None if each is None else msgspec.Raw(b"[%b]" % each) for name, each in joined.items()}


def completion_logprobs(entries: Sequence[AnswerToken], count: int, token_bytes: TokenBytes) -> dict[str, object]:
    """Return `choices[].logprobs` of completions: four columns."""
    return {
        "tokens": [token_name(entry.token, token_bytes) for entry in entries],
        "token_logprobs": [None if e.logprobs is None else _finite(e.logprobs.logprob) for e in entries],
        "top_logprobs": [_top(entry, count, token_bytes) for entry in entries] if count else None,
        "text_offset": [entry.offset for entry in entries],
    }
