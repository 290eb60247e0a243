"""The two dialects of OpenAI's older APIs: chat completions and completions. They differ in a plan and in a `Form`.

What all chunks of an answer share is formatted once; a chunk is then its prefix, one JSON string and its suffix.
"""

import random
from collections.abc import Callable, Sequence

import msgspec

from jedlik.core.config import FrontendConfig
from jedlik.core.errors import Fault
from jedlik.frontend.dialect import AnswerPlan, AnswerToken, Delta, Finish, Usage
from jedlik.frontend.errors import error_reply, fault_object
from jedlik.frontend.models import ModelLimits
from jedlik.frontend.openai.logprobs import Columns, TokenBytes, chat_logprobs, completion_logprobs
from jedlik.frontend.openai.plan import PlanMaker
from jedlik.frontend.openai.schema import BODY, OpenAIBody
from jedlik.frontend.text.model import TextModel
from jedlik.frontend.turns import Steps

Json = dict[str, object]
DONE = b"data: [DONE]\n\n"
_json = msgspec.json.Encoder()


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """The differences between chat and completions."""

    plan: Callable[[PlanMaker], Steps[AnswerPlan]]
    id_prefix: str
    """The answer's id is this and the request's id."""
    object: str
    chunk_object: str
    opening: bytes
    """A choice's first delta; empty where there is none."""
    before_text: bytes
    after_text: bytes
    no_text: bytes
    logprobs: Callable[[Sequence[AnswerToken], int, TokenBytes], Json]
    choice: Callable[[str], Json]
    """The fields of a whole choice that have its text."""


CHAT = Form(
    plan=PlanMaker.chat,
    id_prefix="chatcmpl-",
    object="chat.completion",
    chunk_object="chat.completion.chunk",
    opening=b',"delta":{"role":"assistant","content":""}',
    before_text=b',"delta":{"content":',
    after_text=b"}",
    no_text=b',"delta":{}',
    logprobs=chat_logprobs,
    choice=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
)
COMPLETION = Form(
    plan=PlanMaker.completion,
    id_prefix="cmpl-",
    object="text_completion",
    chunk_object="text_completion",
    opening=b"",
    before_text=b',"text":',
    after_text=b"",
    no_text=b',"text":""',
    logprobs=completion_logprobs,
    choice=lambda text: {"text": text},
)
ANSWER_IDS = CHAT.id_prefix, COMPLETION.id_prefix


