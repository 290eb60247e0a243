"""One choice of an answer: tokens come in, text goes out, stop strings end it.

Pure state; who feeds it and who sends its text is elsewhere. A stop token's own text is not part of the answer; its
logprobs are. Stop strings count behind the floor of `min_tokens`, as in vLLM: no token of the floor completes one, but
one that begins there may be completed by a later token.
"""

from collections.abc import Sequence

import msgspec

from jedlik.core.effects import StreamEnded, StreamStarted
from jedlik.core.errors import Bug
from jedlik.core.ids import RequestId, StreamId
from jedlik.core.step import TokenLogprobs
from jedlik.frontend.openai.logprobs import Entry
from jedlik.frontend.openai.plan import Shape
from jedlik.frontend.text.detokenise import Detokeniser
from jedlik.frontend.text.stop import StopFinder


class Place(msgspec.Struct, frozen=True):
    """Where a choice belongs."""

    index: int
    """In the answer."""
    stream: StreamId
    request_id: RequestId
    first: bool
    """The first choice of its prompt."""


class Piece(msgspec.Struct, frozen=True):
    """What a choice has to say now."""

    deltas: Sequence[str]
    """Text token by token: a streaming client may count events, so each gets its own where there is text."""
    entries: Sequence[Entry] = ()

    @property
    def text(self) -> str:
        return "".join(self.deltas)


class Choice:
    """Tokens to text for one stream."""

    __slots__ = (
        "_chars", "_detokeniser", "_entries", "_logprobs", "_released", "_shape", "_stop",
        "acknowledged", "cut", "ended", "finish", "logprobs", "place", "position", "started", "stop_reason", "tokens",
    )  # fmt: skip

    def __init__(self, place: Place, shape: Shape, detokeniser: Detokeniser, echoed_chars: int = 0) -> None:
        self.place = place
        self.tokens: list[int] = []
        """Delivered, not yet taken."""
        self.logprobs: list[TokenLogprobs] = []
        """Of `tokens`, where asked for."""
        self.started: StreamStarted | None = None
        self.ended: StreamEnded | None = None
        self.position = 0
        """Output tokens taken: what usage counts."""
        self.acknowledged = 0
        self.finish: str | None = None
        """Why it ended, in OpenAI's words; None while it runs or if it failed."""
        self.stop_reason: str | int | None = None
        self.cut = False
        """A stop string ended it: the node has to be told."""
        self._detokeniser = detokeniser
        self._shape = shape
        self._stop = StopFinder(shape.stops) if shape.stops else None
        self._logprobs = shape.logprobs is not None
        self._chars = echoed_chars
        self._released = echoed_chars
        self._entries: list[Entry] = []

    @property
    def over(self) -> bool:
        """Nothing more will come, and all that came was taken."""
        return self.finish is not None or (self.ended is not None and self.ended.fault is not None and not self.tokens)

    @property
    def news(self) -> bool:
        """Whether `advance` has something to do."""
        return self.finish is None and (bool(self.tokens) or self.ended is not None)

    @property
    def plain(self) -> bool:
        """Tokens become text one by one, and nothing else has to be looked at."""
        return self._stop is None and not self._logprobs and self.ended is None

    def deltas(self) -> list[str]:
        """`advance` for a plain choice: the text of each token delivered, "" where a character is not whole yet."""
        tokens, self.tokens = self.tokens, []
        self.position += len(tokens)
        return [self._detokeniser.feed(token) for token in tokens]

    def advance(self) -> Piece:
        """Take all delivered tokens."""
        tokens, self.tokens = self.tokens, []
        hidden = self._hides_last(tokens)
        if self._stop is None and not self._logprobs and not hidden:
            feed = self._detokeniser.feed
            self.position += len(tokens)
            deltas = [feed(token) for token in tokens]
        else:
            deltas = self._one_by_one(tokens, hidden)
        if self.ended is not None and self.ended.fault is None and not self.cut:
            deltas.append(self._close(self.ended))
        if not self._logprobs:
            return Piece(deltas)
        self._released += sum(map(len, deltas))
        return Piece(deltas, self._release())

    def _hides_last(self, tokens: list[int]) -> bool:
        ended = self.ended
        return (
            ended is not None and ended.reason == "stop" and ended.stop_token is not None and bool(tokens)
            and not self._shape.include_stop
        )  # fmt: skip

    def _one_by_one(self, tokens: list[int], hidden: bool) -> list[str]:
        """With stop strings each token counts: the cut is after the one that completed the string."""
        given = []
        last = len(tokens) - 1
        for at, token in enumerate(tokens):
            self.position += 1
            if self._logprobs:
                self._entries.append(Entry(token, self._chars, self.logprobs[at] if at < len(self.logprobs) else None))
            text = "" if hidden and at == last else self._detokeniser.feed(token)
            self._chars += len(text)
            given.append(self._through_stop(text))
            if self.cut:
                break
        self.logprobs = []
        return given

    def _through_stop(self, text: str) -> str:
        if self._stop is None or not text:
            return text
        text, found = self._stop.feed(text, counts=self.position > self._shape.min_tokens)
        if found is not None:
            self.cut, self.finish, self.stop_reason = True, "stop", found
        return text

    def _close(self, ended: StreamEnded) -> str:
        text = self._through_stop(self._detokeniser.finish())
        if not self.cut:
            text += self._stop.finish() if self._stop is not None else ""
            self.finish = ended.reason
            self.stop_reason = ended.stop_token if ended.stop_token in self._shape.stop_token_ids else None
        return text

    def _release(self) -> list[Entry]:
        """Entries whose text has been given out; at the end all that are left, but none behind a stop string."""
        if self.cut or (self._stop is not None and self.finish is None):
            entries = [entry for entry in self._entries if entry.offset < self._released]
        else:
            entries = self._entries
        self._entries = [] if self.finish is not None else self._entries[len(entries) :]
        return entries

    def check(self) -> None:
        if self.acknowledged > self.position:
            raise Bug(f"choice {self.place}: {self.acknowledged} tokens acknowledged of {self.position} taken")
