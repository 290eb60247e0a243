"""What one engine can do under the SLOs, as Dynamo's planner asks it: capacity searches over a step model.

Formulas as published (NVIDIA Dynamo 1.6.1, planner/core/perf_model/engine_query.py and its planner design page), with
jedlik's step models in place of Dynamo's forward-pass model: the same knowledge of the engine that jedlik's planner
has. One thing is added: a token's attention to what is cached before it, which Dynamo's prefill feature leaves out.
"""

from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import NamedTuple

from jedlik.core.plans import WorkerSeen
from jedlik.perf.model import LinearModel, StepModel
from jedlik.perf.step import StepShape
from jedlik.planning.policy import Terms

MOST_CANDIDATES = 128
MOST_HIT = 0.95
"""A hit rate beyond counts as this."""


class Asked(NamedTuple):
    """A usual request."""

    prompt_tokens: float
    output_tokens: float
    hit: float = 0.0
    """Share of its prompt that is found cached."""

    @property
    def fresh_tokens(self) -> int:
        """Of its prompt, to be computed."""
        return max(1, ceil(self.prompt_tokens * (1 - min(max(self.hit, 0.0), MOST_HIT)) - 1e-9))

    @property
    def attended(self) -> float:
        """Tokens that one of the fresh ones attends to, on average."""
        fresh = self.fresh_tokens
        return max(0.0, self.prompt_tokens - fresh) + (fresh + 1) / 2

    @property
    def context_tokens(self) -> int:
        """While it is decoded, on average."""
        return max(1, int(self.prompt_tokens + self.output_tokens / 2))


class Capacity(NamedTuple):
    """The best that one engine can do."""

    rate: float
    """Requests per second."""
    batch: int
    met: bool
    """The SLOs are kept; else nothing keeps them and this is the highest rate."""


class Engine(NamedTuple):
    """A worker's engine and its limits."""

    model: StepModel
    max_step_tokens: int
    max_sequences: int
    kv_tokens: int

    def step_s(self, tokens: float, attended: float, sequences: float = 0, context: float = 0) -> float:
        """One step that prefills and decodes so much."""
        whole = ceil(tokens - 1e-9)
        shape = StepShape(whole, int(whole * attended), ceil(sequences - 1e-9), int(context))
        return self.model.step_s(shape)

    def prefill_s(self, tokens: float, attended: float, sequences: float = 0, context: float = 0) -> float:
        """Full chunks and the rest, each beside the same decodes."""
        full, rest = divmod(tokens, self.max_step_tokens)
        elapsed_s = full * self.step_s(self.max_step_tokens, attended, sequences, context) if full else 0.0
        return elapsed_s + (self.step_s(rest, attended, sequences, context) if rest > 0 else 0.0)


def engine_of(terms: Terms, workers: Sequence[WorkerSeen]) -> Engine | None:
    """Of the fleet's workers, taken to be alike: the profile's model where there is one, else what a worker tells.

    None: nothing is known yet.
    """
    told = next((seen for seen in workers if seen.costs is not None), workers[0] if workers else None)
    if told is None:
        return None
    model = terms.model or (LinearModel(told.costs) if told.costs is not None else None)
    if model is None:
        return None
    kv_tokens = terms.worker_kv_tokens or told.total_blocks * told.block_size
    return Engine(model, max(1, told.max_step_tokens), max(1, told.max_sequences), kv_tokens)


def prefill_capacity(engine: Engine, asked: Asked, ttft_s: float | None) -> Capacity:
    """Prompts prefilled together: the rate b / ttft(b), the best that keeps the TTFT."""
    fresh = asked.fresh_tokens
    most = min(engine.max_sequences, engine.max_step_tokens // fresh) if fresh <= engine.max_step_tokens else 1

    def tried(batch: int) -> Capacity:
        elapsed_s = engine.prefill_s(batch * fresh, asked.attended)
        return Capacity(batch / elapsed_s, batch, _within(elapsed_s, ttft_s))

    return _best(map(tried, _batches(most)))


def decode_capacity(engine: Engine, asked: Asked, itl_s: float | None) -> Capacity:
    """Little's law: b / (OSL * itl(b)), the best that keeps the ITL."""
    context = asked.context_tokens
    most = max(1, min(engine.max_sequences, engine.kv_tokens // context))

    def tried(batch: int) -> Capacity:
        step_s = engine.step_s(0, 0, batch, batch * context)
        return Capacity(batch / (max(1.0, asked.output_tokens) * step_s), batch, _within(step_s, itl_s))

    return _best(map(tried, _batches(most)))


def aggregated_capacity(engine: Engine, asked: Asked, ttft_s: float | None, itl_s: float | None) -> Capacity:
    """Steps that decode b sequences and prefill what keeps so many coming: b * fresh / OSL tokens each."""
    context, outputs = asked.context_tokens, max(1.0, asked.output_tokens)
    most = max(1, min(engine.max_sequences, engine.kv_tokens // context, engine.max_step_tokens - 1))

    def tried(batch: int) -> Capacity | None:
        share = ceil(batch * asked.fresh_tokens / outputs - 1e-9)
        if share > engine.max_step_tokens - batch:
            return None  # prompts would come faster than they are prefilled
        step_s = engine.step_s(share, asked.attended, batch, batch * context)
        first_s = engine.prefill_s(share + asked.fresh_tokens, asked.attended, batch, batch * context)
        return Capacity(batch / (outputs * step_s), batch, _within(step_s, itl_s) and _within(first_s, ttft_s))

    return _best(found for found in map(tried, _batches(most)) if found is not None)


def most_within(ttft_s: float | None, engine: Engine, asked: Asked) -> int:
    """Prompts that one prefill worker can have at once so that the last of them keeps the TTFT; at least 1."""
    return _largest(
        engine.max_sequences, lambda n: _within(engine.prefill_s(n * asked.fresh_tokens, asked.attended), ttft_s)
    )


def _largest(most: int, holds: Callable[[int], bool]) -> int:
    """The largest of 1..most for which it holds, if it holds for all below; else 1."""
    low, high = 1, max(1, most)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _within(value_s: float, slo_s: float | None) -> bool:
    return slo_s is None or value_s <= slo_s


def _batches(most: int) -> list[int]:
    """1..most, or 128 of them evenly apart, ends included."""
    if most <= MOST_CANDIDATES:
        return list(range(1, most + 1))
    return [1 + i * (most - 1) // (MOST_CANDIDATES - 1) for i in range(MOST_CANDIDATES)]


def _best(tried: Iterator[Capacity]) -> Capacity:
    """The highest rate, of those that keep the SLOs if one does."""
    return max(tried, key=lambda one: (one.met, one.rate), default=Capacity(0.0, 1, False))
