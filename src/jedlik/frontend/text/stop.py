"""Stop strings over a text that comes in pieces: finds the first, holds back only what may still become one.

The result does not depend on how the text is cut into pieces: the stop string that is complete first wins, of those
complete at the same character the longest.
"""

from collections.abc import Sequence


class StopFinder:
    """One sequence's stop strings. `held` is text not yet given out."""

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        self._stops = tuple(stops)
        self._include = include
        self._firsts = frozenset(stop[0] for stop in stops)
        self._longest = max(map(len, stops))
        self.held = ""

    def feed(self, text: str) -> tuple[str, str | None]:
        """(Text that is certain now, the stop string found or None). Not to be called after one was found."""
        text = self.held + text
        found = self._first(text)
        if found is not None:
            end, stop = found
            self.held = ""
            return text[: end if self._include else end - len(stop)], stop
        keep = self._open(text)
        self.held = text[keep:]
        return text[:keep], None

    def finish(self) -> str:
        """What was held back: the sequence ended otherwise."""
        held, self.held = self.held, ""
        return held

    def _first(self, text: str) -> tuple[int, str] | None:
        """(Where it ends, which) of the stop string complete first."""
        best: tuple[int, int, str] | None = None
        for stop in self._stops:
            at = text.find(stop)
            if at >= 0 and (best is None or (at + len(stop), at, stop) < best):
                best = (at + len(stop), at, stop)
        return None if best is None else (best[0], best[2])

    def _open(self, text: str) -> int:
        """Where the longest end of `text` begins that begins a stop string; its length if none does."""
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[at] in self._firsts and any(stop.startswith(text[at:]) for stop in self._stops):
                return at
        return len(text)
