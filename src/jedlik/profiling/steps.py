"""One process that measures: `python -m jedlik.profiling.steps CONFIG`, an engine behind two pipes.

Says hello with what the engine is and holds; then a task a line comes in and the steps measured go out, so that the
parent can have several such processes do the same thing at the same time. Ends when its input does.
"""

import os
import queue
import random
import statistics
import sys
import time
from pathlib import Path
from typing import TextIO

import msgspec

from jedlik.core.errors import JedlikError, PeerError
from jedlik.core.ids import BlockIndex, Lane
from jedlik.core.protocol import Card
from jedlik.core.requests import Sampling
from jedlik.core.step import Chunk, Open, Step, StepDone
from jedlik.core.tokens import pack
from jedlik.live.adopt import die_with_parent
from jedlik.live.worker import StepEngine
from jedlik.models.info import block_bytes
from jedlik.perf.linear import Point
from jedlik.perf.step import StepShape, shape_of
from jedlik.profiling.grid import REPEATS, GridTask
from jedlik.serve.engines import load
from jedlik.serve.process import ProcessConfig


class LoadedInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The greeting of a measuring process: the engine that it has loaded."""

    engine: str
    device: str
    max_model_len: int
    kv_tokens: int
    kv_bytes_per_token: int


class Measured(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line to the parent."""

    hello: LoadedInfo | None = None
    points: list[Point] = []
    steps_s: float = 0.0
    """All steps so far, and what they had of the processors meanwhile."""
    cpu_s: float = 0.0
    error: str | None = None


class MeasureRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line from the parent: first what to prepare for, then tasks."""

    lanes: list[int] = []
    """Tokens that each may hold."""
    chunk: int = 0
    """Tokens of a step that fills lanes, at most."""
    alone: bool = False
    """One compute thread, on a processor of its own: time it did not get there is not the engine's."""
    task: GridTask | None = None


