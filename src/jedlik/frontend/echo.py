"""`echo`: a completion's prompt as the beginning of its text, with its logprobs where asked for (lm-eval does)."""

from collections.abc import Iterator, Sequence

from jedlik.core.step import TokenLogprobs
from jedlik.core.tokens import unpack
from jedlik.frontend.choice import Piece
from jedlik.frontend.openai.logprobs import Entry
from jedlik.frontend.text.detokenise import Detokeniser
from jedlik.frontend.turns import Steps

TOKENS_A_STEP = 256


class Echo:
    """One prompt's text and where each of its tokens begins. Made by `echo_of`."""

    def __init__(self, ids: Sequence[int], offsets: Sequence[int], text: str, stream: Detokeniser) -> None:
        self._ids = ids
        self._offsets = offsets
        self.text = text
        """Without a character that the prompt's last tokens leave open: the answer may complete it."""
        self._stream = stream

    def detokeniser(self) -> Detokeniser:
        """A detokeniser for one answer. It goes on where the prompt ended, even inside a character."""
        return self._stream.fork()

    def pieces(self, logprobs: Sequence[TokenLogprobs] | None) -> Iterator[Piece]:
        """The first pieces of a choice. `logprobs` are of all positions but the first, which has none."""
        known: list[TokenLogprobs | None] = [None, *(logprobs or ())]
        if logprobs is None or len(known) != len(self._ids):
            yield Piece([self.text])
            return
        for begin in range(0, len(self._ids), TOKENS_A_STEP):
            part = slice(begin, begin + TOKENS_A_STEP)
            offsets = self._offsets[begin : begin + TOKENS_A_STEP + 1]
            end = offsets[-1] if len(offsets) > TOKENS_A_STEP else len(self.text)
            entries = [Entry(*each) for each in zip(self._ids[part], self._offsets[part], known[part], strict=True)]
            yield Piece([self.text[offsets[0] : end]], entries)


def echo_of(prompt: bytes, stream: Detokeniser) -> Steps[Echo]:
    """The echo of packed ids, by a fresh detokeniser."""
    ids = unpack(prompt)
    parts: list[str] = []
    offsets: list[int] = []
    chars = 0
    for at, token in enumerate(ids):
        offsets.append(chars)
        parts.append(stream.feed(token))
        chars += len(parts[-1])
        if not at % TOKENS_A_STEP:
            yield None
    return Echo(ids, offsets, "".join(parts), stream)
