"""A small scheduler for tests: drives an engine by hand-written steps, in as awkward an order as a seed makes it.

Prompts are cut into chunks at random, full blocks are shared as soon as a step fills them, sequences are preempted and
opened again, prefills and decodes mix.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jedlik.core.ids import BlockIndex, Lane
from jedlik.core.requests import Sampling
from jedlik.core.step import Chunk, Open, Step, StepDone, TokenLogprobs
from jedlik.core.tokens import pack
from jedlik.engines.torch.engine import TorchEngine
from jedlik.engines.torch.options import EngineOptions
from jedlik.engines.torch.pool import allocate
from jedlik.models.cache import home

CACHE = str(home() / "kernels")
"""The compiled kernel, where the product keeps it too: a digest of its source is in its name."""
GREEDY = Sampling(temperature=0.0)


def engine(
    path: Path,
    dtype: Literal["float32", "bfloat16"] = "float32",
    native: bool = True,
    deterministic: bool = False,
    size_bytes: int = 4 << 20,
    block_size: int = 16,
    lanes: int = 8,
) -> TorchEngine:
    """An engine on the CPU with one thread."""
    options = EngineOptions(
        cache_dir=CACHE,
        device="cpu",
        dtype=dtype,
        native=native,
        deterministic=deterministic,
        block_size=block_size,
        max_sequences=lanes,
        max_model_len=512,
    )
    return TorchEngine(path, options, lambda _layout, device: allocate(size_bytes, device))


@dataclass
class Sequence:
    prompt: list[int]
    want: int
    sampling: Sampling = GREEDY
    choice: int = 0
    banned: tuple[int, ...] = ()
    banned_until: int = 0
    output: list[int] = field(default_factory=list)
    told: list[TokenLogprobs] = field(default_factory=list)
    prompt_told: dict[int, TokenLogprobs] = field(default_factory=dict)
    lane: Lane | None = None
    computed: int = 0
    blocks: list[BlockIndex] = field(default_factory=list)
    preempted: int = 0
    shared: int = 0

    @property
    def history(self) -> list[int]:
        return self.prompt + self.output


class Driver:
    """Runs sequences to their end. `chunk` and `preempt` are drawn from per step."""

    def __init__(self, run: Callable[[Step], StepDone], blocks: int, lanes: int = 8, block_size: int = 16) -> None:
        self._run = run
        self._free = [BlockIndex(i) for i in range(blocks - 1, 0, -1)]
        self._lanes = [Lane(i) for i in range(lanes)]
        self._size = block_size
        self._content: dict[tuple[int, ...], BlockIndex] = {}
        self._closed: list[Lane] = []
        self._steps = 0
        self.share = True

    def run(self, sequences: list[Sequence], rng: random.Random, chunk: int = 40, preempt: float = 0.0) -> None:
        """Until each has `want` output tokens."""
        while any(len(s.output) < s.want for s in sequences):
            self._step(sequences, rng, chunk, preempt)
        for sequence in sequences:
            if sequence.lane is not None:
                self._close(sequence)

    def _step(self, sequences: list[Sequence], rng: random.Random, chunk: int, preempt: float) -> None:
        for sequence in sequences:
            finished = len(sequence.output) >= sequence.want
            if sequence.lane is not None and (finished or rng.random() < preempt):
                sequence.preempted += not finished
                self._close(sequence)
        closed, self._closed = self._closed, []
        opened: list[Open] = []
        tables: list[tuple[Lane, list[BlockIndex]]] = []
        prefills: list[Chunk] = []
        decodes: list[Lane] = []
        running: dict[Lane, Sequence] = {}
        for sequence in sequences:
            if len(sequence.output) >= sequence.want:
                continue
            if sequence.lane is None:
                if not self._lanes or rng.random() < 0.3:
                    continue
                opened.append(self._open(sequence))
                tables.append((sequence.lane or Lane(0), list(sequence.blocks)))
            assert sequence.lane is not None
            running[sequence.lane] = sequence
            left = len(sequence.history) - sequence.computed
            if left == 1 and sequence.output and sequence.computed:
                decodes.append(sequence.lane)
                count = 1
            else:
                count = min(left, rng.randint(1, chunk))
                prefills.append(Chunk(sequence.lane, sequence.computed, count, count == left))
            tables += self._grow(sequence, sequence.computed + count)
            sequence.computed += count
        self._steps += 1
        done = self._run(
            Step(
                step_id=self._steps,
                closed=closed,
                opened=opened,
                tables=tables,
                prefills=prefills,
                decodes=decodes,
                decode_context=0,
            )
        )
        assert done.lanes == [c.lane for c in prefills if c.sample] + decodes
        self._take(done, running, prefills)

    def _take(self, done: StepDone, running: dict[Lane, Sequence], prefills: list[Chunk]) -> None:
        for lane, token in zip(done.lanes, done.tokens, strict=True):
            running[lane].output.append(token)
            if lane in done.logprobs:
                running[lane].told.append(done.logprobs[lane])
        for chunk in prefills:
            for i, told in enumerate(done.prompt_logprobs.get(chunk.lane, [])):
                running[chunk.lane].prompt_told[chunk.start + 1 + i] = told

    def _open(self, sequence: Sequence) -> Open:
        sequence.lane = self._lanes.pop()
        sequence.blocks = []
        history = sequence.history
        whole = (len(history) - 1) // self._size if self.share and sequence.sampling.prompt_logprobs is None else 0
        for i in range(whole):
            block = self._content.get(tuple(history[: (i + 1) * self._size]))
            if block is None:
                break
            sequence.blocks.append(block)
        sequence.shared += len(sequence.blocks)
        sequence.computed = len(sequence.blocks) * self._size
        return Open(
            lane=sequence.lane,
            prompt=pack(sequence.prompt),
            output=pack(sequence.output),
            sampling=sequence.sampling,
            choice=sequence.choice,
            banned_until=sequence.banned_until,
            banned=sequence.banned,
        )

    def _grow(self, sequence: Sequence, upto: int) -> list[tuple[Lane, list[BlockIndex]]]:
        needed = -(-upto // self._size) - len(sequence.blocks)
        fresh = [self._free.pop() for _ in range(needed)]
        sequence.blocks += fresh
        history = sequence.history
        for i in range(sequence.computed // self._size, upto // self._size):
            self._content.setdefault(tuple(history[: (i + 1) * self._size]), sequence.blocks[i])
        assert sequence.lane is not None
        return [(sequence.lane, fresh)] if fresh else []

    def _close(self, sequence: Sequence) -> None:
        assert sequence.lane is not None
        self._closed.append(sequence.lane)
        self._lanes.insert(0, sequence.lane)
        sequence.lane = None
