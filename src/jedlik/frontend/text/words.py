"""Text becomes ids word by word, by a table of words seen before: most of any text is words seen before.

Used for texts of tokenizers that `cuts.restarts_at_spaces` has proven. Two table look-ups cost less than one word costs
the tokenizer, so this is what makes text tokenise ten times faster, new text too.
"""

import re
from collections.abc import Callable, Sequence

WORD = re.compile(r"\s*\S+(?:[^\S ]\s*\S+)*(?:[^\S ]\s*\Z)?|\s+")
"""Splits between a character that is no white space and a space, and only there; its matches join to the whole text."""
ODD_SPACE = "\u180e"
"""White space by some versions of Unicode and not by others: text that has it is not split."""
LONGEST_CHARS = 48
LONG_TEXT_WORDS = 8 << 10
"""More than a text of the length that words are looked up for has."""
WORD_BYTES = 200
"""A word takes about so many bytes in the table. A full table is begun anew, which costs one slow text per word."""


class Words:
    """A table of words and their ids. `learn` returns packed ids of texts, each on its own."""

    def __init__(self, learn: Callable[[Sequence[str]], Sequence[bytes]], budget_bytes: int = 40 << 20) -> None:
        self._learn = learn
        self._most = budget_bytes // WORD_BYTES
        self._ids: dict[str, bytes] = {}

    def encode(self, text: str) -> bytes:
        """Packed ids of `text`."""
        if ODD_SPACE in text:
            return self._learn([text])[0]
        words = WORD.findall(text)
        found = list(map(self._ids.get, words))
        if None in found:
            self._fill(words, found)
        return b"".join(found)  # type: ignore[arg-type]  # no None is left

    def _fill(self, words: Sequence[str], found: list[bytes | None]) -> None:
        unknown = [at for at, ids in enumerate(found) if ids is None]
        if len(self._ids) + len(unknown) > self._most:
            self._ids.clear()
        for at, ids in zip(unknown, self._learn([words[at] for at in unknown]), strict=True):
            found[at] = ids
            if len(words[at]) <= LONGEST_CHARS:
                self._ids[words[at]] = ids

    def __len__(self) -> int:
        return len(self._ids)

    def check(self) -> None:
        assert len(self) <= self._most + LONG_TEXT_WORDS
