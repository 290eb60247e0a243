"""An HTTP API of generation is one `Dialect`, and this is all that the rest of the frontend knows of it.

    body ── read, plan ──▶ AnswerPlan ──▶ core requests ──▶ the gateway's node
                                                                 │ tokens
    bytes ◀── StreamedAnswer or WholeAnswer ◀── Delta, Finish ◀── ChoiceStream

A dialect knows no sockets and no tasks; between the text of tokens and it stand deltas. `docs/contracts/dialects.md`
has the contract.
"""

from collections.abc import Sequence
from typing import Protocol, TypeAlias, TypeVar

import msgspec

from jedlik.core.errors import Fault, RequestError
from jedlik.core.ids import RequestId, StreamId
from jedlik.core.requests import KvHint, Request, Sampling, Stopping
from jedlik.core.step import TokenLogprobs
from jedlik.core.trace import TraceContext
from jedlik.frontend.errors import ErrorReply
from jedlik.frontend.models import ModelLimits
from jedlik.frontend.text.model import TextModel
from jedlik.frontend.text.stop import Stops
from jedlik.frontend.turns import Steps

# --- what is asked ---


class PlannedPrompt(msgspec.Struct, frozen=True):
    """One prompt of a call: its packed token ids and when its answers end."""

    ids: bytes
    stopping: Stopping


class AnswerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP call: its prompts, each with `n` choices. Choice c of prompt p has index p * n + c in the answer."""

    model: str
    text: TextModel
    """The model's text side, which makes text of tokens."""
    prompts: tuple[PlannedPrompt, ...]
    n: int
    sampling: Sampling
    fingerprint: str
    """The answer repeats this digest of the model's revision and engines."""
    salt: str = ""
    priority: int = 0
    hint: KvHint | None = None
    conversation: tuple[str, str] = ("", "")
    """The client's names of its conversation: one that comes before the session header, and one that comes after it.
    They are empty where it gives none."""
    # what becomes of tokens
    stops: Stops | None = None
    min_tokens: int = 0
    """Stop strings count only behind so many tokens."""
    stop_token_ids: tuple[int, ...] = ()
    """Stop tokens that the client named. `stop_reason` names the one that ended a choice. It is null for EOS."""
    include_stop: bool = False
    skip_special: bool = True
    logprobs: int | None = None
    """Alternatives per token; None asks for no logprobs at all."""
    echo: bool = False
    # how the answer is sent
    stream: bool = False
    include_usage: bool = False
    """A stream reports token usage in a last event of its own."""
    running_usage: bool = False
    """A stream reports token usage in every event."""

    def requests(
        self, request_id: RequestId, first: int, tenant: str, session: str = "", trace: TraceContext | None = None
    ) -> list[Request]:
        """Return core requests on the streams from `first` on. Further prompts' ids are `request_id~1`, `~2`, ..."""
        return [
            Request(
                request_id=request_id if at == 0 else RequestId(f"{request_id}~{at}"),
                first_stream=StreamId(first + at * self.n),
                model=self.model,
                prompt=prompt.ids,
                sampling=self.sampling,
                stopping=prompt.stopping,
                choices=self.n,
                tenant=tenant,
                salt=self.salt,
                priority=self.priority,
                session=session,
                hint=self.hint,
                trace=trace,
            )
            for at, prompt in enumerate(self.prompts)
        ]


# --- what is answered ---


class AnswerToken(msgspec.Struct, frozen=True):
    """One token of an answer, or of a prompt that is echoed, and where its text begins."""

    token: int
    offset: int
    """Characters of the choice's text before it."""
    logprobs: TokenLogprobs | None
    """A prompt's first token has None."""


class Text(msgspec.Struct, frozen=True):
    """New text of a choice."""

    text: str
    position: int = 0
    """Output tokens that the choice has used by then."""
    tokens: Sequence[AnswerToken] = ()
    """The tokens with their logprobs, where the plan asks for them."""


Delta: TypeAlias = Text
"""A parsed part of an answer. The union is closed: `Reasoning`, `ToolCall` and `Refusal` join `Text` here together with
the parser that makes them, and every dialect renders each of them."""


class Finish(msgspec.Struct, frozen=True):
    """Why a choice ended."""

    reason: str
    """One of `stop`, `length` and `abort`."""
    stop: str | int | None = None
    """The stop string or the client's stop token that ended it."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens of an answer, or of one choice of it."""

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    """Tokens of the prompt that had not to be computed."""


class StreamedAnswer(Protocol):
    """Renders one answer as server-sent events. Choices' events may be in any order among each other."""

    ping: bytes
    """Bytes that are sent to a client for which there is nothing new."""

    def opening(self, index: int, usage: Usage) -> bytes:
        """Return what begins a choice. All choices are opened before the first delta."""

    def text(self, index: int, text: str) -> bytes:
        """Return `delta` of a Text without tokens, in a plan without running usage: the fast path."""

    def delta(self, index: int, delta: Delta, usage: Usage | None) -> bytes:
        """Return the events of a delta. `usage` is the choice's so far, where the plan asks for running usage."""

    def finish(self, index: int, finish: Finish, usage: Usage) -> bytes:
        """Return what ends a choice. `usage` is the choice's."""

    def end(self, usage: Usage) -> bytes:
        """Return what ends the answer after all choices. `usage` is that of all choices."""

    def error(self, fault: Fault) -> bytes:
        """Return what ends an answer that broke. Nothing may follow it."""


class WholeAnswer(Protocol):
    """Collects one answer and renders it as one JSON body."""

    def text(self, index: int, text: str) -> None:
        """Take a Text without tokens: the fast path of `delta`."""

    def delta(self, index: int, delta: Delta) -> None:
        """Take a delta of a choice."""

    def finish(self, index: int, finish: Finish) -> None:
        """Take a choice's end."""

    def body(self, usage: Usage) -> Steps[bytes]:
        """Return the body. Everything was taken before; `usage` is that of all choices."""


class NamesModel(Protocol):
    """A decoded body: it says which model is meant."""

    @property
    def model(self) -> str: ...


BodyT = TypeVar("BodyT", bound=NamesModel)


class Dialect(Protocol[BodyT]):
    """One HTTP API of generation."""

    def read(self, raw: bytes) -> Steps[BodyT]:
        """Decode a body as far as it can be read without its model. Raises RequestError."""

    def plan(self, body: BodyT, text: TextModel, limits: ModelLimits) -> Steps[AnswerPlan]:
        """Return what a body asks for: nothing of it is ignored. Raises RequestError naming the parameter."""

    def streamed(self, plan: AnswerPlan, request_id: str, created: int) -> StreamedAnswer:
        """Return the renderer of an answer whose plan says `stream`. `created` is in seconds since the epoch."""

    def whole(self, plan: AnswerPlan, request_id: str, created: int) -> WholeAnswer:
        """Return the renderer of an answer that is not streamed."""

    def error(self, error: RequestError | Fault) -> ErrorReply:
        """Return the HTTP answer to a request that is refused, or that failed before the opening."""
