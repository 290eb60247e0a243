"""Log-probabilities in OpenAI's two shapes: chat's list of tokens, completions' four columns."""

from collections.abc import Callable, Sequence

import msgspec

from jedlik.core.step import TokenLogprobs

TokenBytes = Callable[[int], bytes]
LOWEST = -9999.0
"""Stands for minus infinity, which JSON does not have; vLLM and OpenAI use the same."""


class Entry(msgspec.Struct, frozen=True):
    """One token of the answer (or of an echoed prompt) and where its text begins."""

    token: int
    offset: int
    """Characters of the choice's text before it."""
    logprobs: TokenLogprobs | None
    """None for a prompt's first token."""


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST)


def _one(token: int, logprob: float, token_bytes: TokenBytes) -> dict[str, object]:
    raw = token_bytes(token)
    return {"token": raw.decode(errors="replace"), "logprob": _finite(logprob), "bytes": list(raw)}


def chat_logprobs(entries: Sequence[Entry], count: int, token_bytes: TokenBytes) -> dict[str, object]:
    """`choices[].logprobs` of chat: {"content": [...], "refusal": null}."""
    content = []
    for entry in entries:
        at = entry.logprobs
        item = _one(entry.token, LOWEST if at is None else at.logprob, token_bytes)
        item["top_logprobs"] = [_one(t, p, token_bytes) for t, p in at.top[:count]] if at else []
        content.append(item)
    return {"content": content, "refusal": None}


def token_name(token: int, token_bytes: TokenBytes) -> str:
    """A token's text; a token of partial characters in OpenAI's spelling `bytes:\\xe2\\x80`, so that names differ."""
    raw = token_bytes(token)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join([f"\\x{byte:02x}" for byte in raw])


def _top(entry: Entry, count: int, token_bytes: TokenBytes) -> dict[str, float] | None:
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

    def __init__(self, make: Callable[[Sequence[Entry]], dict[str, object]]) -> None:
        self._make = make
        self._parts: dict[str, list[bytes] | None] = {}

    def add(self, entries: Sequence[Entry]) -> None:
        for name, values in self._make(entries).items():
            parts = self._parts.setdefault(name, None if values is None else [])
            if parts is not None and entries:
                parts.append(msgspec.json.encode(values)[1:-1])

    def whole(self) -> dict[str, object]:
        """All that was added, in the shape of one call of `make`."""
        self.add(())
        joined = {name: None if parts is None else b",".join(parts) for name, parts in self._parts.items()}
        return {name: None if each is None else msgspec.Raw(b"[%b]" % each) for name, each in joined.items()}


def completion_logprobs(entries: Sequence[Entry], count: int, token_bytes: TokenBytes) -> dict[str, object]:
    """`choices[].logprobs` of completions."""
    return {
        "tokens": [token_name(entry.token, token_bytes) for entry in entries],
        "token_logprobs": [None if e.logprobs is None else _finite(e.logprobs.logprob) for e in entries],
        "top_logprobs": [_top(entry, count, token_bytes) for entry in entries] if count else None,
        "text_offset": [entry.offset for entry in entries],
    }
