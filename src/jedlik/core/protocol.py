"""The worker protocol, version 1: what a gateway and a worker say to each other. Prose: `docs/protocol.md`.

A worker is whatever speaks this. It is described by a `Card` that never changes during an incarnation, and by `State`,
numbered apart from the card, for what may change. A gateway opens one connection per worker, says `Hello`, and gets
`Card`, `State`, `Load`, then a snapshot of the worker's cached blocks and numbered deltas. No text travels.
Anything an engine can't report is None: unknown, not zero.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

from jedlik.core.config import Role
from jedlik.core.errors import Fault
from jedlik.core.ids import ClientId, Handle, RequestId, WorkerId
from jedlik.core.moves import PathCosts, Tier
from jedlik.core.requests import KvHint, Sampling, Stopping
from jedlik.core.step import TokenLogprobs
from jedlik.core.trace import TraceContext

SCHEMA_VERSION = 1
RUN_AHEAD_TOKENS = 64
"""A worker computes at most this many tokens beyond what the gateway has acknowledged, then pauses the sequence."""

FinishReason = Literal["stop", "length", "abort"]


DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float8": 1}


class Layout(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The shape of one KV block. Two workers may exchange blocks only if these are equal."""

    dtype: str
    layers: int
    kv_heads: int
    head_dim: int
    block_size: int
    order: str = "block,layer,kv,token,head,dim"

    @property
    def block_bytes(self) -> int:
        """Size of one block; of a type that is not known here, at two bytes a number."""
        return self.layers * 2 * self.block_size * self.kv_heads * self.head_dim * DTYPE_BYTES.get(self.dtype, 2)


