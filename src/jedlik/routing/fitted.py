"""Step costs of workers that report none, fitted by the gateway from what it observes of them.

A worker says on its card whether it reports step costs (`Capabilities.step_costs`). An adapter before an engine with a
scheduler of its own does not. For each kind of such workers (`routing/alike`) a gateway fits `StepCosts` by `perf/fit`
from its own requests there; each gives up to two samples:

    submit ---- queued ----> first step ---- prefill ----> first token ---- decode ----> last token
                             |<-- chunks of this prompt -->|<-- steps shared with others ------->|

- Prefill: the time from the first step to the first token, if the worker was idle at submission: beside other work
  an engine that plans ahead begins a step later than it says. Its shape is the uncached part of the prompt.
- Decode: the mean time between tokens. Its shape is the mean of what the worker had to do meanwhile: sequences and
  context as its load reports say, and what other requests of this gateway prefilled there.

Until there are samples enough the costs are a prior: those that another kind of worker of the same model reports, else
`PRIOR`. Not promised: costs of prefill at workers that prefill for others, whose times are seen by nobody here.
"""

from collections.abc import Callable
from typing import NamedTuple

from jedlik.core.protocol import Load, StepCosts
from jedlik.perf.fit import StepFit
from jedlik.perf.step import MeanShape, chunk_pairs

PRIOR = StepCosts(base_s=0.01, prefill_token_s=1e-4, prefill_pair_s=1e-9, decode_sequence_s=1e-4, context_token_s=1e-7)
"""The costs assumed where nothing is known: about an 8B model on one GPU of today."""
LEAST_TOKENS = 8
"""An answer with fewer tokens after its first says too little of the time between tokens."""


class FittedCosts:
    """The step costs of one kind of worker, as fitted so far."""

    def __init__(self, prior: Callable[[], StepCosts | None]) -> None:
        self._prior = prior
        self._fit = StepFit()

    @property
    def costs(self) -> StepCosts:
        """The fitted costs; the prior until enough was observed."""
        return self._fit.costs or self._prior() or PRIOR

    @property
    def enough(self) -> bool:
        """Whether the costs are fitted, and not the prior."""
        return self._fit.costs is not None

    def observe(self, shape: MeanShape, step_s: float) -> None:
        """Take the mean duration of steps of this mean shape."""
        if step_s > 0:
            self._fit.observe(shape, step_s)


class Mark(NamedTuple):
    """The sums of a worker's work at one moment. The difference of two is the work between them."""

    at_s: float
    sequence_s: float
    """Sequences running, summed over time."""
    context_s: float
    """Tokens of their context, summed over time."""
    prefill_tokens: int
    prefill_pairs: int


class ObservedWork:
    """The work that a gateway has seen one worker do, from its load reports and this gateway's first tokens there."""

    def __init__(self, now: float) -> None:
        self._sums = Mark(now, 0.0, 0.0, 0, 0)
        self._running = self._context = 0

    def mark(self, now: float) -> Mark:
        """Return the sums up to now."""
        at_s, sequence_s, context_s, tokens, pairs = self._sums
        passed_s = max(0.0, now - at_s)
        sequence_s, context_s = sequence_s + self._running * passed_s, context_s + self._context * passed_s
        self._sums = Mark(now, sequence_s, context_s, tokens, pairs)
        return self._sums

    def report(self, load: Load, now: float) -> None:
        """Take a load report: it holds from now on."""
        self.mark(now)
        self._running, self._context = load.running - load.arriving, load.context_tokens

    def first_token(self, prompt_tokens: int, cached_tokens: int, now: float) -> None:
        """Count a prompt that was prefilled there."""
        tokens = max(1, prompt_tokens - cached_tokens)
        sums = self.mark(now)
        pairs = sums.prefill_pairs + chunk_pairs(prompt_tokens - tokens, tokens)
        self._sums = sums._replace(prefill_tokens=sums.prefill_tokens + tokens, prefill_pairs=pairs)


def prefill_shape(prompt_tokens: int, cached_tokens: int, steps: int) -> MeanShape:
    """Return the mean shape of so many steps that prefill a prompt, at a worker with nothing else to do."""
    tokens = max(1, prompt_tokens - cached_tokens)
    return tokens / steps, chunk_pairs(prompt_tokens - tokens, tokens) / steps, 0.0, 0.0


def decode_shape(first: Mark, last: Mark, steps: int) -> MeanShape:
    """Return the mean shape of so many steps between two marks."""
    passed_s = last.at_s - first.at_s
    return (
        (last.prefill_tokens - first.prefill_tokens) / steps,
        (last.prefill_pairs - first.prefill_pairs) / steps,
        max(1.0, (last.sequence_s - first.sequence_s) / passed_s),
        (last.context_s - first.context_s) / passed_s,
    )
