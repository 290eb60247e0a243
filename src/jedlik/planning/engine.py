"""The cost of requests in seconds of an engine's time: the unit of forecast demand and of capacity.

A request takes its prefill, and for every token of its answer its part of the steps that decode it. The step model is a
profile's, scaled to what workers report of their steps, or theirs alone, scaled by how times to first token came out.
"""

from collections.abc import Iterable, Mapping
from statistics import median
from typing import NamedTuple

from msgspec.structs import astuple

from jedlik.core.plans import WorkerSeen
from jedlik.core.protocol import StepCosts
from jedlik.core.sums import float_sum
from jedlik.perf.model import LinearModel, StepModel
from jedlik.perf.step import StepShape, chunk_pairs, decode_s, prefill_s
from jedlik.planning.lengths import shares

CREDIBLE = (0.5, 2.0)
"""A model that is further off than this is not believed, where it matters: then nothing is taken away."""
MATTERS = 0.1
"""The share of the TTFT objective below which an error does not matter. Where prefills take milliseconds, sockets and
queues make up the time to first token, and the model is not to blame."""
TYPICAL_BATCH = 16
"""Sequences of the step at which decode is compared."""
CROOKED = 1.5
"""Workers learn a straight line; a profile has bends. Only a difference of more than this is one of the engine."""


