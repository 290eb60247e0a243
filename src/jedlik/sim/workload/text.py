"""Texts of a workload become token ids: packed prompts, made of pieces that are made once and joined at C speed.

Promises: equal pieces are equal tokens in every process, different ones differ in the tokens that spell their name; ids
are at least `FIRST_TOKEN` and below the vocabulary. Pieces are kept in two generations, so what was used among the last
half of the budget is never made again (an LRU without work at each hit), and memory is bounded.
"""

from collections.abc import Callable
from random import Random
from struct import Struct

from jedlik.core.errors import ConfigError
from jedlik.core.tokens import TOKEN_BYTES, pack
from jedlik.sim.workload.offered import OfferedText

FIRST_TOKEN = 16
"""Ids below are for special use (end of sequence and the like) and never in a prompt."""
ID_BITS, SPACE_BITS = 65, 32
"""Ids of traces have 64 bits; the others are what a trace does not identify."""
FILLER_TOKENS = 4096
PIECE_OVERHEAD_BYTES = 150
"""Bytes of a piece in the cache: the bytes object, its key and its place in the dict."""
STRIDE = 0x5851F42D4C957F2D
"""Odd: id + space * STRIDE tells apart the first tokens of equal ids in different spaces."""


class TextPieces(dict[int, bytes]):
    """The pieces of one space by id; a missing one is asked for."""

    def __init__(self, missing: Callable[[int], bytes]) -> None:
        super().__init__()
        self._missing = missing

    def __missing__(self, piece: int) -> bytes:
        made = self[piece] = self._missing(piece)
        return made


class Prompts:
    """Packed prompts of texts, for a model with `vocabulary` token ids."""

    def __init__(self, vocabulary: int, budget_bytes: int = 128 << 20) -> None:
        if vocabulary < 2 * FIRST_TOKEN:
            raise ConfigError(f"a vocabulary of {vocabulary} tokens is too small for prompts: give at least 32")
        self._spelling = Spelling(vocabulary - FIRST_TOKEN)
        self._half_bytes = budget_bytes // 2
        self._young_bytes = self._old_bytes = 0
        self._young: dict[tuple[int, int], TextPieces] = {}
        self._old: dict[tuple[int, int], TextPieces] = {}

    def packed(self, text: OfferedText) -> bytes:
        """The prompt, packed. Raises ConfigError if pieces are too short to differ."""
        key = (text.space, text.piece_tokens)
        pieces = self._young.get(key)
        if pieces is None:
            pieces = self._young[key] = TextPieces(self._missing(*key))
        parts = list(map(pieces.__getitem__, text.ids))
        surplus = len(parts) * text.piece_tokens - text.tokens
        if surplus:
            parts[-1] = parts[-1][: -surplus * TOKEN_BYTES]
        if self._young_bytes > self._half_bytes:
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0
        return b"".join(parts)

    @property
    def held_bytes(self) -> int:
        """Bytes of the pieces in both generations; those of the latest prompt may come on top of the budget."""
        return self._young_bytes + self._old_bytes

    def _missing(self, space: int, tokens: int) -> Callable[[int], bytes]:
        """How one space gets pieces: from the older generation, else spelled."""
        spell = self._spelling.speller(space, tokens)
        size = tokens * TOKEN_BYTES + PIECE_OVERHEAD_BYTES

        def missing(piece: int) -> bytes:
            self._young_bytes += size
            older = self._old.get((space, tokens))
            found = dict.get(older, piece) if older else None
            return found or spell(piece)

        return missing


class Spelling:
    """Names as tokens: a piece begins with the digits of its (id, space) in base `base`, filler follows."""

    def __init__(self, base: int) -> None:
        self._base = base
        self._id_digits = digits(ID_BITS, base)
        self._space_digits = digits(SPACE_BITS, base)
        filler = Random("filler").choices(range(FIRST_TOKEN, FIRST_TOKEN + base), k=2 * FILLER_TOKENS)
        self._filler = pack(filler)

    def speller(self, space: int, tokens: int) -> Callable[[int], bytes]:
        """Return the call that spells the pieces of one space, each of `tokens` tokens."""
        name_tokens = self._id_digits + self._space_digits
        if tokens < name_tokens:
            raise ConfigError(
                f"pieces of {tokens} tokens cannot be told apart with a vocabulary of {self._base + FIRST_TOKEN}: "
                f"give pieces of at least {name_tokens} tokens (trace_block), or a larger vocabulary"
            )
        base, filler, shift, mask = self._base, self._filler, space * STRIDE, (1 << ID_BITS) - 1
        powers = [base**place for place in range(self._id_digits)]
        of_id = Struct(f"<{self._id_digits}I").pack
        of_space = pack(FIRST_TOKEN + space // base**place % base for place in range(self._space_digits))
        rest = (tokens - name_tokens) * TOKEN_BYTES

        def spell(piece: int) -> bytes:
            number = (piece + shift) & mask
            start = number % FILLER_TOKENS * TOKEN_BYTES
            name = of_id(*[number // power % base + FIRST_TOKEN for power in powers])
            return name + of_space + filler[start : start + rest]

        return spell if rest <= FILLER_TOKENS * TOKEN_BYTES else lambda piece: long(spell(piece), filler, tokens)


def long(piece: bytes, filler: bytes, tokens: int) -> bytes:
    """A piece longer than the filler is wide: filled up with more of the same."""
    lacking = tokens * TOKEN_BYTES - len(piece)
    return piece + (filler * (lacking // len(filler) + 1))[:lacking]


def digits(bits: int, base: int) -> int:
    """Return how many digits in base `base` tell 2**bits numbers apart."""
    count, told_apart = 0, 1
    while told_apart < 1 << bits:
        count, told_apart = count + 1, told_apart * base
    return count
