"""Attention of single rows by the compiled kernel, with a check of its results before it is used."""

from pathlib import Path

import numpy as np
import torch

from jedlik.core.protocol import Layout
from jedlik.engines.torch import native
from jedlik.engines.torch.attention import LayerCall, torch_rows
from jedlik.engines.torch.batch import TokenBatch
from jedlik.engines.torch.pool import KvPool, allocate, block_bytes

TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2}


class NativeRows:
    """An `attention.Rows` by the compiled kernel. Its argument is reused: a call costs a few microseconds."""

    def __init__(self, attend: native.Attend, heads: int, threads: int) -> None:
        self._attend = attend
        self._call = native.KernelCall(heads=heads, threads=threads)
        self._batch: TokenBatch | None = None
        self._pool: KvPool | None = None

    def __call__(self, pool: KvPool, batch: TokenBatch, layer: int, call: LayerCall, out: torch.Tensor) -> None:
        """Write new keys and values, attend the batch's rows into `out` (contiguous)."""
        to = self._call
        if pool is not self._pool:
            self._take_pool(pool)
        if batch is not self._batch:
            self._take_batch(batch)
        query, key, value = call.query, call.key, call.value
        to.q, to.k_new, to.v_new, to.out = query.data_ptr(), key.data_ptr(), value.data_ptr(), out.data_ptr()
        to.k, to.v = pool.keys[layer].data_ptr(), pool.values[layer].data_ptr()
        to.q_row, to.q_head, _ = query.stride()
        to.kn_row, to.kn_head, _ = key.stride()
        to.vn_row, to.vn_head, _ = value.stride()
        to.window, to.scale, to.softcap = call.window or 0, call.scale, call.softcap or 0.0
        self._attend(to)

    def _take_pool(self, pool: KvPool) -> None:
        self._pool, to, layout = pool, self._call, pool.layout
        to.kv_heads, to.head_dim, to.block_size = layout.kv_heads, layout.head_dim, layout.block_size
        to.block_stride, to.token_stride, to.head_stride, _ = pool.keys[0].stride()

    def _take_batch(self, batch: TokenBatch) -> None:
        # We hold the batch, so what these addresses point to stays alive.
        self._batch, to = batch, self._call
        to.tables, to.table_stride = batch.tables.ctypes.data, batch.tables.strides[0] // 4
        to.row, to.lane, to.length = batch.rows.ctypes.data, batch.row_lane.ctypes.data, batch.row_length.ctypes.data
        to.slot_block, to.slot_offset = batch.slot_block.ctypes.data, batch.slot_offset.ctypes.data
        to.rows, to.tokens = len(batch.rows), len(batch.ids)


def native_rows(cache_dir: Path, layout: Layout, heads: int, threads: int) -> NativeRows | None:
    """Return the compiled kernel for a layout, if it works and agrees with plain PyTorch on a small case."""
    attend = native.load(cache_dir, layout.dtype)
    if attend is None:
        return None
    rows = NativeRows(attend, heads, threads)
    return NativeRows(attend, heads, threads) if _agrees(rows, layout, heads) else None


def _agrees(rows: NativeRows, layout: Layout, heads: int) -> bool:
    small = Layout(
        dtype=layout.dtype, layers=1, kv_heads=layout.kv_heads, head_dim=layout.head_dim, block_size=layout.block_size
    )
    lengths = np.array([1, 2 * layout.block_size + 3], np.int32)
    batch = TokenBatch(
        ids=np.zeros(2, np.int64),
        positions=lengths.astype(np.int64) - 1,
        slot_block=np.array([1, 4]),
        slot_offset=(lengths.astype(np.int64) - 1) % layout.block_size,
        tables=np.array([[1, 0, 0], [2, 3, 4]], np.int32),
        spans=[],
        rows=np.arange(2, dtype=np.int32),
        row_lane=np.arange(2, dtype=np.int32),
        row_length=lengths,
        sampled=np.zeros(0, np.int64),
        sampled_lane=np.zeros(0, np.int64),
        prompt_spans=[],
    )
    results = []
    for attend in (rows, torch_rows):
        pool = KvPool(allocate(5 * block_bytes(small), "cpu"), small)
        draw = torch.Generator().manual_seed(7)
        pool.blocks.copy_(torch.randn(pool.blocks.shape, generator=draw))
        query, key, value = (
            torch.randn(2, count, layout.head_dim, generator=draw).to(pool.blocks.dtype)
            for count in (heads, layout.kv_heads, layout.kv_heads)
        )
        call = LayerCall(query, key, value, layout.head_dim**-0.5)
        call.window = layout.block_size
        out = torch.zeros_like(query)
        attend(pool, batch, 0, call, out)
        results.append(out.float())
    return bool((results[0] - results[1]).abs().max() < TOLERANCE[layout.dtype])
