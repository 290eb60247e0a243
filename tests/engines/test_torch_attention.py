"""The compiled kernel, plain PyTorch and the definition of attention agree: any layout, window, softcap and length."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_driving import CACHE

from jedlik.core.errors import ConfigError
from jedlik.core.ids import BlockIndex, Lane
from jedlik.core.protocol import Layout
from jedlik.core.requests import Sampling
from jedlik.core.step import Chunk, Open, Step
from jedlik.core.tokens import pack
from jedlik.engines.torch import native
from jedlik.engines.torch.attention import LayerCall, Paged, Rows, fixed_rows, torch_rows
from jedlik.engines.torch.batch import TokenBatch, build
from jedlik.engines.torch.lanes import Lanes
from jedlik.engines.torch.pool import KvPool, allocate, block_bytes
from jedlik.engines.torch.rows import TOLERANCE, native_rows

DTYPES = ["float32", "bfloat16"]


def setting(layout: Layout, rng: random.Random) -> tuple[KvPool, TokenBatch]:
    """Three lanes: one decodes, one prefills a later chunk, one a first chunk; blocks scattered, pool full of noise."""
    lanes = Lanes(4, 128, layout.block_size)
    blocks = list(range(1, 60))
    rng.shuffle(blocks)
    lengths = [rng.randint(1, 60) for _ in range(3)]
    for lane, length in enumerate(lengths):
        ids = [rng.randrange(100) for _ in range(length)]
        lanes.open(
            Open(
                lane=Lane(lane), prompt=pack(ids), output=b"", sampling=Sampling(), choice=0, banned_until=0, banned=()
            )
        )
        lanes.extend(Lane(lane), [BlockIndex(blocks.pop()) for _ in range(-(-length // layout.block_size))])
    start = rng.randrange(lengths[1])
    prefills = [Chunk(Lane(1), start, lengths[1] - start, True), Chunk(Lane(2), 0, lengths[2], True)]
    batch = build(
        Step(step_id=1, closed=[], opened=[], tables=[], prefills=prefills, decodes=[Lane(0)], decode_context=0),
        lanes,
        frozenset(),
    )
    pool = KvPool(allocate(60 * block_bytes(layout), "cpu"), layout)
    pool.blocks.copy_(torch.randn(pool.blocks.shape, generator=torch.Generator().manual_seed(rng.randrange(99))))
    return pool, batch


def by_definition(pool: KvPool, batch: TokenBatch, call: LayerCall) -> torch.Tensor:
    """softmax(cap(q k scale)) v for each token over its own positions, in float64, after all writes."""
    out = torch.zeros(call.query.shape, dtype=torch.float64)
    by_token = {s.first + i: (s.lane, s.start + i + 1) for s in batch.spans for i in range(s.length)}
    columns = zip(batch.rows.tolist(), batch.row_lane.tolist(), batch.row_length.tolist(), strict=True)
    by_token |= {row: (lane, length) for row, lane, length in columns}
    assert sorted(by_token) == list(range(len(batch.ids)))
    size, group = pool.layout.block_size, call.query.shape[1] // pool.layout.kv_heads
    for token, (lane, length) in by_token.items():
        first = max(0, length - call.window) if call.window else 0
        at = [(batch.tables[lane, p // size], p % size) for p in range(first, length)]
        key, value = (torch.stack([x[1][b, o] for b, o in at]).double() for x in (pool.keys, pool.values))
        for head in range(call.query.shape[1]):
            score = key[:, head // group] @ call.query[token, head].double() * call.scale
            if call.softcap:
                score = torch.tanh(score / call.softcap) * call.softcap
            out[token, head] = score.softmax(0) @ value[:, head // group]
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", ["native", "torch", "fixed"])
@given(data=st.data())
def test_attention_equals_its_definition(way: str, dtype: str, data: st.DataObject) -> None:
    kv_heads, group = data.draw(st.sampled_from([(1, 1), (2, 3), (3, 1), (1, 8)]))
    layout = Layout(
        dtype=dtype,
        layers=2,
        kv_heads=kv_heads,
        head_dim=data.draw(st.sampled_from([8, 16, 20])),
        block_size=data.draw(st.sampled_from([4, 16])),
    )
    rng = random.Random(data.draw(st.integers(0, 10**6)))
    pool, batch = setting(layout, rng)
    made: dict[str, Rows | None] = {
        "native": native_rows(Path(CACHE), layout, kv_heads * group, 1),
        "torch": torch_rows,
        "fixed": fixed_rows,
    }
    rows = made[way]
    assert rows is not None
    draw = torch.Generator().manual_seed(rng.randrange(99))
    shapes = [(heads, len(batch.ids), layout.head_dim) for heads in (kv_heads * group, kv_heads, kv_heads)]
    query, key, value = (
        torch.randn(shape, generator=draw).to(pool.blocks.dtype).transpose(0, 1) for shape in shapes
    )  # strided, as the model's code gives them
    call = LayerCall(query, key, value, layout.head_dim**-0.5)
    call.window = data.draw(st.sampled_from([None, 1, 5, 40]))
    call.softcap = data.draw(st.sampled_from([None, 2.0]))
    got = Paged(pool, batch, rows).attend(1, call)
    assert torch.equal(pool.keys[1][batch.slot_block, batch.slot_offset], key)
    assert (got.double() - by_definition(pool, batch, call)).abs().max() < TOLERANCE[dtype]


def test_a_pool_too_small_is_refused() -> None:
    with pytest.raises(ConfigError, match="raise --kv-cache-bytes"):
        KvPool(bytearray(1000), Layout(dtype="float32", layers=2, kv_heads=2, head_dim=16, block_size=16))


def test_a_pool_is_a_view_of_the_memory_handed_in() -> None:
    layout = Layout(dtype="float32", layers=1, kv_heads=1, head_dim=4, block_size=2)
    memory = bytearray(3 * block_bytes(layout))
    pool = KvPool(memory, layout)
    pool.blocks[1].fill_(1.0)
    size = block_bytes(layout)
    assert np.frombuffer(memory[size : 2 * size], np.float32).tolist() == [1.0] * 16
    assert not any(memory[:size])
    assert not any(memory[2 * size :])


def test_no_compiler_means_no_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert native.load(tmp_path / "empty", "float32") is None
