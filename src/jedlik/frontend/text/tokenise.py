"""Text becomes packed token ids, with the ids of text seen before cached: a long shared prefix is tokenised once.

Bit-identical to plain tokenisation: texts are cut only where that is proven (`cuts`), and a tokenizer that fails the
self-check at load is not cut. Cached pieces have a byte budget; the least recently used go first.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from tokenizers import Tokenizer

from jedlik.core.errors import ConfigError
from jedlik.core.tokens import TOKEN_BYTES, pack
from jedlik.frontend.text.cuts import Cuts, restarts_at_spaces
from jedlik.frontend.text.samples import SAMPLES
from jedlik.frontend.text.words import WORD_BYTES, Words
from jedlik.frontend.turns import Steps, finish

PIECE_OVERHEAD_BYTES = 250
"""A cached piece takes so much besides its characters and ids: two objects and a place in the table."""
LONG_CHARS = 8 << 10
"""A piece longer than this is tokenised in a thread, since the tokenizer releases the interpreter's lock."""


class TooLong(ValueError):
    """The text has more tokens than `limit`; `tokens` were counted before giving up."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"more than {tokens} tokens")
        self.tokens = tokens


class PieceCache:
    """Packed ids by piece, bounded in bytes."""

    def __init__(self, budget_bytes: int) -> None:
        self._ids: OrderedDict[str, bytes] = OrderedDict()
        self._budget_bytes = budget_bytes
        self.size_bytes = 0

    def get(self, piece: str) -> bytes | None:
        ids = self._ids.get(piece)
        if ids is not None:
            self._ids.move_to_end(piece)
        return ids

    def put(self, piece: str, ids: bytes) -> None:
        """Keep a piece that is not there yet; drops the least recently used until the budget holds."""
        self._ids[piece] = ids
        self.size_bytes += _cost(piece, ids)
        while self.size_bytes > self._budget_bytes:
            self.size_bytes -= _cost(*self._ids.popitem(last=False))

    def __len__(self) -> int:
        return len(self._ids)

    def check(self) -> None:
        assert self.size_bytes == sum(_cost(piece, ids) for piece, ids in self._ids.items()) <= self._budget_bytes


def _cost(piece: str, ids: bytes) -> int:
    wide = 1 if piece.isascii() else 4
    return len(piece) * wide + len(ids) + PIECE_OVERHEAD_BYTES


class Tokeniser:
    """Makes ids of one model's text. It is not thread-safe."""

    def __init__(self, tokenizer: Tokenizer, spec: Mapping[str, object], budget_bytes: int = 100 << 20) -> None:
        self._tokenizer = tokenizer
        words_bytes = budget_bytes * 2 // 5
        self._cache = PieceCache(budget_bytes - words_bytes)
        self._before, self._after = self._surroundings()
        self._longest_token = max((len(token) for token in tokenizer.get_vocab(with_added_tokens=True)), default=1)
        cuts = Cuts(spec)
        self._cuts = None if cuts.none or not self._agrees(spec) else cuts
        self._words = Words(self._alone, words_bytes) if self._cuts and restarts_at_spaces(spec) else None

    @property
    def cut(self) -> bool:
        """Whether texts are cut: the tokenizer is of a proven kind and passed its self-check."""
        return self._cuts is not None

    def plain(self, text: str, special: bool = False) -> list[int]:
        """Return ids by the tokenizer itself. `special` adds what its post-processor adds (BOS)."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def encode(self, text: str, special: bool = False, limit: int | None = None) -> bytes:
        """Do what `steps` does, at once."""
        return finish(self.steps(text, special, limit))

    def steps(self, text: str, special: bool = False, limit: int | None = None) -> Steps[bytes]:
        """Return packed ids, a piece (a millisecond at most, if new) per step.

        Raises TooLong once more than `limit` tokens are certain; UnicodeError for lone surrogates.
        """
        if limit is not None and self._hopeless(text, limit):
            raise TooLong(limit)
        before, after = (self._before, self._after) if special else (b"", b"")
        parts, size = [before], len(before) + len(after)
        most = (limit or 0) * TOKEN_BYTES
        for piece in self._pieces(text):
            if piece is None:
                yield None
                continue
            ids = self._cache.get(piece)
            if ids is None:
                ids = self._learn(piece) if len(piece) <= LONG_CHARS else (yield from self._long(piece, limit))
            parts.append(ids)
            size += len(ids)
            if limit is not None and size > most:
                raise TooLong(size // TOKEN_BYTES)
            yield None
        parts.append(after)
        return b"".join(parts)

    def names(self, ids: Sequence[int]) -> Steps[list[str]]:
        """Return tokens as the vocabulary spells them; empty for an id without one."""
        names = []
        for at, token in enumerate(ids):
            names.append(self._tokenizer.id_to_token(token) or "")
            if not at % 1024:
                yield None
        return names

    def _hopeless(self, text: str, limit: int) -> bool:
        """Whether the length alone says that there are more tokens than `limit`."""
        return len(text) > (limit + 1) * self._longest_token

    def _pieces(self, text: str) -> Iterable[str | None]:
        return self._cuts.looked_at(text) if self._cuts else (text,)

    def _learn(self, piece: str) -> bytes:
        piece.encode()  # the tokenizer's own complaint about lone surrogates is a TypeError
        ids = self._words.encode(piece) if self._words is not None else self._alone([piece])[0]
        self._cache.put(piece, ids)
        return ids

    def _long(self, piece: str, limit: int | None) -> Steps[bytes]:
        """Does what `_learn` does, in a thread. A list of far too many ids is not even made."""
        piece.encode()

        def tokenise() -> bytes:
            (made,) = self._tokenizer.encode_batch_fast([piece], add_special_tokens=False)
            if limit is not None and len(made) > limit:
                raise TooLong(len(made))
            return pack(made.ids)

        ids: bytes = yield tokenise
        self._cache.put(piece, ids)
        return ids

    def _alone(self, texts: Sequence[str]) -> list[bytes]:
        # the batch form is a quarter faster even for one: it keeps no character offsets
        return [pack(each.ids) for each in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def _surroundings(self) -> tuple[bytes, bytes]:
        """What the post-processor puts before and after a text. Raises ConfigError if that is not all it does."""
        bare, dressed = self.plain("a b"), self.plain("a b", special=True)
        for at in range(len(dressed) - len(bare) + 1):
            if dressed[at : at + len(bare)] == bare:
                return pack(dressed[:at]), pack(dressed[at + len(bare) :])
        raise ConfigError("tokenizer.json: its post-processor does more than add tokens before and after a text")

    def _agrees(self, spec: Mapping[str, object]) -> bool:
        """The self-check: samples cut far more often than prompts are, against the samples whole."""
        often = Cuts(spec, shortest=1, longest=2)
        words = Words(self._alone) if restarts_at_spaces(spec) else None
        return all(
            self._same(often, text) and (words is None or words.encode(text) == pack(self.plain(text)))
            for text in self_check_texts(spec)
        )

    def _same(self, cuts: Cuts, text: str) -> bool:
        return self.plain(text) == [i for piece in cuts.pieces(text) for i in self.plain(piece)]

    def caches(self) -> dict[str, tuple[int, int]]:
        """Return the items and bytes that are cached, by kind."""
        words = len(self._words) if self._words is not None else 0
        return {"pieces": (len(self._cache), self._cache.size_bytes), "words": (words, words * WORD_BYTES)}

    def check(self) -> None:
        self._cache.check()
        if self._words is not None:
            self._words.check()


def self_check_texts(spec: Mapping[str, object]) -> Iterable[str]:
    """Samples alone, all together, and between added tokens."""
    added = spec.get("added_tokens")
    names = [str(t["content"]) for t in added[:16] if isinstance(t, dict)] if isinstance(added, list) else []
    yield from SAMPLES
    yield "".join(SAMPLES)
    yield "".join(name + text for name, text in zip(names, SAMPLES * 2, strict=False))
    yield " ".join(name + "\n" + text + name for name, text in zip(names, SAMPLES * 2, strict=False))