class Capabilities(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The parameters that a worker honours. The gateway refuses a request for what is not here, naming the
    parameter."""

    sampling: frozenset[str] = frozenset()
    """Names of `Sampling`/`Stopping` fields that take effect, beyond temperature 0 and max_tokens."""
    max_logprobs: int = 0
    choices: int = 128
    """The largest n of a request."""
    deterministic: bool = False
    """Fixed-shape steps: the same request gives the same tokens whatever else is in the batch."""
    step_costs: bool = True
    """The worker reports what its steps cost (`Load.costs`) as soon as it knows. False: it never does; gateways fit."""


class Card(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="card"):
    """A worker's description, which holds for one incarnation."""

    schema: int
    worker: WorkerId
    """The worker's id: `name@incarnation`."""
    name: str
    model: str
    """The name clients use."""
    revision: str
    """Digest of weights, config and dtype: KV of one revision is never used by another."""
    layout: Layout
    total_blocks: int
    max_model_len: int
    """Prompt plus output, tokens."""
    max_sequences: int
    max_step_tokens: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    hash_check: str
    """Digest of the cluster key and hash version: a worker that hashes otherwise refuses to join."""
    capabilities: Capabilities
    handoffs: tuple[str, ...] = ()
    """Kinds of prefill hand-off this worker can take part in; () is none. Ours is "slots"."""
    prefix_closed: bool = True
    """Whoever holds block i holds 0..i-1."""
    engine: str = ""
    """The engine's name, for people; no decision may read it."""
    host: str = ""
    """Workers with the same (not empty) host can share memory."""
    tiers: tuple["TierSize", ...] = ()
    """Beyond the device: what else this worker keeps blocks in."""
    pool: str = ""
    """The name of the pool that the worker belongs to; empty: it belongs to none. No decision reads it."""


class TierSize(msgspec.Struct, frozen=True, array_like=True):
    """The number of blocks that a tier has room for."""

    tier: Tier
    blocks: int


# --- gateway to worker ---------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """The first message on a connection, from the client."""

    schema: int
    client: ClientId
    """The id of the gateway that connects, or of the worker that asks another worker for a prefill."""
    follows: bool = True
    """Wants cache facts and load reports. Workers that only hand off want none."""


class Remote(msgspec.Struct, frozen=True, array_like=True):
    """Another worker from which a prompt's blocks are to come."""

    worker: WorkerId
    compute: bool = True
    """True: it computes what it lacks (prefill). False: it sends what it has cached, no more (pull)."""
    expected_s: float = 0.0
    """Seconds that the gateway expects this to take, queue included. Much later is too late."""
    kind: str = "slots"
    """The kind of hand-off to use: one of `Card.handoffs` of both workers."""


class Push(msgspec.Struct, frozen=True, array_like=True):
    """A worker asks another one to fill its blocks with a prompt's KV."""

    layout: Layout
    """The layout of the worker that asks; another layout is refused."""
    start: int
    """Tokens, whole blocks: what comes before is there already."""
    compute: bool = True


class Submit(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="submit"):
    """One attempt at one choice."""

    handle: Handle
    request_id: RequestId
    choice: int
    attempt: int
    """1 for the first. A worker that sees a newer attempt of (gateway, request_id, choice) drops the older."""
    prompt: bytes
    output: bytes
    """Tokens the client has already got, packed; the continuation starts after them."""
    sampling: Sampling
    stopping: Stopping
    tenant: str
    salt: str
    priority: int
    budget_s: float | None
    """Seconds from now until the first token is due, None: no deadline."""
    output_hint: int | None
    number: int
    """Counts this gateway's submits on this connection from 1; load reports echo the last one included."""
    remote: Remote | None = None
    """Have another worker prefill (or send) what is lacking here, and go on from there."""
    push: Push | None = None
    """The prefill of a hand-off: compute the prompt (stopping.max_tokens is 0), push its blocks to the asker."""
    hint: KvHint | None = None
    trace: TraceContext | None = None
    """The trace context of the client's request. No decision reads it."""


class Reserve(msgspec.Struct, frozen=True, array_like=True, tag="reserve"):
    """Blocks of the worker that asks may be written: they take the prompt's blocks `first`, `first` + 1, ..."""

    handle: Handle
    first: int
    blocks: list[int]


class AssumeRole(msgspec.Struct, frozen=True, array_like=True, tag="assume_role"):
    """Change what is admitted from now on; answered by `State` with a larger epoch."""

    role: Role


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Stop these attempts and free what they hold. Unknown handles are a no-op."""

    handles: list[Handle]


class Ack(msgspec.Struct, frozen=True, array_like=True, tag="ack"):
    """The client has taken this attempt's tokens up to `positions[i]` (output position, absolute, exclusive)."""

    handles: list[Handle]
    positions: list[int]


class Resync(msgspec.Struct, frozen=True, array_like=True, tag="resync"):
    """Send new snapshots, of every tier: a gap was seen or the digest differs."""


class Goodbye(msgspec.Struct, frozen=True, array_like=True, tag="goodbye"):
    """This gateway leaves in an orderly way; its work is to be cancelled now."""


# --- worker to gateway ---------------------------------------------------------------------------------------------


class State(msgspec.Struct, frozen=True, array_like=True, tag="state"):
    """The part of a worker's description that may change. A larger epoch wins; equal or smaller is ignored."""

    epoch: int
    role: Role = "both"
    draining: bool = False


class StepCosts(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A linear model of a step's time; `perf/step` evaluates it, `perf/fit` learns it."""

    base_s: float
    """Any step at all."""
    prefill_token_s: float
    """Seconds for each token prefilled."""
    prefill_pair_s: float
    """Each (prefilled token, earlier token it attends to) pair."""
    decode_sequence_s: float
    """Seconds for each sequence decoded."""
    context_token_s: float
    """Each token in cache of a decoded sequence."""

    @classmethod
    def of(cls, values: Iterable[float]) -> "StepCosts":
        """Return the costs whose fields, in order, are five values."""
        return cls(**dict(zip(cls.__struct_fields__, values, strict=True)))

    def scaled(self, factor: float) -> "StepCosts":
        """Return the costs of a worker whose every step takes `factor` times as long."""
        return self.of(value * factor for value in msgspec.structs.astuple(self))


class Load(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="load"):
    """A worker's load: what it has to do. It is sent when it changed, and at least every `heartbeat_s`."""

    steps: int
    """Steps finished in this incarnation: progress, and so health."""
    step_age_s: float
    """Seconds that the step in flight has been running, 0 when idle."""
    step_predicted_s: float | None
    running: int
    """Sequences in the batch."""
    waiting: int
    """Sequences queued, preempted ones included."""
    waiting_tokens: int
    """Prompt tokens not yet computed, over running and waiting, less what waiting ones would find cached now."""
    context_tokens: int
    """Tokens in cache of the running sequences."""
    held_blocks: int
    """Blocks that running sequences pin."""
    cached_blocks: int
    """Blocks kept for re-use only: free for the asking."""
    last_submit: int
    """The last `Submit.number` of the receiving gateway that this report includes."""
    step_s: float | None = None
    """Recent time per step (exponential average)."""
    preemptions: int = 0
    costs: StepCosts | None = None
    """The worker's own, from a profile or learnt from its steps; None until it knows."""
    waiting_pairs: int | None = None
    """(token of `waiting_tokens`, token it attends to) pairs; None where an engine can't tell."""
    arriving: int = 0
    """Sequences of `waiting` whose blocks are on their way from another worker or a tier."""
    reserved_blocks: int = 0
    """Blocks of `held_blocks` into which blocks on their way will go, quarantined ones included."""
    paths: tuple[PathCosts, ...] = ()
    """The time that moving blocks takes, as this worker knows it."""
    step_shape: tuple[float, float, float, float] | None = None
    """The mean of recent steps: tokens prefilled, their pairs, sequences decoded, their context. A worker that reports
    it shares what it has learnt of steps with others of its kind."""


class Stored(msgspec.Struct, frozen=True, array_like=True, tag="+"):
    """A run of blocks is in the cache: keys[0] follows `parent` (None: nothing), each next follows the one before."""

    parent: int | None
    keys: list[int]


class Evicted(msgspec.Struct, frozen=True, array_like=True, tag="-"):
    """Blocks left the cache, leaf first: no child of theirs is still there."""

    keys: list[int]


class Facts(msgspec.Struct, frozen=True, array_like=True, tag="facts"):
    """Numbered changes of a worker's cached blocks."""

    number: int
    """Consecutive from 1 within an incarnation; a gap asks for `Resync`."""
    facts: list[Stored | Evicted]
    digest: int
    """Sum modulo 2**64 of the keys cached after this message: order-free, so any loss shows."""
    tier: int = 0
    """The tier, as its place in `core/moves.TIERS`. Each tier is numbered, digested and followed by itself."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="snapshot"):
    """All cached blocks, in chunks of bounded size, parents before children; deltas follow with number + 1.

    The first chunk replaces everything known of this tier of the worker.
    """

    number: int
    chunk: int
    last: bool
    runs: list[Stored]
    digest: int
    tier: int = 0


class Started(msgspec.Struct, frozen=True, array_like=True):
    """Comes with an attempt's first token."""

    handle: Handle
    cached_tokens: int
    """Prompt tokens (of this attempt's prompt + output) that were found in the cache."""
    queued_s: float
    """Seconds from submit to the first step."""
    prompt_logprobs: list[TokenLogprobs] | None = None


class Finished(msgspec.Struct, frozen=True, array_like=True):
    """Comes with an attempt's last token (or instead of one, for faults and max_tokens 0)."""

    handle: Handle
    reason: FinishReason
    stop_token: int | None = None
    """The token that ended it, where reason is "stop": it is also the last of the tokens delivered."""
    fault: Fault | None = None
    """Set if and only if reason is "abort"."""


class Tokens(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="tokens"):
    """Everything one step gave to one gateway: columns over attempts, one token each (`each` in a row after a leap)."""

    step: int
    handles: list[Handle]
    tokens: list[int]
    started: list[Started] = []
    finished: list[Finished] = []
    logprobs: list[tuple[Handle, TokenLogprobs]] = []
    each: int = 1


class Granted(msgspec.Struct, frozen=True, array_like=True, tag="granted"):
    """A hand-off begins: the asker may reserve blocks now."""

    handle: Handle
    cached: int
    """Tokens of the prompt that are here already."""
    until: int
    """Tokens: how far this worker will go. Not beyond `Push.start`: there is nothing to send."""


class Pushed(msgspec.Struct, frozen=True, array_like=True, tag="pushed"):
    """The KV of the prompt's first `tokens` tokens is in the asker's blocks, as far as it lies beyond `Push.start`.

    Whole blocks; the last of a prompt may hold fewer tokens than it has room for.
    """

    handle: Handle
    tokens: int


class Released(msgspec.Struct, frozen=True, array_like=True, tag="released"):
    """Nothing is written for these hand-offs any more, and nothing will be: their last word."""

    handles: list[Handle]


class Count(msgspec.Struct, frozen=True, array_like=True):
    """One series: what `telemetry/kv` knows by this name and these labels."""

    name: str
    labels: tuple[str, ...]
    values: tuple[float, ...]
    """A counter's one value; of a histogram the sum, then how many fell under each bound and no lower one."""


class Counters(msgspec.Struct, frozen=True, array_like=True, tag="counters"):
    """The counts of a worker since it began, for metrics. They come beside a `Load`, where they have changed. Nodes
    don't see them."""

    counts: list[Count]


ToWorker = Hello | Submit | Reserve | Cancel | Ack | Resync | AssumeRole | Goodbye
ToGateway = Card | State | Load | Facts | Snapshot | Tokens | Granted | Pushed | Released | Counters
