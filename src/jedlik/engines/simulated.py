"""An engine without a model: the step contract in real time, with step times from `perf` and made-up tokens.

Steps end in order, each after its modelled time divided by `speedup` (at the loop's next turn where that is
too short to sleep; never inside `submit`). A token is a function of (seed, choice, output position), so it survives
batching, preemption and migration; stop tokens are not drawn before min_tokens. That token has probability 1, so
temperature, top_p, top_k, min_p and penalties are honoured by changing nothing; logit_bias and logprobs are refused.
The engine serves to measure everything around an engine.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from jedlik.core.errors import Bug
from jedlik.core.ids import Lane
from jedlik.core.protocol import Capabilities, StepCosts
from jedlik.core.step import Open, Step, StepDone
from jedlik.core.tokens import count
from jedlik.perf.model import StepModel
from jedlik.perf.step import shape_of

CAPABILITIES = Capabilities(
    sampling=frozenset(
        {
            *("seed", "max_tokens", "min_tokens", "ignore_eos", "stop_token_ids"),
            *("temperature", "top_p", "top_k", "min_p"),
            *("repetition_penalty", "frequency_penalty", "presence_penalty"),
        }
    ),
    deterministic=True,
)
DEFAULT_COSTS = StepCosts(
    base_s=0.012, prefill_token_s=0.0009, prefill_pair_s=4e-8, decode_sequence_s=0.0015, context_token_s=4e-7
)
"""Step costs of about a 135M model on one core; a profile replaces them."""
INSTANT_S = 2e-5
"""A step shorter than this ends at the loop's next turn: a sleep would take longer than asked for."""
MASK = (1 << 64) - 1


def mix(seed: int) -> int:
    """Return one round of splitmix64: 64 bits that look random."""
    z = (seed + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


class _Text:
    """The token stream of one lane: where it begins and how far it is."""

    __slots__ = ("banned", "banned_until", "position", "start")

    def __init__(self, opened: Open) -> None:
        self.start = mix(mix(opened.sampling.seed & MASK) + opened.choice)
        self.position = count(opened.output)
        self.banned, self.banned_until = frozenset(opened.banned), opened.banned_until


class TokenSource:
    """The made-up text of every lane. `tokens`: the ids that may be drawn, plain ones only."""

    def __init__(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise Bug("a simulated engine needs at least one token id to draw")
        self._tokens = tokens
        self._lanes: dict[Lane, _Text] = {}

    def apply(self, step: Step) -> None:
        """Close and open the step's lanes."""
        for lane in step.closed:
            del self._lanes[lane]
        for opened in step.opened:
            if opened.lane in self._lanes:
                raise Bug(f"lane {opened.lane} opened twice")
            self._lanes[opened.lane] = _Text(opened)

    def draw(self, lanes: list[Lane]) -> list[int]:
        """Draw the next token of each lane and append it to the lane's history."""
        texts, tokens, size, drawn = self._lanes, self._tokens, len(self._tokens), []
        for lane in lanes:
            text = texts[lane]
            at = text.position
            text.position = at + 1
            # one multiplicative hash a token: streams differ by their mixed start, positions by an odd factor
            number = (((text.start + at) * 0xBF58476D1CE4E5B9) & MASK) >> 24
            token = tokens[number % size]
            if at < text.banned_until and token in text.banned:
                token = self._allowed(number, text.banned)
            drawn.append(token)
        return drawn

    def _allowed(self, number: int, banned: frozenset[int]) -> int:
        size = len(self._tokens)
        for offset in range(1, size):
            token = self._tokens[(number + offset) % size]
            if token not in banned:
                return token
        return self._tokens[number % size]


class SimulatedEngine:
    """The simulated engine. It runs on the event loop that is current at `start`; one owner, one thread."""

    def __init__(self, model: StepModel, speedup: float, tokens: Sequence[int]) -> None:
        self._model, self._speedup = model, speedup
        self._source = TokenSource(tokens)
        self._queue: deque[Step] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_done: Callable[[StepDone], None] | None = None
        self._timer: asyncio.Handle | None = None
        self._submitted_s: deque[float] = deque()
        """The time at which each queued step was submitted."""
        self._began_s = self._due_s = 0.0
        """The beginning and the end of the step that runs."""

    def start(self, on_done: Callable[[StepDone], None]) -> None:
        """Accept steps from now on; `on_done` is called on the loop, never inside `submit`."""
        self._loop, self._on_done = asyncio.get_running_loop(), on_done

    def submit(self, step: Step) -> None:
        """Run a step behind those already submitted."""
        if self._loop is None:
            raise Bug("submit before start")
        self._queue.append(step)
        self._submitted_s.append(self._loop.time())
        if self._timer is None:
            self._run()

    def close(self) -> None:
        """Forget all steps; `on_done` is called no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._on_done = None
        self._queue.clear()
        self._submitted_s.clear()

    def _run(self) -> None:
        assert self._loop is not None
        # engines don't wait for our timers: one that fires late must not delay a step that was there in time
        self._began_s = max(self._due_s, self._submitted_s.popleft())
        self._due_s = self._began_s + self._model.step_s(shape_of(self._queue[0])) / self._speedup
        if self._due_s - self._loop.time() < INSTANT_S:
            self._timer = self._loop.call_soon(self._end)
        else:
            self._timer = self._loop.call_at(self._due_s, self._end)

    def _end(self) -> None:
        step = self._queue.popleft()
        self._source.apply(step)
        lanes = [chunk.lane for chunk in step.prefills if chunk.sample] + step.decodes
        now = self._loop.time() if self._loop is not None else 0.0
        elapsed_s = max(now - self._began_s, 1e-9)
        self._timer = None
        if self._queue:
            self._run()
        if self._on_done is not None:
            tokens = self._source.draw(lanes)
            self._on_done(StepDone(step_id=step.step_id, lanes=lanes, tokens=tokens, elapsed_s=elapsed_s))
