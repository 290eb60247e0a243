"""One choice of an answer: tokens come in, deltas go out, stop strings end it. An echoed prompt is its beginning.

The state is pure: who feeds it and who sends its text is elsewhere. A stop token's own text is not part of the answer;
its logprobs are. Stop strings count behind the floor of `min_tokens`, as in vLLM: no token of the floor completes one,
but one that begins there may be completed by a later token.
"""

from collections.abc import Iterator, Sequence

from jedlik.core.effects import StreamEnded, StreamStarted
from jedlik.core.errors import Bug
from jedlik.core.ids import StreamId
from jedlik.core.requests import Request
from jedlik.core.step import TokenLogprobs
from jedlik.core.tokens import unpack
from jedlik.frontend.dialect import AnswerPlan, AnswerToken, Finish, Text
from jedlik.frontend.text.detokenise import Detokeniser
from jedlik.frontend.text.stop import StopFinder
from jedlik.frontend.turns import Steps

TOKENS_A_STEP = 256
"""An echo is made and sent so many tokens at a time."""


class ChoiceStream:
    """The tokens of one choice on their way to deltas. `index` is its place in the answer."""

    __slots__ = (
        "_answer_tokens", "_chars", "_detokeniser", "_logprobs", "_plan", "_released_chars", "_stop_finder",
        "acknowledged", "cut", "ended", "finish", "index", "logprobs", "position", "request_id", "started", "stream",
        "tokens",
    )  # fmt: skip

    def __init__(
        self, index: int, request: Request, plan: AnswerPlan, detokeniser: Detokeniser, echoed_chars: int = 0
    ) -> None:
        self.index = index
        self.stream = StreamId(request.first_stream + index % plan.n)
        self.request_id = request.request_id
        self.tokens: list[int] = []
        """Tokens that were delivered and not yet taken."""
        self.logprobs: list[TokenLogprobs] = []
        """The logprobs of `tokens`, where they were asked for."""
        self.started: StreamStarted | None = None
        self.ended: StreamEnded | None = None
        self.position = 0
        """Output tokens taken, which is what usage counts."""
        self.acknowledged = 0
        self.finish: Finish | None = None
        """Why it ended; None while it runs or if it failed."""
        self.cut = False
        """A stop string ended it: the node has to be told."""
        self._detokeniser = detokeniser
        self._plan = plan
        self._stop_finder = StopFinder(plan.stops) if plan.stops else None
        self._logprobs = plan.logprobs is not None
        self._chars = echoed_chars
        self._released_chars = echoed_chars
        self._answer_tokens: list[AnswerToken] = []

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
        return self._stop_finder is None and not self._logprobs and self.ended is None

    def texts(self) -> list[str]:
        """Take the tokens of a plain choice: the text of each, "" where a character is not whole yet."""
        tokens, self.tokens = self.tokens, []
        self.position += len(tokens)
        return [self._detokeniser.feed(token) for token in tokens]

    def advance(self) -> list[Text]:
        """Take all delivered tokens. A streaming client may count events, so each token with text has its own.

        With logprobs all is one delta, since a stop string that may come holds text back longer than its tokens.
        """
        tokens, self.tokens = self.tokens, []
        deltas = self._feed(tokens)
        if self.ended is not None and self.ended.fault is None and not self.cut:
            deltas.append(Text(self._close(self.ended), self.position))
        if not self._logprobs:
            return [delta for delta in deltas if delta.text]
        text = "".join([delta.text for delta in deltas])
        self._released_chars += len(text)
        answer_tokens = self._release()
        return [Text(text, self.position, answer_tokens)] if text or answer_tokens else []

    def _feed(self, tokens: list[int]) -> list[Text]:
        """With stop strings each token counts: the cut is after the one that completed the string."""
        deltas = []
        hidden = self._hides_last()
        last = len(tokens) - 1
        for at, token in enumerate(tokens):
            self.position += 1
            if self._logprobs:
                logprobs = self.logprobs[at] if at < len(self.logprobs) else None
                self._answer_tokens.append(AnswerToken(token, self._chars, logprobs))
            text = "" if hidden and at == last else self._detokeniser.feed(token)
            self._chars += len(text)
            deltas.append(Text(self._through_stop(text), self.position))
            if self.cut:
                break
        self.logprobs = []
        return deltas

    def _hides_last(self) -> bool:
        """Whether the last token is a stop token, whose text is not part of the answer."""
        ended = self.ended
        stopped = ended is not None and ended.reason == "stop" and ended.stop_token is not None
        return stopped and not self._plan.include_stop

    def _through_stop(self, text: str) -> str:
        if self._stop_finder is None or not text:
            return text
        text, found = self._stop_finder.feed(text, counts=self.position > self._plan.min_tokens)
        if found is not None:
            self.cut, self.finish = True, Finish("stop", found)
        return text

    def _close(self, ended: StreamEnded) -> str:
        text = self._through_stop(self._detokeniser.finish())
        if not self.cut:
            text += self._stop_finder.finish() if self._stop_finder is not None else ""
            named = ended.stop_token if ended.stop_token in self._plan.stop_token_ids else None
            self.finish = Finish(ended.reason, named)
        return text

    def _release(self) -> list[AnswerToken]:
        """Tokens whose text has been given out; at the end all that remain, but none behind a stop string."""
        if self.cut or (self._stop_finder is not None and self.finish is None):
            released = [token for token in self._answer_tokens if token.offset < self._released_chars]
        else:
            released = self._answer_tokens
        self._answer_tokens = [] if self.finish is not None else self._answer_tokens[len(released) :]
        return released

    def check(self) -> None:
        if self.acknowledged > self.position:
            raise Bug(f"choice {self.index}: {self.acknowledged} tokens acknowledged of {self.position} taken")


# --- echo: a completion's prompt as the beginning of its text, with its logprobs where asked for (lm-eval does) ---


class Echo:
    """One prompt's text and where each of its tokens begins. It is made by `echo_of`."""

    def __init__(self, ids: Sequence[int], offsets: Sequence[int], text: str, stream: Detokeniser) -> None:
        self._ids = ids
        self._offsets = offsets
        self.text = text
        """The text lacks a character that the prompt's last tokens leave open: the answer may complete it."""
        self._stream = stream

    def detokeniser(self) -> Detokeniser:
        """Return a detokeniser for one answer. It goes on where the prompt ended, even inside a character."""
        return self._stream.fork()

    def deltas(self, logprobs: Sequence[TokenLogprobs] | None) -> Iterator[Text]:
        """Return the first deltas of a choice. `logprobs` are of all positions but the first, which has none."""
        known: list[TokenLogprobs | None] = [None, *(logprobs or ())]
        if logprobs is None or len(known) != len(self._ids):
            yield Text(self.text)
            return
        for begin in range(0, len(self._ids), TOKENS_A_STEP):
            part = slice(begin, begin + TOKENS_A_STEP)
            offsets = self._offsets[begin : begin + TOKENS_A_STEP + 1]
            end = offsets[-1] if len(offsets) > TOKENS_A_STEP else len(self.text)
            parts = zip(self._ids[part], self._offsets[part], known[part], strict=True)
            yield Text(self.text[offsets[0] : end], 0, [AnswerToken(*each) for each in parts])


def echo_of(prompt: bytes, stream: Detokeniser) -> Steps[Echo]:
    """Return the echo of packed ids, by a fresh detokeniser."""
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
