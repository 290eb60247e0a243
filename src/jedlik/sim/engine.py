"""An engine on the heap: the step contract with a performance model's times, leaps and all.

Tokens are a function of (seed, choice, output position), as with the real-time simulated engine: they outlive
batching, preemption and migration. No stop token is ever drawn.
"""

from collections import deque
from collections.abc import Callable
from random import Random

import msgspec

from jedlik.core.errors import Bug
from jedlik.core.ids import Lane
from jedlik.core.step import Step, StepDone
from jedlik.core.tokens import count
from jedlik.perf.model import StepModel, leap_s, steps_begun
from jedlik.perf.step import shape_of
from jedlik.sim.heap import Heap

VOCABULARY = 1 << 17
PLAIN = 16
"""Ids below are kept for special tokens."""
PATTERN = 1 << 16
_draw = Random(1861)
TEXT = [_draw.randrange(PLAIN, VOCABULARY) for _ in range(PATTERN)]
TEXT += TEXT
"""One long text, twice: every answer is a part of it."""


class SimEngine:
    """Runs one step after the other; `factor` is how many times slower than the model it is.

    `seen`, if given, is told of every step before anybody else.
    """

    def __init__(
        self,
        heap: Heap,
        model: StepModel,
        on_done: Callable[[StepDone], None],
        seen: Callable[[Step, StepDone], None] | None = None,
    ) -> None:
        self._heap, self._model, self._on_done, self._seen = heap, model, on_done, seen
        self._queue: deque[Step] = deque()
        self._steps = 1
        """Of the step that runs: how many will have run when it ends."""
        self._began_s = self._elapsed_s = 0.0
        self._line = (0.0, 0.0)
        self._version = 0
        self._running = self._frozen = False
        self._resumes_s: float | None = None
        """When the step to be handed over now has begun already."""
        self._lanes: dict[Lane, int] = {}
        """Where in the text the next token of each lane is."""
        self.factor = 1.0
        self.busy_s = 0.0
        """Of its steps that have ended."""

    def submit(self, step: Step) -> None:
        self._queue.append(step)
        if not self._running:
            self._begin()

    def end_leap(self, step_id: int) -> None:
        """End a leap with the step of it that is running, or its first. One that is over already is none to end."""
        for at, step in enumerate(self._queue):
            if step.step_id != step_id or step.repeat == 1:
                continue
            if self._running and not at:
                self._cut()
            else:
                self._queue[at] = msgspec.structs.replace(step, repeat=1)

    def set_factor(self, factor: float) -> None:
        """Become slower or faster from the next step on."""
        if factor != self.factor:
            self._cut()
            self.factor = factor

    def settle(self) -> None:
        """Answer what is finished of a leap, as live has; its step that is running goes on as one of its own.

        To be called before something happens of which the node will not know in time.
        """
        if not self._running or self._steps == 1:
            return
        step = self._queue[0]
        sequences = len(step.decodes)
        over = min(self._steps, self._begun()) - 1
        if over:
            self._steps, self._elapsed_s = over, leap_s(self._line, sequences, step.decode_context, over)
            self._version += 1
            self._resumes_s = self._began_s + self._elapsed_s
            self._end(self._version)
            self._resumes_s = None

    def freeze(self) -> None:
        """The step that is running ends, no other begins."""
        self._cut()
        self._frozen = True

    def thaw(self) -> None:
        self._frozen = False
        if not self._running:
            self._begin()

    def close(self) -> None:
        """Nothing is computed any more, nothing is answered."""
        self._version += 1
        self._queue.clear()

    def _cut(self) -> None:
        """If a leap is running: its step that is running is the last."""
        if not self._running or self._steps == 1:
            return
        steps = self._begun()
        if steps < self._steps:
            step = self._queue[0]
            self._steps = steps
            self._elapsed_s = leap_s(self._line, len(step.decodes), step.decode_context, steps)
            self._version += 1
            self._heap.at(self._began_s + self._elapsed_s, self._end, self._version)

    def _begun(self) -> int:
        """How many steps of the leap that is running have begun."""
        step, elapsed_s = self._queue[0], self._heap.now - self._began_s
        return steps_begun(self._line, len(step.decodes), step.decode_context, elapsed_s)

    def _begin(self) -> None:
        """The next step, if there is one."""
        if self._frozen or not self._queue:
            return
        step, now = self._queue[0], self._heap.now
        if self._resumes_s is not None:
            now, self._resumes_s = self._resumes_s, None
        self._running, self._began_s, self._steps = True, now, step.repeat
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
        self._running = False
        self.busy_s += self._elapsed_s
        done = self._answer(step)
        if self._seen is not None:
            self._seen(step, done)
        self._begin()
        self._on_done(done)

    def _answer(self, step: Step) -> StepDone:
        texts, steps = self._lanes, self._steps
        for lane in step.closed:
            del texts[lane]
        for opened in step.opened:
            if opened.lane in texts:
                raise Bug(f"lane {opened.lane} opened twice")
            texts[opened.lane] = place_in_text(opened.sampling.seed, opened.choice, count(opened.output))
        lanes = [chunk.lane for chunk in step.prefills if chunk.sample] + step.decodes
        tokens: list[int] = []
        for lane in lanes:
            at = texts[lane] % PATTERN
            tokens += TEXT[at : at + steps]
            texts[lane] = at + steps
        return StepDone(step_id=step.step_id, lanes=lanes, tokens=tokens, elapsed_s=self._elapsed_s, steps=steps)


def place_in_text(seed: int, choice: int, position: int) -> int:
    """Return where the token at this output position of an answer is, modulo `PATTERN`."""
    return seed * 40_503 + choice * 7_919 + position
