"""Stop strings over a text that comes in pieces: finds the first, holds back only what may still become one.

The result does not depend on how the text is cut into pieces: the stop string that is complete first wins, of those
complete at the same character the longest. Linear in the text, whatever the strings are (Knuth, Morris and Pratt).
"""

from collections.abc import Sequence


class Stops:
    """The stop strings of one request, shared by its sequences."""

    def __init__(self, strings: Sequence[str], include: bool = False) -> None:
        self.strings = tuple(strings)
        self.include = include
        """The text goes on to the end of the stop string, not only to its beginning."""
        self.firsts = frozenset(string[0] for string in strings)
        self.borders = [_borders(string) for string in strings]


def _borders(string: str) -> list[int]:
    """The length of the longest border of each prefix: a shorter prefix that it ends with (Knuth-Morris-Pratt)."""
    borders, size = [0], 0
    for char in string[1:]:
        while size and string[size] != char:
            size = borders[size - 1]
        size += string[size] == char
        borders.append(size)
    return borders


class StopFinder:
    """Finds the stop strings of one sequence."""

    __slots__ = ("_matched", "_pending", "_stops")

    def __init__(self, stops: Stops) -> None:
        self._stops = stops
        self._matched = [0] * len(stops.strings)
        """The number of characters of each stop string that the text ends with."""
        self._pending = ""

    def feed(self, text: str, counts: bool = True) -> tuple[str, str | None]:
        """Return the text that is certain now, and the stop string found or None. Nothing may follow one.

        Unless it `counts`, a stop string that is complete in `text` is text like any other.
        """
        if not self._pending and self._stops.firsts.isdisjoint(text):
            return text, None
        begin, text = len(self._pending), self._pending + text
        for at in range(begin, len(text)):
            found = self._next(text[at])
            if found is not None and counts:
                self._pending = ""
                return text[: at + 1 if self._stops.include else at + 1 - len(found)], found
        keep = len(text) - max(self._matched)
        self._pending = text[keep:]
        return text[:keep], None

    def finish(self) -> str:
        """Return the text that was held back: the sequence ended otherwise."""
        pending, self._pending = self._pending, ""
        return pending

    def _next(self, char: str) -> str | None:
        """The longest stop string that `char` completes."""
        found = None
        for at, (string, borders) in enumerate(zip(self._stops.strings, self._stops.borders, strict=True)):
            size = self._matched[at]
            while size and string[size] != char:
                size = borders[size - 1]
            size += string[size] == char
            if size == len(string):
                found = string if found is None else max(found, string, key=len)
                size = borders[size - 1]
            self._matched[at] = size
        return found
