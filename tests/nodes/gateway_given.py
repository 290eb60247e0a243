"""What gateway tests are made of: cards, requests and what workers say."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from jedlik.core.config import GatewayConfig
from jedlik.core.effects import Deliver, GatewayEffect, Note, ToWorkerEffect, Wake
from jedlik.core.errors import Fault
from jedlik.core.events import Arrived, FromWorker, WorkerJoined
from jedlik.core.facts import Fact
from jedlik.core.ids import GatewayId, Handle, RequestId, StreamId, WorkerId
from jedlik.core.protocol import (
    SCHEMA_VERSION,
    Capabilities,
    Card,
    Facts,
    Finished,
    FinishReason,
    Layout,
    Load,
    Snapshot,
    Started,
    State,
    StepCosts,
    Stored,
    Submit,
    Tokens,
)
from jedlik.core.requests import Request, Sampling, Stopping
from jedlik.core.tokens import pack
from jedlik.kv.hashing import BlockHasher, hash_check
from jedlik.kv.prefix_chains import ChainCache, Naming
from jedlik.nodes.gateway.node import GatewayNode

KEY = b"cluster key"
BLOCK = 4
EOS = 2
COSTS = StepCosts(base_s=0.005, prefill_token_s=0.001, prefill_pair_s=0.0, decode_sequence_s=0.001, context_token_s=0.0)
A, B, C = WorkerId("a@1"), WorkerId("b@1"), WorkerId("c@1")
EffectT = TypeVar("EffectT", bound=GatewayEffect)
FactT = TypeVar("FactT", bound=Fact)


def card(worker: WorkerId, model: str = "m", max_model_len: int = 400) -> Card:
    return Card(
        schema=SCHEMA_VERSION,
        worker=worker,
        name=worker.split("@")[0],
        model=model,
        revision="r1",
        layout=Layout(dtype="float32", layers=1, kv_heads=1, head_dim=8, block_size=BLOCK),
        total_blocks=1000,
        max_model_len=max_model_len,
        max_sequences=8,
        max_step_tokens=64,
        vocab_size=1000,
        eos_token_ids=(EOS,),
        hash_check=hash_check(KEY),
        capabilities=Capabilities(),
    )


def gateway(
    *workers: WorkerId, config: GatewayConfig | None = None, now: float = 0.0, reports: bool = False
) -> GatewayNode:
    """A gateway with these workers joined, idle and in step; it reports to no planner unless `reports`."""
    config = config or GatewayConfig()
    if not reports:
        config = msgspec.structs.replace(config, report_s=0.0)
    node = GatewayNode(config, GatewayId("g@1"), Naming(KEY))
    for worker in workers:
        node.handle(WorkerJoined(card(worker)), now)
        node.handle(FromWorker(worker, Snapshot(number=0, chunk=0, last=True, runs=[], digest=0)), now)
    return node


def request(
    name: str = "r", prompt: Sequence[int] = range(10, 30), stream: int = 1, max_tokens: int = 8, choices: int = 1
) -> Request:
    return Request(
        request_id=RequestId(name),
        first_stream=StreamId(stream),
        model="m",
        prompt=pack(prompt),
        sampling=Sampling(seed=1, temperature=0.0),
        stopping=Stopping(max_tokens=max_tokens),
        choices=choices,
        tenant="t",
    )


def arrive(node: GatewayNode, ask: Request, now: float = 0.0) -> list[Submit]:
    return [m for _, m in submits(node.handle(Arrived(ask), now))]


def keys_of(prompt: Iterable[int], tenant: str = "t", salt: str = "") -> list[int]:
    return ChainCache(BlockHasher(KEY, "r1", BLOCK), 0).keys(pack(prompt), tenant, salt)


def stored(number: int, keys: list[int]) -> Facts:
    """The first run a worker reports."""
    return Facts(number, [Stored(None, keys)], sum(keys) & (2**64 - 1))


def load(last_submit: int = 0, **changes: object) -> Load:
    """An idle worker's report, with changes."""
    return replace(
        Load(
            steps=1,
            step_age_s=0.0,
            step_predicted_s=None,
            running=0,
            waiting=0,
            waiting_tokens=0,
            context_tokens=0,
            held_blocks=0,
            cached_blocks=0,
            last_submit=last_submit,
        ),
        **changes,
    )


def said(worker: WorkerId, message: Tokens | Load | Facts | Snapshot | State) -> FromWorker:
    return FromWorker(worker, message)


def first(handle: Handle, token: int, cached: int = 0) -> Tokens:
    return Tokens(step=1, handles=[handle], tokens=[token], started=[Started(handle, cached, 0.25)])


def more(handle: Handle, token: int) -> Tokens:
    return Tokens(step=2, handles=[handle], tokens=[token])


def last(handle: Handle, token: int, reason: FinishReason = "length", stop_token: int | None = None) -> Tokens:
    return Tokens(step=3, handles=[handle], tokens=[token], finished=[Finished(handle, reason, stop_token)])


def broken(handle: Handle, fault: Fault) -> Tokens:
    return Tokens(step=3, handles=[], tokens=[], finished=[Finished(handle, "abort", None, fault)])


def of(kind: type[EffectT], effects: Iterable[GatewayEffect]) -> list[EffectT]:
    return [effect for effect in effects if isinstance(effect, kind)]


def facts(kind: type[FactT], effects: Iterable[GatewayEffect]) -> list[FactT]:
    return [effect.fact for effect in of(Note, effects) if isinstance(effect.fact, kind)]


def submits(effects: Iterable[GatewayEffect]) -> list[tuple[WorkerId, Submit]]:
    return [(e.worker, e.message) for e in of(ToWorkerEffect, effects) if isinstance(e.message, Submit)]


def ended(effects: Iterable[GatewayEffect]) -> list[tuple[int, str, str | None]]:
    """(stream, reason, kind of fault) of every end."""
    ends = [end for deliver in of(Deliver, effects) for end in deliver.ended]
    return [(end.stream, end.reason, end.fault.kind if end.fault else None) for end in ends]


def without_notes(effects: Iterable[GatewayEffect]) -> list[GatewayEffect]:
    return [effect for effect in effects if not isinstance(effect, Note | Wake)]
