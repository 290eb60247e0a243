"""Frames: what goes in comes out, and what is not of the schema is a WireError, never anything else."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from jedlik.core import wire
from jedlik.core.errors import Fault
from jedlik.core.ids import GatewayId, Handle, RequestId, WorkerId
from jedlik.core.protocol import (
    SCHEMA_VERSION,
    Ack,
    Cancel,
    Capabilities,
    Card,
    Evicted,
    Facts,
    Finished,
    Goodbye,
    Hello,
    Layout,
    Load,
    Resync,
    Snapshot,
    Started,
    State,
    StepCosts,
    Stored,
    Submit,
    ToGateway,
    Tokens,
    ToWorker,
)
from jedlik.core.requests import Sampling, Stopping
from jedlik.core.step import TokenLogprobs
from jedlik.core.tokens import count, pack, unpack
from jedlik.core.trace import TraceContext

SUBMIT = Submit(
    handle=Handle(7),
    request_id=RequestId("r"),
    choice=1,
    attempt=2,
    prompt=pack(range(40)),
    output=pack([5]),
    sampling=Sampling(seed=2**64 - 1, logit_bias={3: -1.5}, logprobs=0),
    stopping=Stopping(max_tokens=3),
    tenant="a",
    salt="",
    priority=-1,
    budget_s=None,
    output_hint=None,
    number=9,
)
TO_WORKER: list[ToWorker] = [
    Hello(SCHEMA_VERSION, GatewayId("g@1")),
    SUBMIT,
    Cancel([Handle(1)]),
    Ack([Handle(1)], [16]),
    Resync(),
    Goodbye(),
]
CARD = Card(
    schema=SCHEMA_VERSION,
    worker=WorkerId("w@1"),
    name="w",
    model="m",
    revision="x",
    layout=Layout(dtype="bfloat16", layers=2, kv_heads=1, head_dim=8, block_size=16),
    total_blocks=9,
    max_model_len=64,
    max_sequences=4,
    max_step_tokens=32,
    vocab_size=99,
    eos_token_ids=(2,),
    hash_check="00",
    capabilities=Capabilities(sampling=frozenset({"seed"}), max_logprobs=20),
)
TO_GATEWAY: list[ToGateway] = [
    CARD,
    State(1, "decode", True),
    Load(
        steps=5,
        step_age_s=0.1,
        step_predicted_s=None,
        running=1,
        waiting=2,
        waiting_tokens=3,
        context_tokens=4,
        held_blocks=5,
        cached_blocks=6,
        last_submit=7,
        costs=StepCosts(
            base_s=1.0, prefill_token_s=2.0, prefill_pair_s=3.0, decode_sequence_s=4.0, context_token_s=5.0
        ),
    ),
    Facts(1, [Stored(None, [2**64 - 1]), Evicted([1])], 2**64 - 1),
    Snapshot(number=3, chunk=0, last=True, runs=[Stored(5, [6, 7])], digest=13),
    Tokens(
        step=1,
        handles=[Handle(1)],
        tokens=[2],
        started=[Started(Handle(1), 16, 0.5, [TokenLogprobs(-1.0, 1, [(2, -1.0)])])],
        finished=[Finished(Handle(1), "abort", fault=Fault(kind="internal", message="it broke"))],
        logprobs=[(Handle(1), TokenLogprobs(-0.5, 2, []))],
    ),
]


def body(message: ToWorker | ToGateway) -> bytes:
    frame = wire.encode(message)
    assert wire.body_length(frame[: wire.HEADER_BYTES]) == len(frame) - wire.HEADER_BYTES
    return frame[wire.HEADER_BYTES :]


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda m: type(m).__name__)
def test_to_worker_round_trip(message: ToWorker) -> None:
    assert wire.decode_to_worker(body(message)) == message


@pytest.mark.parametrize("message", TO_GATEWAY, ids=lambda m: type(m).__name__)
def test_to_gateway_round_trip(message: ToGateway) -> None:
    assert wire.decode_to_gateway(body(message)) == message


def test_a_peer_without_the_newest_fields_is_understood_and_understands() -> None:
    traced = replace(SUBMIT, trace=TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
    pooled = replace(CARD, pool="chat")
    submit, card = msgspec.msgpack.decode(body(traced)), msgspec.msgpack.decode(body(pooled))
    assert wire.decode_to_worker(msgspec.msgpack.encode(submit[:-1])) == SUBMIT
    assert wire.decode_to_gateway(msgspec.msgpack.encode(card[:-1])) == CARD
    assert wire.decode_to_worker(msgspec.msgpack.encode([*submit, "of a later release"])) == traced
    assert wire.decode_to_gateway(msgspec.msgpack.encode([*card, 1])) == pooled


def test_directions_do_not_mix() -> None:
    with pytest.raises(wire.WireError):
        wire.decode_to_gateway(body(SUBMIT))
    with pytest.raises(wire.WireError):
        wire.decode_to_worker(body(CARD))


def test_other_versions_and_absurd_lengths_are_refused() -> None:
    with pytest.raises(wire.WireError, match="version 2"):
        wire.body_length((1).to_bytes(4, "big") + b"\x02")
    with pytest.raises(wire.WireError, match="bytes"):
        wire.body_length((2**32 - 1).to_bytes(4, "big") + bytes((SCHEMA_VERSION,)))


@given(st.sampled_from(TO_GATEWAY), st.data())
def test_damaged_bodies_are_refused_or_of_the_schema(message: ToGateway, data: st.DataObject) -> None:
    damaged = bytearray(body(message))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        decoded = wire.decode_to_gateway(cut)
    except wire.WireError:
        return
    assert msgspec.msgpack.encode(decoded)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_packed_tokens(ids: list[int]) -> None:
    assert unpack(pack(ids)) == ids
    assert count(pack(ids)) == len(ids)
    assert len(pack(ids)) == 4 * len(ids)
