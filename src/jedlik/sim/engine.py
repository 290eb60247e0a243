"""An engine on the heap: the step contract with a performance model's times, leaps and all.

Tokens are a function of (seed, choice, output position), as with the real-time simulated engine: they outlive
batching, preemption and migration. No stop token is ever drawn.
"""

from collections import deque
from collections.abc import Callable
from random import Random

from jedlik.core.errors import Bug
from jedlik.core.ids import Lane
from jedlik.core.step import Open, Step, StepDone
from jedlik.core.tokens import count
from jedlik.perf.model import StepModel, leap_s, steps_begun
from jedlik.perf.step import shape_of
from jedlik.sim.heap import Heap

VOCABULARY = 1 << 17
PLAIN = 16
"""Ids below are kept for special tokens."""
PATTERN = 1 << 16
_draw = Random(1861)
_TOKENS = [_draw.randrange(PLAIN, VOCABULARY) for _ in range(PATTERN)]
_TOKENS += _TOKENS
"""One long text, twice: every answer is a part of it."""


class Engine:
    """Runs one step after the other; `factor` is how many times slower than the model it is."""

    def __init__(self, heap: Heap, model: StepModel, on_done: Callable[[StepDone], None]) -> None:
        self._heap, self._model, self._on_done = heap, model, on_done
        self._queue: deque[Step] = deque()
        self._steps = 1
        """Of the step that runs: how many will have run when it ends."""
        self._began_s = self._elapsed_s = 0.0
        self._line = (0.0, 0.0)
        self._version = 0
        self._lanes: dict[Lane, int] = {}
        """Where in the text the next token of each lane is."""
        self.factor = 1.0
        self.busy_s = 0.0

    def submit(self, step: Step) -> None:
        self._queue.append(step)
        if len(self._queue) == 1:
            self._begin()

    def end_leap(self, step_id: int) -> None:
        """End a leap with the step of it that is running, or its first."""
        step = self._queue[0]
        if step.step_id == step_id and step.repeat > 1:
            self._cut()
            return
        for at, waiting in enumerate(self._queue):
            if waiting.step_id == step_id:
                self._queue[at] = _once(waiting)

    def set_factor(self, factor: float) -> None:
        """Become slower or faster from the next step on."""
        if self._queue and self._queue[0].repeat > 1:
            self._cut()
        self.factor = factor

    def close(self) -> None:
        """Nothing is computed any more, nothing is answered."""
        self._version += 1
        self._queue.clear()

    def _cut(self) -> None:
        step = self._queue[0]
        elapsed_s = self._heap.now - self._began_s
        sequences = len(step.decodes)
        steps = steps_begun(self._line, sequences, step.decode_context, elapsed_s)
        if steps < self._steps:
            self._steps = steps
            self._elapsed_s = leap_s(self._line, sequences, step.decode_context, steps)
            self._version += 1
            self._heap.at(self._began_s + self._elapsed_s, self._end, self._version)

    def _begin(self) -> None:
        step, now = self._queue[0], self._heap.now
        self._began_s, self._steps = now, step.repeat
        if step.prefills:
            self._elapsed_s = self._model.step_s(shape_of(step)) * self.factor
        else:
            sequences = len(step.decodes)
            fixed_s, token_s = self._model.decode_line(sequences)
            self._line = (fixed_s * self.factor, token_s * self.factor)
            self._elapsed_s = leap_s(self._line, sequences, step.decode_context, step.repeat)
        self._version += 1
        self._heap.at(now + self._elapsed_s, self._end, self._version)

    def _end(self, version: int) -> None:
        if version != self._version:
            return
        step = self._queue.popleft()
        self.busy_s += self._elapsed_s
        done = self._answer(step)
        if self._queue:
            self._begin()
        self._on_done(done)

    def _answer(self, step: Step) -> StepDone:
        texts, steps = self._lanes, self._steps
        for lane in step.closed:
            del texts[lane]
        for opened in step.opened:
            if opened.lane in texts:
                raise Bug(f"lane {opened.lane} opened twice")
            texts[opened.lane] = _begin_of(opened)
        lanes = [chunk.lane for chunk in step.prefills if chunk.sample] + step.decodes
        tokens: list[int] = []
        for lane in lanes:
            at = texts[lane] % PATTERN
            tokens += _TOKENS[at : at + steps]
            texts[lane] = at + steps
        return StepDone(step.step_id, lanes, tokens, self._elapsed_s, steps=steps)


def _begin_of(opened: Open) -> int:
    """Where an answer goes on in the text."""
    return opened.sampling.seed * 40_503 + opened.choice * 7_919 + count(opened.output)


def _once(step: Step) -> Step:
    return Step(
        step.step_id,
        step.closed,
        step.opened,
        step.tables,
        step.prefills,
        step.decodes,
        step.decode_context,
        step.predicted_s,
    )
