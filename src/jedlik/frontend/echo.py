"""`echo`: a completion's prompt as the beginning of its text, with its logprobs where asked for (lm-eval does)."""

from collections.abc import Sequence

from jedlik.core.step import TokenLogprobs
from jedlik.core.tokens import unpack
from jedlik.frontend.choice import Piece
from jedlik.frontend.openai.logprobs import Entry
from jedlik.frontend.text.detokenise import Detokenisers


class Echo:
    """One prompt's text and where each of its tokens begins."""

    def __init__(self, prompt: bytes, detokenisers: Detokenisers, skip_special: bool) -> None:
        self._ids = unpack(prompt)
        stream = detokenisers.stream(skip_special)
        parts: list[str] = []
        self._offsets: list[int] = []
        chars = 0
        for token in self._ids:
            self._offsets.append(chars)
            parts.append(stream.feed(token))
            chars += len(parts[-1])
        self.text = "".join([*parts, stream.finish()])

    def piece(self, logprobs: Sequence[TokenLogprobs] | None) -> Piece:
        """The first piece of a choice. `logprobs` are of all positions but the first, which has none."""
        known: list[TokenLogprobs | None] = [None, *(logprobs or ())]
        if logprobs is None or len(known) != len(self._ids):
            return Piece([self.text], ())
        return Piece([self.text], [Entry(*each) for each in zip(self._ids, self._offsets, known, strict=True)])