def usage_object(usage: Usage) -> Json:
    """Return OpenAI's usage object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": min(usage.cached_tokens, usage.prompt_tokens)},
    }


def _head(form: Form, kind: str, plan: AnswerPlan, request_id: str, created: int) -> Json:
    """What all chunks of an answer share; the fields that a whole answer begins with."""
    return {
        "id": form.id_prefix + request_id,
        "object": kind,
        "created": created,
        "model": plan.model,
        "system_fingerprint": plan.fingerprint,
    }


class ChunkStream:
    """A `StreamedAnswer` of chunks. Chunks carry `usage: null` where usage comes at the end."""

    ping = b": ping\n\n"

    def __init__(self, form: Form, plan: AnswerPlan, request_id: str, created: int) -> None:
        self._form = form
        self._plan = plan
        head = _json.encode(_head(form, form.chunk_object, plan, request_id, created))
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._choice = self._head + b'{"index":'
        self._before_text = form.before_text
        self._end = b',"usage":null}\n\n' if plan.include_usage and not plan.running_usage else b"}\n\n"
        self._plain = form.after_text + b',"logprobs":null,"finish_reason":null}]' + self._end

    def opening(self, index: int, usage: Usage) -> bytes:
        if not self._form.opening:
            return b""
        return self._counted(
            b'%b%d%b,"logprobs":null,"finish_reason":null}]%b' % (self._choice, index, self._form.opening, self._end),
            usage,
        )

    def text(self, index: int, text: str) -> bytes:
        return b"%b%d%b%b%b" % (self._choice, index, self._before_text, _json.encode(text), self._plain)

    def delta(self, index: int, delta: Delta, usage: Usage | None) -> bytes:
        if delta.tokens:
            plan = self._plan
            logprobs = self._form.logprobs(delta.tokens, plan.logprobs or 0, plan.text.detokenisers.token_bytes)
            before = self._choice, index, self._before_text, _json.encode(delta.text), self._form.after_text
            chunk = b'%b%d%b%b%b,"logprobs":%b,"finish_reason":null}]%b' % (*before, _json.encode(logprobs), self._end)
        else:
            chunk = self.text(index, delta.text)
        return self._counted(chunk, usage)

    def finish(self, index: int, finish: Finish, usage: Usage) -> bytes:
        ends = _json.encode(finish.reason), _json.encode(finish.stop), self._end
        return self._counted(
            b'%b%d%b,"logprobs":null,"finish_reason":%b,"stop_reason":%b}]%b'
            % (self._choice, index, self._form.no_text, *ends),
            usage,
        )

    def end(self, usage: Usage) -> bytes:
        """The chunk without choices has the usage where it was asked for."""
        if not self._plan.include_usage:
            return DONE
        return self._head + b'],"usage":' + _json.encode(usage_object(usage)) + b"}\n\n" + DONE

    def error(self, fault: Fault) -> bytes:
        return b"data: " + _json.encode({"error": fault_object(fault)}) + b"\n\n"

    def _counted(self, chunk: bytes, usage: Usage | None) -> bytes:
        """The chunk, with what its choice has used by then where every chunk is to say so (as vLLM does)."""
        if usage is None or not self._plan.running_usage:
            return chunk
        return chunk.removesuffix(b"}\n\n") + b',"usage":' + _json.encode(usage_object(usage)) + b"}\n\n"


class _Collected:
    """One choice of a whole answer."""

    __slots__ = ("finish", "logprobs", "texts")

    def __init__(self, logprobs: Columns | None) -> None:
        self.texts: list[str] = []
        self.logprobs = logprobs
        self.finish = Finish("")


class CollectedAnswer:
    """A `WholeAnswer` that is one JSON object with a list of choices."""

    def __init__(self, form: Form, plan: AnswerPlan, request_id: str, created: int) -> None:
        self._form = form
        self._plan = plan
        self._head = _head(form, form.object, plan, request_id, created)
        self._choices = [
            _Collected(None if plan.logprobs is None else Columns(self._logprobs))
            for _ in range(len(plan.prompts) * plan.n)
        ]

    def text(self, index: int, text: str) -> None:
        self._choices[index].texts.append(text)

    def delta(self, index: int, delta: Delta) -> None:
        choice = self._choices[index]
        choice.texts.append(delta.text)
        if choice.logprobs is not None and delta.tokens:
            choice.logprobs.add(delta.tokens)

    def finish(self, index: int, finish: Finish) -> None:
        self._choices[index].finish = finish

    def body(self, usage: Usage) -> Steps[bytes]:
        made = []  # each is encoded by itself: the whole of a large answer would take long at once
        for index, choice in enumerate(self._choices):
            one = {
                "index": index,
                **self._form.choice("".join(choice.texts)),
                "logprobs": None if choice.logprobs is None else choice.logprobs.whole(),
                "finish_reason": choice.finish.reason,
                "stop_reason": choice.finish.stop,
            }
            made.append(msgspec.Raw(_json.encode(one)))
            yield None
        return _json.encode({**self._head, "choices": made, "usage": usage_object(usage)})

    def _logprobs(self, tokens: Sequence[AnswerToken]) -> Json:
        return self._form.logprobs(tokens, self._plan.logprobs or 0, self._plan.text.detokenisers.token_bytes)


class OpenAIDialect:
    """The `Dialect` of one form. `rng` draws the seeds of requests without one."""

    def __init__(self, form: Form, config: FrontendConfig, rng: random.Random) -> None:
        self._form = form
        self._config = config
        self._rng = rng

    def read(self, raw: bytes) -> Steps[OpenAIBody]:
        return BODY.steps(raw)

    def plan(self, body: OpenAIBody, text: TextModel, limits: ModelLimits) -> Steps[AnswerPlan]:
        return self._form.plan(PlanMaker(body, text, limits, self._config, self._rng))

    def streamed(self, plan: AnswerPlan, request_id: str, created: int) -> ChunkStream:
        return ChunkStream(self._form, plan, request_id, created)

    def whole(self, plan: AnswerPlan, request_id: str, created: int) -> CollectedAnswer:
        return CollectedAnswer(self._form, plan, request_id, created)

    error = staticmethod(error_reply)
