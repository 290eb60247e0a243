"""Block-first against layer-first KV layout, by the attention kernel: microseconds per layer of one decode step.

    OMP_NUM_THREADS=1 python bench/engine_layout.py [--layers 30] [--kv-heads 3] [--heads 9] [--head-dim 64]

The same kernel reads both (it takes strides). Passes alternate; the least of each is shown, with the median.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from jedlik.core.protocol import Layout
from jedlik.engines.torch.attention import LayerCall
from jedlik.engines.torch.batch import TokenBatch
from jedlik.engines.torch.pool import KvPool, allocate, block_bytes
from jedlik.engines.torch.rows import NativeRows, native_rows

BLOCK = 16


def layer_first(pool: KvPool) -> KvPool:
    """The same numbers in a pool whose memory is [layers, 2, blocks, block_size, kv_heads, head_dim]."""
    other = KvPool(allocate(pool.blocks.nbytes, "cpu"), pool.layout)
    flat = other.blocks.view(-1)
    blocks, layers, kinds, *rest = pool.blocks.shape
    turned = flat.view(layers, kinds, blocks, *rest)
    other.blocks = turned.permute(2, 0, 1, 3, 4, 5)
    other.blocks.copy_(pool.blocks)
    other.keys = [other.blocks[:, layer, 0] for layer in range(layers)]
    other.values = [other.blocks[:, layer, 1] for layer in range(layers)]
    return other


def batch_of(count: int, context: int, blocks: int) -> TokenBatch:
    """`count` decodes at position `context`, blocks in random order."""
    per_lane = context // BLOCK + 1
    order = np.random.default_rng(0).permutation(np.arange(1, blocks, dtype=np.int32))[: count * per_lane]
    tables = order.reshape(count, per_lane)
    rows, none = np.arange(count, dtype=np.int32), np.zeros(0, np.int64)
    return TokenBatch(
        ids=np.zeros(count, np.int64), positions=np.full(count, context), tables=tables, spans=[], rows=rows,
        slot_block=tables[:, context // BLOCK].astype(np.int64), slot_offset=np.full(count, context % BLOCK),
        row_lane=rows, row_length=np.full(count, context + 1, np.int32), sampled=none, sampled_lane=none,
        prompt_spans=[],
    )  # fmt: skip


def step_s(rows: NativeRows, pool: KvPool, batch: TokenBatch, call: LayerCall, out: torch.Tensor) -> float:
    """Seconds per layer, over all layers of one step."""
    began = time.perf_counter()
    for layer in range(pool.layout.layers):
        rows(pool, batch, layer, call, out)
    return (time.perf_counter() - began) / pool.layout.layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("layers", 30), ("kv-heads", 3), ("heads", 9), ("head-dim", 64), ("blocks", 2000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--passes", type=int, default=15)
    args = parser.parse_args()
    layout = Layout(
        dtype="bfloat16", layers=args.layers, kv_heads=args.kv_heads, head_dim=args.head_dim, block_size=BLOCK
    )
    first = KvPool(allocate(args.blocks * block_bytes(layout), "cpu"), layout)
    first.blocks.fill_(0.25)
    pools = {"block-first": first, "layer-first": layer_first(first)}
    rows = native_rows(Path("~/.cache/jedlik/kernels").expanduser(), layout, args.heads, 1)
    if rows is None:
        raise SystemExit("no compiled kernel here: install gcc")
    for count, context in ((1, 256), (8, 256), (32, 256), (8, 2048)):
        batch = batch_of(count, context, args.blocks)
        query, key, value = (
            torch.randn(count, heads, args.head_dim).bfloat16() for heads in (args.heads, args.kv_heads, args.kv_heads)
        )
        call = LayerCall(query, key, value, args.head_dim**-0.5)
        out = torch.empty_like(query)
        took: dict[str, list[float]] = {name: [] for name in pools}
        for _ in range(args.passes):
            for name, pool in pools.items():
                took[name].append(step_s(rows, pool, batch, call, out) * 1e6)
        shown = "  ".join(f"{name} {min(t):7.1f} (median {statistics.median(t):7.1f})" for name, t in took.items())
        print(f"b={count:<3} context={context:<5} us/layer: {shown}")


if __name__ == "__main__":
    main()
