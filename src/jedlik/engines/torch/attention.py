"""Paged attention, which Hugging Face's model code calls instead of its own.

Registered once under `NAME` with transformers; the batch and the pool come down to it as keyword `paged` of the model's
forward. No mask function is registered under that name, so the model builds no mask. All new keys and values of a layer
are written before any is read: sequences of one step may share blocks that this step fills.
"""

import functools
from collections.abc import Callable
from typing import Protocol

import torch
from torch.nn import functional

from jedlik.core.errors import Bug
from jedlik.engines.torch.batch import DeviceIndices, Span, TokenBatch
from jedlik.engines.torch.lanes import Ints, Longs
from jedlik.engines.torch.pool import KvPool

NAME = "jedlik_paged"
GATHER_BYTES = 256 << 20
"""Rows in plain PyTorch are attended in groups whose gathered keys take at most this many bytes."""


class AttentionLayer(Protocol):
    """The part of a model's attention module that matters here."""

    layer_idx: int


class Paged:
    """One step's attention over one pool. `rows` attends single tokens, spans are attended here."""

    def __init__(self, pool: KvPool, batch: TokenBatch, rows: "Rows") -> None:
        self.pool = pool
        self.batch = batch
        self.rows = rows

    def attend(self, layer: int, call: "LayerCall") -> torch.Tensor:
        """Attend one layer's new tokens; returns [tokens, heads, head_dim]."""
        out = torch.empty(call.query.shape, dtype=call.query.dtype, device=call.query.device)
        self.rows(self.pool, self.batch, layer, call, out)
        for span in self.batch.spans:
            out[span.first : span.first + span.length] = _span(self.pool, self.batch, layer, call, span)
        return out


class LayerCall:
    """One layer's query, key, value ([tokens, heads, head_dim], head_dim contiguous) and its parameters."""

    __slots__ = ("key", "query", "scale", "softcap", "value", "window")

    def __init__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> None:
        self.query, self.key, self.value, self.scale = query, key, value, scale
        self.window: int | None = None
        self.softcap: float | None = None


Rows = Callable[[KvPool, TokenBatch, int, LayerCall, torch.Tensor], None]
"""A function that writes the layer's new keys and values into the pool, then attends rows into its last argument."""


