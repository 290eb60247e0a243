"""Control tokens, and how the text that clients send is kept from becoming one.

A control token is an added token of the tokenizer that is special, or that the chat template writes, as `<think>`. The
template's own are tokens; in what a client says the same characters are text. Before rendering, the first character
of each such text is replaced by a stand-in (half of a surrogate pair: no client can send one). It stays at its place
whatever the template does to the text, and says afterwards where a client's text stands. There the text gets a `BREAK`
behind that character, which keeps the tokenizer from seeing a token; its normalizer then removes it.

A template that edits text might make a token of pieces. So a second rendering has stand-ins for the first characters
of tokens wherever they are: unless both have the same control tokens, it is the one that counts. An assistant's
message is what the model wrote: tokens there that are not special, as `</think>`, stay what they are.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers

from jedlik.core.errors import ConfigError, RequestError
from jedlik.frontend.text.tokenise import Tokeniser
from jedlik.frontend.turns import Steps

BREAK = "\ufdd0"
"""A noncharacter: no text has it, and where a client sends it beside a control token's text it is dropped."""
STAND_INS = 0xDC00
MOST_STARTS = 0x400
SCANNED_CHARS = 1 << 15
STEP = 64
MOST_VALUES, MOST_DEPTH = 10_000, 50
"""A template's variables may have so many values, nested so deep."""
Values = Mapping[str, object]
Messages = Sequence[Values]


class Render(Protocol):
    """A template with its flag that an answer begins."""

    def __call__(self, messages: Messages, extra: Values) -> Steps[str]: ...


Edit = Callable[[str], Steps[str]]


class ControlTokens:
    """The control tokens of one model. `source` is its chat template."""

    def __init__(
        self, tokenizer: Tokenizer, spec: Mapping[str, object], source: str, cache_bytes: int = 10 << 20
    ) -> None:
        added = tokenizer.get_added_tokens_decoder().values()
        special = {token.content for token in added if token.special and len(token.content) > 1}
        written = {t.content for t in added if not t.special and t.content in source and _is_markup(t.content)}
        self.contents = sorted(special | written)
        starts = sorted({content[0] for content in self.contents})[:MOST_STARTS]
        stand_ins = {start: chr(STAND_INS + at) for at, start in enumerate(starts)}
        self._starts = starts
        self._stand_ins = stand_ins
        self._found = re.compile(_any_of(self.contents, re.escape) if self.contents else "(?!)")
        self._longest = max(map(len, self.contents), default=0)

        def either(char: str) -> str:
            return f"[{re.escape(char)}{stand_ins[char]}]" if char in stand_ins else re.escape(char)

        self._client = re.compile(_starting(self.contents, starts, stand_ins.__getitem__, either))
        self._some = self._hiding(_starting(self.contents, starts, re.escape, re.escape))
        self._some_assistant = self._hiding(_starting(sorted(special), starts, re.escape, re.escape))
        self._every = self._hiding(_not_starting([], starts))
        self._every_assistant = self._hiding(_not_starting(sorted(written), starts))
        self.tokeniser = Tokeniser(_without_control(tokenizer, self.contents), spec, cache_bytes)
        """This tokeniser takes texts that have breaks."""

    def guarded(self, render: Render, messages: Messages, variables: Values) -> Steps[tuple[str, bool]]:
        """The prompt's text; and whether it has breaks, so that `tokeniser` has to take it. Raises as `render` does.

        What nothing `touches` needs no guarding.
        """
        try:
            some, extra = yield from _edited(messages, variables, self._some, self._some_assistant)
            text = yield from render(some, extra=extra)
            some, extra = yield from _edited(messages, variables, self._every, self._every_assistant)
            every = yield from render(some, extra=extra)
        except RequestError as error:
            raise RequestError(
                self._restored(str(error)), param=error.param, code=error.code, status=error.status
            ) from error
        if (yield from self._tokens(text)) != (yield from self._tokens(every)):
            text = every
        broken = yield from self._replaced(self._client, lambda char: char + BREAK, text)
        return self._restored(broken), len(broken) > len(text)

    def touches(self, message: Values) -> bool:
        """Whether a text of a message has a character that a control token begins with."""
        for value in message.values():
            if isinstance(value, str):
                for start in self._starts:  # a loop: `any` takes three times as long, for every message
                    if start in value:
                        return True
            elif _has(value, self._starts, [MOST_VALUES]):
                return True
        return False

    def touches_any(self, variables: Values) -> bool:
        """Return the same of a template's variables. Raises RequestError if they are more than a template needs."""
        return _has(variables, self._starts, [MOST_VALUES])

    def _hiding(self, pattern: str) -> Edit:
        """An edit that puts stand-ins for the characters that a pattern finds."""
        return partial(self._replaced, re.compile(pattern or "(?!)"), self._stand_ins.__getitem__)

    def _replaced(self, pattern: re.Pattern[str], new: Callable[[str], str], text: str) -> Steps[str]:
        """A text with the characters replaced that a pattern finds, a stretch per step."""
        stretches, last = [], 0
        for begin in range(0, len(text), SCANNED_CHARS):
            end = begin + SCANNED_CHARS
            parts = []
            for found in pattern.finditer(text, begin, end + self._longest):
                if found.start() >= end:
                    break
                parts += [text[last : found.start()], new(found[0])]
                last = found.end()
            stretches.append("".join(parts))
            if end < len(text):
                yield None
        return "".join([*stretches, text[last:]])

    def _restored(self, text: str) -> str:
        for start, stand_in in self._stand_ins.items():
            text = text.replace(stand_in, start)
        return text

    def _tokens(self, text: str) -> Steps[list[str]]:
        """Control tokens in order."""
        tokens, at = [], 0
        while at < len(text):
            end = at + SCANNED_CHARS
            found = self._found.search(text, at, end + self._longest)
            if found is None or found.start() >= end:
                at = end
                yield None
            else:
                tokens.append(found[0])
                at = found.end()
                if not len(tokens) % STEP:
                    yield None
        return tokens


