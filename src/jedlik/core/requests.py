"""Requests of clients after validation and tokenisation: text has become ids, defaults have become values.

Everything here is a function of the request alone, so that an attempt can be replayed at another worker from
(request, tokens delivered so far).
"""

import msgspec

from jedlik.core.ids import RequestId, StreamId
from jedlik.core.trace import TraceContext

RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 2.0),
    "top_p": (1e-9, 1.0),
    "min_p": (0.0, 1.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "repetition_penalty": (1e-3, 100.0),
}
"""The ranges of the fields of `Sampling`, wherever they are set."""


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """The sampling values that hold for a model where a request says nothing. The neutral values are OpenAI's
    defaults."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None
    """No answer is longer, whatever the request says; None: only the context ends it."""

    def within(self, able: frozenset[str]) -> "Defaults":
        """The same without what workers that can do `able` do not honour; without temperature they are greedy."""
        lacking = {name for name in ("top_p", "top_k", "min_p", "repetition_penalty") if name not in able}
        supported = {name: getattr(self, name) for name in self.__struct_fields__ if name not in lacking}
        return Defaults(**supported | ({} if "temperature" in able else {"temperature": 0.0}))


OPENAI = Defaults()

MOST_PRIORITY = 20
"""Priorities go from minus this to this: a bounded range, so that no priority can hold up others for long."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True, array_like=True, omit_defaults=True):
    """The parameters by which the next token is drawn. A neutral value means that its step is skipped.

    The draw at output position p of choice c is a function of (seed, c, p) and the logits only.
    """

    seed: int = 0
    """Always set: the gateway draws one at arrival when the client gave none. 0 <= seed < 2**64."""
    temperature: float = 1.0
    """The temperature; 0 means greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means no limit."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """A penalty on tokens of prompt and output, as transformers and vLLM define it."""
    frequency_penalty: float = 0.0
    """A penalty on tokens of the output only, as OpenAI defines it."""
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    logprobs: int | None = None
    """Log-probabilities of output tokens. None: none; 0: of the chosen token; n: also of the n most likely. They are
    taken before temperature and penalties."""
    prompt_logprobs: int | None = None
    """Log-probabilities of each prompt position but the first, counted as in `logprobs`. Such a request re-uses no
    cached block."""


class Stopping(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """When a sequence ends, as far as token ids decide it. Stop *strings* are the frontend's."""

    max_tokens: int = 16
    """Output tokens at most, >= 0 (0 only with prompt_logprobs or echo); already cut to the context length."""
    min_tokens: int = 0
    """EOS and stop tokens can't be drawn before this many output tokens."""
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    """Tokens the client named. The model's own EOS ids come from the worker's card."""


class KvHint(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A client's hint about its conversation's KV."""

    pin_s: float = 0.0
    """Keep this prompt's and answer's blocks at hand for so long after the answer."""
    next_turn_s: float | None = None
    """A follow-up is expected in so many seconds: have the blocks on the device by then."""
    final: bool = False
    """No follow-up will come: the blocks may go first."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt with n choices. A batch of prompts is several requests of one HTTP call."""

    request_id: RequestId
    first_stream: StreamId
    """Choice c is delivered as stream `first_stream + c`."""
    model: str
    prompt: bytes
    """Packed token ids (`core/tokens`), at least one."""
    sampling: Sampling
    stopping: Stopping
    choices: int = 1
    tenant: str = ""
    """The tenant comes from authentication, never from the body. It divides the KV cache."""
    salt: str = ""
    """The client's `cache_salt`: divides the tenant's cache further."""
    priority: int = 0
    """Lower is earlier (vLLM's convention), from -MOST_PRIORITY to MOST_PRIORITY; compared within a tenant."""
    deadline_s: float | None = None
    """Seconds from arrival until which a first token is worth having; None: no limit."""
    output_hint: int | None = None
    """Expected output tokens, where somebody knows."""
    session: str = ""
    """Requests of one conversation have the same; empty: unknown. A hint for routing, nothing else."""
    hint: KvHint | None = None
    """The client's hint about its conversation's KV."""
    trace: TraceContext | None = None
    """The trace context that came with the HTTP request; None: there was no valid one."""