def forward(  # noqa: PLR0913 - transformers' interface, not ours
    module: AttentionLayer,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    paged: Paged | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Fulfil transformers' interface: `[1, heads, tokens, head_dim]` in, `[1, tokens, heads, head_dim]` out."""
    if paged is None:
        raise Bug("the model's code does not hand our `paged` keyword down to its attention")
    if s_aux is not None or query.shape[0] != 1:
        raise Bug("attention sinks and padded batches are not supported by the paged attention")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    call = LayerCall(_rows_first(query), _rows_first(key), _rows_first(value), scale)
    call.window, call.softcap = sliding_window, softcap
    return paged.attend(module.layer_idx, call).unsqueeze(0), None


def _rows_first(x: torch.Tensor) -> torch.Tensor:
    x = x[0].transpose(0, 1)
    return x if x.stride(-1) == 1 else x.contiguous()


def fixed_rows(pool: KvPool, batch: TokenBatch, layer: int, call: LayerCall, out: torch.Tensor) -> None:
    """Attend like `torch_rows`, with a rectangle that is always the same, so that a row's sums are taken alike."""
    torch_rows(pool, batch, layer, call, out, fixed=True)


def torch_rows(
    pool: KvPool, batch: TokenBatch, layer: int, call: LayerCall, out: torch.Tensor, fixed: bool = False
) -> None:
    """Attend in plain PyTorch on any device: write by slot, then gather each row's blocks into a rectangle."""
    if batch.indices is None:
        batch.indices = _indices(batch, pool.layout.block_size, call.query.device, fixed)
    indices = batch.indices
    pool.keys[layer].index_put_(indices.slots, call.key)
    pool.values[layer].index_put_(indices.slots, call.value)
    if not len(batch.rows):
        return
    rows, tables, lengths = indices.rows, indices.tables, indices.lengths
    gathered_bytes = tables.shape[1] * pool.layout.block_size * call.key.shape[1] * call.key.shape[2] * 4
    at_once = 1 if fixed else max(1, GATHER_BYTES // gathered_bytes)
    for at in range(0, len(rows), at_once):
        some = slice(at, at + at_once)
        out[rows[some]] = _gathered(pool, layer, call, call.query[rows[some]], (tables[some], lengths[some]))


def _indices(batch: TokenBatch, block_size: int, device: torch.device, fixed: bool) -> DeviceIndices:
    """Return a step's indices on `device`. `fixed`: whole tables, however short the rows are."""

    def put(values: Longs | Ints) -> torch.Tensor:
        return torch.from_numpy(values).to(device, torch.int64)

    longest = int(batch.row_length.max(initial=0))
    blocks = batch.tables.shape[1] if fixed else -(-longest // block_size)
    return DeviceIndices(
        slots=(put(batch.slot_block), put(batch.slot_offset)),
        rows=put(batch.rows),
        tables=put(batch.tables[batch.row_lane, :blocks]),
        lengths=put(batch.row_length),
    )


def _gathered(
    pool: KvPool, layer: int, call: LayerCall, query: torch.Tensor, where: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Attend `query` [rows, heads, head_dim] over each row's own blocks."""
    tables, lengths = where
    key, value = (x[layer][tables].flatten(1, 2).transpose(1, 2) for x in (pool.keys, pool.values))
    position = torch.arange(key.shape[2], device=query.device)
    seen = position < lengths[:, None]
    if call.window is not None:
        seen &= position >= lengths[:, None] - call.window
    grouped = query.view(len(query), key.shape[1], -1, query.shape[-1])
    return _product(grouped, key, value, seen[:, None, None, :], call).flatten(1, 2)


def _span(pool: KvPool, batch: TokenBatch, layer: int, call: LayerCall, span: Span) -> torch.Tensor:
    """Attend a run of one sequence's tokens over its context and itself: [length, heads, head_dim]."""
    part = slice(span.first, span.first + span.length)
    if span.start == 0:
        key, value = call.key[part], call.value[part]
    else:
        end = span.start + span.length
        blocks = batch.tables[span.lane, : -(-end // pool.layout.block_size)]
        table = torch.from_numpy(blocks).to(call.query.device, torch.int64)
        key, value = (x[layer][table].flatten(0, 1)[:end] for x in (pool.keys, pool.values))
    group = call.query.shape[1] // key.shape[1]
    query = call.query[part].transpose(0, 1)[None]
    wide = [x.transpose(0, 1).repeat_interleave(group, 0)[None] for x in (key, value)]
    plain = span.start == 0 and call.softcap is None and (call.window is None or span.length <= call.window)
    if plain:
        done = functional.scaled_dot_product_attention(query, wide[0], wide[1], is_causal=True, scale=call.scale)
    else:
        done = _product(query, wide[0], wide[1], _mask(span, call.window, call.query.device), call)
    return done[0].transpose(0, 1)


def _mask(span: Span, window: int | None, device: torch.device) -> torch.Tensor:
    """Return which keys each token of a span sees: [length, start + length]."""
    mask = span.masks.get(window)
    if mask is None:
        query = torch.arange(span.start, span.start + span.length, device=device)[:, None]
        key = torch.arange(span.start + span.length, device=device)
        mask = key <= query
        if window is not None:
            mask &= query - key < window
        span.masks[window] = mask
    return mask


def _product(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor, call: LayerCall
) -> torch.Tensor:
    if call.softcap is None:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=call.scale)
    score = torch.matmul(query, key.transpose(-1, -2)).float() * call.scale
    score = torch.tanh(score / call.softcap) * call.softcap
    weight = score.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.matmul(weight.to(value.dtype), value)


@functools.cache
def register() -> str:
    """Make the attention's name known to transformers, once; return it."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, forward)
    return NAME