class Bench:
    """One engine, its lanes each with blocks of their own."""

    def __init__(self, engine: StepEngine, card: Card, first: MeasureRequest) -> None:
        self._done: queue.SimpleQueue[StepDone] = queue.SimpleQueue()
        self._engine, self._vocabulary = engine, card.vocab_size
        self._longest, self._alone = first.chunk, first.alone
        self._step = 0
        self.steps_s = self.cpu_s = 0.0
        self._filled = [0] * len(first.lanes)
        """Tokens of a lane whose keys and values are in its blocks."""
        self._open: dict[int, int] = {}
        """History of each open lane."""
        self._blocks: list[list[BlockIndex]] = []
        at = 1
        for tokens in first.lanes:
            count = -(-tokens // card.layout.block_size)
            self._blocks.append([BlockIndex(at + n) for n in range(count)])
            at += count
        engine.start(self._done.put)

    def run(self, task: GridTask) -> list[Point]:
        """The steps of a task, and the prefills that had to come first."""
        spare = len(self._filled) - 1
        found = [point for lane in range(task.batch) for point in self._fill(lane, task.context)]
        found += self._fill(spare, task.start)
        self._enter(dict.fromkeys(range(task.batch), task.context))
        if not task.length:
            self._decode(task.batch)  # what a first step makes lazily
        times = [self._timed(task, spare) for _ in range(REPEATS)]
        return [*found, middle(times)]

    def _timed(self, task: GridTask, spare: int) -> Point:
        if not task.length:
            return self._decode(task.batch)
        self._enter({spare: task.start + task.length})
        return self._run([Chunk(Lane(spare), task.start, task.length, True)], list(range(task.batch)))

    def _decode(self, batch: int) -> Point:
        return self._run([], list(range(batch)))

    def _fill(self, lane: int, tokens: int) -> list[Point]:
        """Compute a lane's history up to `tokens`, as far as it is not."""
        found = []
        while (start := self._filled[lane]) < tokens:
            length = min(self._longest, tokens - start)
            self._enter({lane: start + length})
            found.append(self._run([Chunk(Lane(lane), start, length, True)], []))
            self._filled[lane] = start + length
        return found

    def _enter(self, lengths: dict[int, int]) -> None:
        """Give lanes histories of these lengths, in blocks that keep what was computed: no step of its own."""
        closed = [Lane(lane) for lane in lengths if lane in self._open]
        opened = [
            Open(
                lane=Lane(lane),
                prompt=self._prompt(lane, n),
                output=b"",
                sampling=GREEDY,
                choice=0,
                banned_until=0,
                banned=(),
            )
            for lane, n in lengths.items()
        ]
        tables = [(Lane(lane), self._blocks[lane]) for lane in lengths]
        self._open |= lengths
        self._submit(
            Step(
                step_id=self._next(),
                closed=closed,
                opened=opened,
                tables=tables,
                prefills=[],
                decodes=[],
                decode_context=0,
            )
        )

    def _prompt(self, lane: int, length: int) -> bytes:
        draw = random.Random(lane)
        return pack([draw.randrange(self._vocabulary) for _ in range(length)])

    def _run(self, prefills: list[Chunk], decodes: list[int]) -> Point:
        context = sum(self._open[lane] for lane in decodes)
        step = Step(
            step_id=self._next(),
            closed=[],
            opened=[],
            tables=[],
            prefills=prefills,
            decodes=[Lane(lane) for lane in decodes],
            decode_context=context,
        )
        for lane in decodes:
            self._open[lane] += 1
        return Point(shape_of(step), self._submit(step))

    def _next(self) -> int:
        self._step += 1
        return self._step

    def _submit(self, step: Step) -> float:
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        self._engine.submit(step)
        done = self._done.get()
        self.steps_s += time.perf_counter() - began_s
        cpu_s = time.process_time() - began_cpu_s
        self.cpu_s += cpu_s
        if done.error is not None:
            raise PeerError(f"the engine failed at a step of {shape_of(step)}: {done.error}")
        return min(done.elapsed_s, cpu_s) if self._alone else done.elapsed_s


GREEDY = Sampling(temperature=0.0)


def middle(points: list[Point]) -> Point:
    """The median time of steps alike but for a growing context, at their mean context."""
    first = points[0].shape
    context = round(statistics.fmean(point.shape.context_tokens for point in points))
    shape = StepShape(first.prefill_tokens, first.prefill_pairs, first.decode_sequences, context)
    return Point(shape, statistics.median(point.elapsed_s for point in points))


def hello(card: Card, device: str) -> LoadedInfo:
    """Return what a parent has to know of an engine."""
    size, block = card.layout.block_size, block_bytes(card.layout)
    return LoadedInfo(
        engine=card.engine,
        device=device,
        max_model_len=card.max_model_len,
        kv_tokens=(card.total_blocks - 1) * size,
        kv_bytes_per_token=block // size,
    )


def serve(asks: TextIO, answers: TextIO, config: ProcessConfig) -> None:
    """Load, then answer until the input ends."""

    def say(line: Measured) -> None:
        answers.write(msgspec.json.encode(line).decode() + "\n")
        answers.flush()

    try:
        loaded = load(config, lambda _: None)
        say(Measured(hello=hello(loaded.card, loaded.device)))
        bench: Bench | None = None
        for line in asks:
            ask = msgspec.json.decode(line, type=MeasureRequest)
            if bench is None:
                bench = Bench(loaded.engine, loaded.card, ask)
            if ask.task is not None:
                say(Measured(points=bench.run(ask.task), steps_s=bench.steps_s, cpu_s=bench.cpu_s))
        loaded.engine.close()
    except JedlikError as error:
        say(Measured(error=str(error)))


def main() -> None:
    config = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ProcessConfig)
    die_with_parent(config.parent_pid)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    serve(sys.stdin, answers, config)


if __name__ == "__main__":
    main()