class Engine(NamedTuple):
    """One worker, as planners calculate with it."""

    model: StepModel
    chunk_tokens: int
    """Tokens of a step, at most."""
    sequences: int
    """Sequences in a batch, at most."""
    kv_tokens: int
    prefill_factor: float = 1.0
    """The factor on the model's prefill times."""
    decode_factor: float = 1.0

    def credible(self, prefill_s: float, slo_ttft_s: float | None) -> bool:
        """Whether what it says can be planned with; `prefill_s`: of a usual request."""
        least, most = CREDIBLE
        wrong_s = abs(self.prefill_factor - 1) / self.prefill_factor * prefill_s
        prefills = least <= self.prefill_factor <= most or (slo_ttft_s is not None and wrong_s <= MATTERS * slo_ttft_s)
        return prefills and least <= self.decode_factor <= most

    def chunks(self, new_tokens: float) -> int:
        """Steps of a prefill."""
        return max(1, -(-round(new_tokens) // self.chunk_tokens))

    def prefill_s(self, prompt: float, cached: float) -> float:
        """Return the seconds of one prompt's prefill, alone. Steps grow evenly with what comes before them, so first
        and last tell their sum."""
        new, start = max(1, round(prompt - cached)), round(cached)
        whole, rest = divmod(new, self.chunk_tokens)
        total_s = self._chunk_s(start + new - rest, rest) if rest else 0.0
        if whole:
            ends = (start, start + (whole - 1) * self.chunk_tokens)
            total_s += whole * float_sum(self._chunk_s(end, self.chunk_tokens) for end in ends) / 2
        return self.prefill_factor * total_s

    def _chunk_s(self, start: int, length: int) -> float:
        return self.model.step_s(StepShape(length, chunk_pairs(start, length), 0, 0))

    def step_s(self, batch: float, context: float) -> float:
        """One step that only decodes so many sequences, each with so much in cache."""
        fixed_s, token_s = self.model.decode_line(max(1, round(batch)))
        return self.decode_factor * (fixed_s + token_s * batch * context)

    def token_s(self, context: float) -> float:
        """Return the seconds that one more sequence adds to a step."""
        costs = self.model.costs
        return self.decode_factor * (costs.decode_sequence_s + costs.context_token_s * context)


def engine_of(workers: Iterable[WorkerSeen], model: StepModel | None, prompt_tokens: float) -> Engine | None:
    """Return the engine of workers alike: the median of each figure. None where no worker has reported its step model.
    A profile's model is compared with theirs at a prefill of `prompt_tokens`, where they have learnt it."""
    seen = [worker for worker in workers if worker.costs is not None and worker.trusted]
    if not seen:
        return None
    columns = zip(*(astuple(worker.costs) for worker in seen if worker.costs is not None), strict=True)
    costs = StepCosts.of(median(column) for column in columns)
    chunk = round(median(worker.max_step_tokens for worker in seen))
    factors = (
        (median(worker.correction for worker in seen), 1.0)
        if model is None
        else _factors(model, costs, chunk, max(1, round(prompt_tokens)))
    )
    return Engine(
        LinearModel(costs) if model is None else model,
        chunk,
        round(median(worker.max_sequences for worker in seen)),
        round(median(worker.total_blocks * worker.block_size for worker in seen)),
        *factors,
    )


def _factors(model: StepModel, costs: StepCosts, chunk: int, prompt: int) -> tuple[float, float]:
    """What workers learnt over what the profile says. Before they have learnt, they say what they were told of it."""
    if costs == model.costs:
        return 1.0, 1.0
    reported = Engine(model, chunk, 1, 0)
    prefill = prefill_s(costs, prompt, 0, chunk) / reported.prefill_s(prompt, 0)
    decode = decode_s(costs, TYPICAL_BATCH, TYPICAL_BATCH * prompt) / reported.step_s(TYPICAL_BATCH, prompt)
    return _beyond(prefill), _beyond(decode)


def _beyond(ratio: float) -> float:
    """What of a difference is not within what a straight line may be off by."""
    return max(1.0, ratio / CROOKED) if ratio >= 1 else min(1.0, ratio * CROOKED)


class RequestKind(NamedTuple):
    """Requests that are alike."""

    share: float
    """The share of the requests that can meet `slo_ttft_s` alone."""
    prefill_s: float
    chunks: int


class Mix(NamedTuple):
    """Requests as they come: what one costs on average, and how that varies."""

    kinds: tuple[RequestKind, ...]
    """The kinds of requests by length of the prompt, of those that can meet `slo_ttft_s` alone."""
    attainable: float
    """Share of requests that can."""
    prefill_s: float
    """Mean over all requests, as are those that follow."""
    prefill_square: float
    chunks: float
    decode_s: float
    """Engine time of its answer, bases of steps left out."""
    answer_tokens: float
    typical_tokens: float
    """Length of the answer that a token belongs to, on average."""
    context_tokens: float
    """Tokens in cache while the request decodes."""

    @property
    def total_s(self) -> float:
        return self.prefill_s + self.decode_s

    @property
    def prefill_cv2(self) -> float:
        """Squared coefficient of variation of the prefill."""
        return max(0.0, self.prefill_square / self.prefill_s**2 - 1) if self.prefill_s > 0 else 0.0


class Lengths(NamedTuple):
    """The lengths of prompts or of answers, in tokens."""

    buckets: Mapping[int, float]
    """The counts by `lengths.bucket_of`."""
    mean_tokens: float | None = None
    """The mean length; None: as the buckets say."""


def mix_of(engine: Engine, prompts: Lengths, answers: Lengths, cached_share: float, slo_ttft_s: float | None) -> Mix:
    """`cached_share`: of prompt tokens, what caches save."""
    kinds: list[RequestKind] = []
    attainable = mean_s = square = tokens = chunks = 0.0
    for length, share in shares(*prompts):
        cached = length * cached_share
        own_s, steps = engine.prefill_s(length, cached), engine.chunks(length - cached)
        mean_s += share * own_s
        square += share * own_s * own_s
        tokens += share * length
        chunks += share * steps
        if slo_ttft_s is None or own_s <= slo_ttft_s:
            attainable += share
            kinds.append(RequestKind(share, own_s, steps))
    lengths = list(shares(*answers))
    out = float_sum(length * share for length, share in lengths)
    typical = float_sum(length * length * share for length, share in lengths) / out if out else 0.0
    context = tokens + out / 2
    reported = tuple(RequestKind(kind.share / attainable, kind.prefill_s, kind.chunks) for kind in kinds)
    return Mix(
        kinds=reported,
        attainable=attainable,
        prefill_s=mean_s,
        prefill_square=square,
        chunks=chunks,
        decode_s=out * engine.token_s(context),
        answer_tokens=out,
        typical_tokens=typical,
        context_tokens=context,
    )
