"""Token ids to text as they come, never splitting a character.

A table holds each token's bytes, and its text where that is whole characters: a typical token costs one look-up.
Tables fit byte-level and SentencePiece-like decoders and are checked at load; any other decoder runs on a small window.
In a byte-fallback run that is not UTF-8, `tokenizers` replaces the whole run; here its valid characters have
already been sent, and one U+FFFD stands for each invalid stretch.
"""

from codecs import getincrementaldecoder
from collections.abc import Mapping, Sequence
from typing import Protocol

from tokenizers import Tokenizer

from jedlik.frontend.text.samples import SAMPLES
from jedlik.frontend.turns import Steps

_utf8 = getincrementaldecoder("utf-8")
REPLACEMENT = "\ufffd"
MOST_OPEN = 16
"""Tokens that may be held back for the rest of a character, which never has as many: broken bytes may never end."""
TOKENS_A_STEP = 1024


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


_ALPHABET = _byte_level_alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_ALPHABET[char] for char in token])
    except KeyError:
        return token.encode()


def _sentence_piece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes((int(token[3:5], 16),))
    return token.replace("▁", " ").encode()


class Detokeniser(Protocol):
    """Makes text of one sequence's ids."""

    def feed(self, token: int) -> str:
        """Take a token; return the text that is certain now."""

    def finish(self) -> str:
        """Return the text that was held back."""

    def fork(self) -> "Detokeniser":
        """Return another one that has been fed the same."""


class TokenTable:
    """Bytes and texts of all tokens of a model; shared by its sequences."""

    def __init__(self, pieces: Sequence[bytes], special: frozenset[int], strip: bool) -> None:
        self.bytes = pieces
        self.special = special
        self.strip = strip
        """The decoder drops one leading space of the text."""
        self.texts = [_text(piece) for piece in pieces]
        self.shown = ["" if token in special else text for token, text in enumerate(self.texts)]

    def stream(self, skip_special: bool = True) -> "TableStream":
        return TableStream(self, skip_special)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        stream = self.stream(skip_special)
        return "".join([stream.feed(token) for token in ids]) + stream.finish()


def _text(piece: bytes) -> str | None:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None


class TableStream:
    """A `Detokeniser` by look-up; the UTF-8 decoder works only while a character is open."""

    __slots__ = ("_open", "_skip", "_strip", "_table", "_texts", "_utf8")

    def __init__(self, table: TokenTable, skip_special: bool) -> None:
        self._table = table
        self._texts = table.shown if skip_special else table.texts
        self._skip = skip_special
        self._strip = table.strip
        self._open = False
        self._utf8 = _utf8(errors="replace")

    def feed(self, token: int) -> str:
        if token >= len(self._texts):
            return ""  # ids that the vocabulary does not have (padded embedding rows) have no text
        text = self._texts[token]
        if text is None or self._open:
            text = self._bytes(token)
        if self._strip and text:
            self._strip = False
            text = text.removeprefix(" ")
        return text

    def _bytes(self, token: int) -> str:
        if self._skip and token in self._table.special:
            return ""
        text = self._utf8.decode(self._table.bytes[token])
        self._open = bool(self._utf8.getstate()[0])
        return text

    def finish(self) -> str:
        self._open = False
        return self._utf8.decode(b"", final=True)

    def fork(self) -> "TableStream":
        other = TableStream(self._table, self._skip)
        other._strip, other._open = self._strip, self._open
        other._utf8.setstate(self._utf8.getstate())
        return other


class WindowStream:
    """A `Detokeniser` for any decoder: decodes a window that starts some tokens back, with and without what is new."""

    def __init__(self, tokenizer: Tokenizer, silent: frozenset[int], size: int, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._silent = silent if skip_special else frozenset()
        self._size = size
        self._skip = skip_special
        self._ids: list[int] = []
        self._sent = 0

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=self._skip)
        return text

    def feed(self, token: int) -> str:
        if token in self._silent or token >= self._size:
            return ""  # the window grows only with what has text, or it would take ever longer to decode
        self._ids.append(token)
        before, text = self._decode(self._ids[: self._sent]), self._decode(self._ids)
        unsure = text.endswith(REPLACEMENT) or not text.startswith(before)
        if unsure and len(self._ids) - self._sent < MOST_OPEN:
            return ""
        new = text[len(before) :]
        if before and new:  # the window must keep a token with text, or the decoder would take its start for the text's
            del self._ids[: self._sent]
        self._sent = len(self._ids) if new or not self._sent else self._sent
        return new

    def finish(self) -> str:
        before, text = self._decode(self._ids[: self._sent]), self._decode(self._ids)
        return text[len(before) :]

    def fork(self) -> "WindowStream":
        other = WindowStream(self._tokenizer, self._silent, self._size, self._skip)
        other._ids, other._sent = list(self._ids), self._sent
        return other


class Detokenisers:
    """Makes detokenisers for one tokenizer, and tells single tokens' bytes."""

    def __init__(self, tokenizer: Tokenizer, spec: Mapping[str, object]) -> None:
        self._tokenizer = tokenizer
        decoder = spec.get("decoder")
        kind = decoder.get("type") if isinstance(decoder, dict) else None
        self.table = _table(tokenizer, kind == "ByteLevel")
        self.fast = self._agrees()

    def stream(self, skip_special: bool = True) -> Detokeniser:
        if self.fast:
            return self.table.stream(skip_special)
        return WindowStream(self._tokenizer, self.table.special, len(self.table.bytes), skip_special)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def steps(self, ids: Sequence[int], skip_special: bool = True) -> Steps[str]:
        """Do what `decode` does, some ids per step."""
        if not self.fast:
            text: str = yield lambda: self.decode(ids, skip_special)
            return text
        stream = self.table.stream(skip_special)
        parts = []
        for at, token in enumerate(ids):
            parts.append(stream.feed(token))
            if not at % TOKENS_A_STEP:
                yield None
        return "".join(parts) + stream.finish()

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token by itself, special or not; empty for an id without a token."""
        if token >= len(self.table.bytes):
            return b""
        return self.table.bytes[token] if self.fast else self.decode([token], skip_special=False).encode()

    def _agrees(self) -> bool:
        """The self-check: the table against the tokenizer on samples, whole and each token alone."""
        for text in SAMPLES:
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
            for skip in (True, False):
                if self.table.decode(ids, skip) != self.decode(ids, skip):
                    return False
        return True


def _strips(tokenizer: Tokenizer, pieces: Sequence[bytes]) -> bool:
    """Whether the decoder drops a leading space, seen on the first token that has one."""
    token = next((at for at, piece in enumerate(pieces) if len(piece) > 1 and piece.startswith(b" ")), None)
    return token is not None and not tokenizer.decode([token], skip_special_tokens=False).startswith(" ")


def _table(tokenizer: Tokenizer, byte_level: bool) -> TokenTable:
    to_bytes = _byte_level if byte_level else _sentence_piece
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    pieces = [b""] * (max(vocab.values(), default=-1) + 1)
    for token, at in vocab.items():
        pieces[at] = to_bytes(token)
    special = frozenset(at for at, token in tokenizer.get_added_tokens_decoder().items() if token.special)
    return TokenTable(pieces, special, _strips(tokenizer, pieces))
