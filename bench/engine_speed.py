"""The engine against a bare loop over the same model, kernel and batch, and against the memory bandwidth bound.

    OMP_NUM_THREADS=1 python bench/engine_speed.py MODEL_DIR [--passes 3] [--dtype bfloat16] [--threads 1]

Passes of engine and bare loop alternate within one process. Rates are tokens per second of process CPU time and of
wall time (on a busy machine only the first means much). The bare loop keeps its batch laid out by hand: no lanes, no
tables to extend, no sampler but argmax.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jedlik.core.ids import BlockIndex, Lane
from jedlik.core.requests import Sampling
from jedlik.core.step import Chunk, Open, Step
from jedlik.core.tokens import pack
from jedlik.engines.torch.attention import Paged
from jedlik.engines.torch.batch import Span, TokenBatch
from jedlik.engines.torch.engine import TorchEngine
from jedlik.engines.torch.options import EngineOptions
from jedlik.engines.torch.pool import allocate, block_bytes

CONTEXT, BLOCK = 256, 16
Figure = tuple[float, float]


class Bench:
    """One engine; steps are numbered on."""

    def __init__(self, path: Path, dtype: Any, threads: int, lanes: int) -> None:
        options = EngineOptions(
            cache_dir=str(Path("~/.cache/jedlik/kernels").expanduser()), device="cpu", dtype=dtype, threads=threads,
            max_sequences=lanes, max_model_len=1024,
        )  # fmt: skip
        self.engine = TorchEngine(
            path, options, lambda shape, device: allocate((lanes * 40 + 80) * block_bytes(shape), device)
        )
        self._step = 0
        self.per_lane = 36

    def step(self, **parts: Any) -> Any:
        self._step += 1
        whole: dict[str, Any] = {"closed": [], "opened": [], "tables": [], "prefills": [], "decodes": []}
        return self.engine.run(Step(step_id=self._step, **{**whole, **parts}, decode_context=0))

    def open(self, lane: int, length: int, sampling: Sampling) -> dict[str, Any]:
        ids = np.random.default_rng(lane).integers(10, 1000, length).tolist()
        first = 1 + lane * self.per_lane
        return {
            "opened": [
                Open(
                    lane=Lane(lane),
                    prompt=pack(ids),
                    output=b"",
                    sampling=sampling,
                    choice=0,
                    banned_until=0,
                    banned=(),
                )
            ],
            "tables": [(Lane(lane), [BlockIndex(first + i) for i in range(self.per_lane)])],
            "prefills": [Chunk(Lane(lane), 0, length, True)],
        }


def timed(work: Callable[[], int]) -> Figure:
    """Tokens per second of CPU and of wall."""
    cpu, wall = time.process_time(), time.perf_counter()
    tokens = work()
    return tokens / (time.process_time() - cpu), tokens / (time.perf_counter() - wall)


def engine_prefill(bench: Bench, sampling: Sampling) -> Figure:
    figure = timed(lambda: len(bench.step(**bench.open(0, 512, sampling)).tokens) * 512)
    bench.step(closed=[Lane(0)])
    return figure


def engine_decode(bench: Bench, count: int, steps: int, sampling: Sampling) -> Figure:
    for lane in range(count):
        bench.step(**bench.open(lane, CONTEXT, sampling))
    lanes = [Lane(i) for i in range(count)]
    bench.step(decodes=lanes)
    figure = timed(lambda: sum(len(bench.step(decodes=lanes).tokens) for _ in range(steps)))
    bench.step(closed=lanes)
    return figure


def forward(bench: Bench, batch: TokenBatch, keep: torch.Tensor) -> torch.Tensor:
    runner: Any = bench.engine._runner
    logits: torch.Tensor = runner._model(
        input_ids=torch.from_numpy(batch.ids)[None], position_ids=torch.from_numpy(batch.positions)[None],
        logits_to_keep=keep, use_cache=False, paged=Paged(runner._pool, batch, runner._rows),
    ).logits[0]  # fmt: skip
    return logits


def bare_batch(lanes: int, per_lane: int, length: int) -> TokenBatch:
    """`lanes` sequences that decode at position `length`, or (lanes = 0) one that prefills `length` tokens."""
    count = lanes or length
    position = np.full(lanes, length) if lanes else np.arange(length)
    lane = np.arange(lanes) if lanes else np.zeros(length, np.int64)
    tables = np.arange(1, 1 + max(lanes, 1) * per_lane, dtype=np.int32).reshape(max(lanes, 1), per_lane)
    rows = np.arange(lanes, dtype=np.int32)
    spans = [] if lanes else [Span(first=0, length=length, start=0, lane=0)]
    return TokenBatch(
        ids=np.full(count, 11), positions=position, slot_block=tables[lane, position // BLOCK].astype(np.int64),
        slot_offset=position % BLOCK, tables=tables, spans=spans, rows=rows,
        row_lane=rows, row_length=(position[: len(rows)] + 1).astype(np.int32), sampled=np.zeros(0, np.int64),
        sampled_lane=np.zeros(0, np.int64), prompt_spans=[],
    )  # fmt: skip


@torch.inference_mode()
def bare_prefill(bench: Bench) -> Figure:
    def work() -> int:
        batch = bare_batch(0, bench.per_lane, 512)
        forward(bench, batch, torch.tensor([511])).argmax(-1).tolist()
        return 512

    return timed(work)


@torch.inference_mode()
def bare_decode(bench: Bench, count: int, steps: int) -> Figure:
    keep = torch.arange(count)

    def work() -> int:
        batch = bare_batch(count, bench.per_lane, CONTEXT)
        for i in range(steps):
            batch.indices = None
            batch.positions[:] = CONTEXT + i
            batch.slot_block[:] = batch.tables[:, (CONTEXT + i) // BLOCK]
            batch.slot_offset[:] = (CONTEXT + i) % BLOCK
            batch.row_length[:] = CONTEXT + i + 1
            batch.ids[:] = forward(bench, batch, keep).argmax(-1).numpy()
        return steps * count

    return timed(work)


def bandwidth_bytes_s() -> float:
    """Best of five reads of 512 MB."""
    block = torch.ones(128 << 20)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        block.sum()
        best = max(best, block.nbytes / (time.perf_counter() - began))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    args = parser.parse_args()
    bench = Bench(args.model, args.dtype, args.threads, max(args.batches))
    greedy = Sampling(temperature=0.0)
    bound = bandwidth_bytes_s() / (bench.engine.facts.parameters * (2 if args.dtype == "bfloat16" else 4))
    print(f"{args.model} {args.dtype}, {args.threads} thread(s), attention {bench.engine.facts.attention}")
    print(f"bandwidth bound of a step's weight reads: {bound:.0f} steps/s")
    cases: dict[str, tuple[Callable[[], Figure], Callable[[], Figure]]] = {
        "prefill 512": (lambda: engine_prefill(bench, greedy), lambda: bare_prefill(bench))
    }
    for count in args.batches:
        steps = max(6, 24 // count)
        cases[f"decode b={count}"] = (
            lambda count=count, steps=steps: engine_decode(bench, count, steps, greedy),  # type: ignore[misc]
            lambda count=count, steps=steps: bare_decode(bench, count, steps),  # type: ignore[misc]
        )
    print(f"{'':14}{'engine/cpu':>12}{'bare/cpu':>12}{'ratio':>8}{'spread':>16}{'engine/wall':>13}")
    for name, (ours, bare) in cases.items():
        pairs = [(ours(), bare()) for _ in range(args.passes + 1)][1:]
        ratio = sorted(a[0] / b[0] for a, b in pairs)
        cpu, other, wall = (statistics.median(x) for x in zip(*((a[0], b[0], a[1]) for a, b in pairs), strict=True))
        spread = f"{ratio[0]:.2f} .. {ratio[-1]:.2f}"
        print(f"{name:14}{cpu:12.0f}{other:12.0f}{statistics.median(ratio):8.2f}{spread:>16}{wall:13.0f}")


if __name__ == "__main__":
    main()