def _is_markup(content: str) -> bool:
    """`<think>`, `[INST]`: not white space, and not a word."""
    return len(content) > 1 and not any(char.isalnum() or char.isspace() for char in (content[0], content[-1]))


# --- clients' values ---


def _has(value: object, starts: Sequence[str], budget: list[int], depth: int = 0) -> bool:
    """Whether any text of a value has one of these characters. Raises RequestError for more than a template needs."""
    if isinstance(value, str):
        return any(start in value for start in starts)
    if not isinstance(value, Mapping | list):
        return False
    budget[0] -= len(value)
    if budget[0] < 0 or depth > MOST_DEPTH:
        what = f"chat_template_kwargs has more than {MOST_VALUES} values, or is nested deeper than {MOST_DEPTH}."
        raise RequestError(what, param="chat_template_kwargs", code="invalid_value")
    items = [*value, *value.values()] if isinstance(value, Mapping) else value
    found = [_has(item, starts, budget, depth + 1) for item in items]
    return any(found)


def _edited(messages: Messages, variables: Values, edit: Edit, assistant_edit: Edit) -> Steps[tuple[Messages, Values]]:
    """All texts through `edit`, those of an assistant's messages through `assistant_edit`."""
    edited = []
    for at, message in enumerate(messages):
        edited.append((yield from _through(message, assistant_edit if message.get("role") == "assistant" else edit)))
        if not at % STEP:
            yield None
    return edited, (yield from _through(variables, edit))


def _through(value: Any, edit: Edit) -> Steps[Any]:
    if isinstance(value, str):
        return (yield from edit(value))
    if isinstance(value, Mapping):
        items = {}
        for name, item in value.items():
            items[(yield from edit(name))] = yield from _through(item, edit)
        return items
    if not isinstance(value, list):
        return value
    parts = []
    for item in value:
        parts.append((yield from _through(item, edit)))
    return parts


# --- patterns: linear, however many tokens there are ---


def _any_of(contents: Sequence[str], char: Callable[[str], str]) -> str:
    """A pattern for the longest of some texts, as a tree of their characters. `char` is the pattern for one."""
    below: dict[str, list[str]] = {}
    for content in contents:
        if content:
            below.setdefault(content[0], []).append(content[1:])
    branches = [char(first) + _any_of(rests, char) for first, rests in below.items()]
    pattern = branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})" if branches else ""
    return f"(?:{pattern})?" if "" in contents and branches else pattern


def _starting(
    contents: Sequence[str], starts: Sequence[str], first: Callable[[str], str], rest: Callable[[str], str]
) -> str:
    """A pattern for the first characters of texts, wherever one begins."""
    tails = {start: [content[1:] for content in contents if content[0] == start] for start in starts}
    return "|".join([f"{first(start)}(?={_any_of(each, rest)})" for start, each in tails.items() if each]) or "(?!)"


def _not_starting(contents: Sequence[str], starts: Sequence[str]) -> str:
    """A pattern for the first characters wherever none of these texts begins."""
    tails = {start: [content[1:] for content in contents if content[0] == start] for start in starts}
    return "|".join(
        [re.escape(start) + (f"(?!{_any_of(each, re.escape)})" if each else "") for start, each in tails.items()]
    )


# --- the tokenizer that passes over breaks ---


def _without_control(tokenizer: Tokenizer, contents: Sequence[str]) -> Tokenizer:
    """A tokenizer with the same model that makes no control token of a text with a break in it.

    Breaks are removed before the model sees the text. Where a model knows control tokens by themselves (a vocabulary of
    SentencePiece), breaks part the text as well. Raises ConfigError.
    """
    for parted in (False, True):
        passing = _with_breaks(tokenizer, parted)
        texts = [content[0] + BREAK + content[1:] for content in contents]
        made = passing.encode_batch_fast(texts, add_special_tokens=False)
        if not any(tokenizer.token_to_id(content) in one.ids for content, one in zip(contents, made, strict=True)):
            return passing
    raise ConfigError("tokenizer.json: its model makes control tokens of plain text (--allow-special-in-text lets it)")


def _with_breaks(tokenizer: Tokenizer, parted: bool) -> Tokenizer:
    passing = Tokenizer(tokenizer.model)
    passing.post_processor = tokenizer.post_processor
    passing.decoder = tokenizer.decoder
    before, own = tokenizer.normalizer, tokenizer.pre_tokenizer
    if parted:
        split = pre_tokenizers.Split(Regex(BREAK), "removed")
        passing.normalizer = before
        passing.pre_tokenizer = split if own is None else pre_tokenizers.Sequence([split, own])
    else:
        removed = normalizers.Replace(BREAK, "")
        passing.normalizer = removed if before is None else normalizers.Sequence([removed, before])
        passing.pre_tokenizer = own
    for _, token in sorted(tokenizer.get_added_tokens_decoder().items()):
        same = AddedToken(
            token.content, single_word=token.single_word, lstrip=token.lstrip, rstrip=token.rstrip,
            normalized=False, special=token.special,
        )  # fmt: skip
        (passing.add_special_tokens if token.special else passing.add_tokens)([same])
    return passing
