"""Estimates in closed form of how many workers a shape needs: a bracket for the simulations that decide, in
milliseconds.

The form is the planner's (`planning/requirement`): this tells it of a workload that is known and of fleets that do not
exist. All lengths are known, so which requests could be in time alone is asked of each one, and whether answers are too
slow of each length: one stall breaks a short one. Not modelled: hand-offs, shedding, load that changes over the trace.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from jedlik.core.plans import Promise
from jedlik.core.sums import float_sum
from jedlik.perf.profile import model
from jedlik.planning import engine as engines
from jedlik.planning.engine import Lengths, Mix, mix_of
from jedlik.planning.lengths import bucket_of, shares
from jedlik.planning.requirement import (
    decode_curve,
    decode_misses,
    pace_of,
    prefill_curve,
    prefill_misses,
)
from jedlik.sim.report.columns import Flags, Floats, Slo
from jedlik.sim.sizing import Shape, SizedEngine
from jedlik.sim.sizing_load import OfferedLoad

MOST_SEQUENCES = 100_000
"""Sequences in a batch where no limit is given: as many as the cache holds."""
MOST_BURST = 50.0
"""Beyond, the load changes rather than comes in bursts: then this form says nothing, and simulations decide."""
SPLIT_AT, SPLIT_MISSES = 8, 0.025
"""Prefill and decode are weighed by what so many workers of each take with so many misses."""


class Estimate(NamedTuple):
    """The estimate of one fleet."""

    attainable: float
    """Share of requests that could have their first token in time, alone."""
    missed: float
    """The share of the attainable requests that is missed."""

    @property
    def attainment(self) -> float:
        """The share of all requests that meet the SLOs."""
        return self.attainable * (1 - self.missed)


class Sizer:
    """Estimates for one workload and one promise."""

    def __init__(self, load: OfferedLoad, slo: Slo, max_sequences: int = MOST_SEQUENCES) -> None:
        self.load = load
        self._promise, self._max_sequences = Promise(slo.ttft_s, slo.itl_s), max_sequences
        self._prompts, self._answers = _lengths(load.prompt_tokens), _lengths(load.output_tokens)
        self._burst = min(max(load.burstiness(), 1.0), MOST_BURST)
        self._known: dict[tuple[str, int], tuple[engines.Engine, Mix]] = {}
        self._spent: dict[tuple[str, int], Floats] = {}

    def alone_s(self, engine: SizedEngine, chunk: int) -> Floats:
        """Return for each request the seconds of its prefill on an idle worker that has its prefix."""
        key = (engine.label, chunk)
        if key not in self._spent:
            costs, load = model(engine.profile).costs, self.load
            new = load.prompt_tokens - load.cached_tokens
            pairs = new * load.cached_tokens + new * (new + 1) / 2
            steps = np.ceil(new / chunk)
            self._spent[key] = steps * costs.base_s + costs.prefill_token_s * new + costs.prefill_pair_s * pairs
        return self._spent[key]

    def attainable(self, shapes: list[Shape]) -> Flags:
        """Return for each request whether one of the shapes could give its first token in time."""
        able = np.zeros(self.load.requests, dtype=np.bool_)
        for shape in shapes:
            alone_s = self.alone_s(shape.engine, shape.chunk_tokens)
            able |= alone_s <= (np.inf if self._promise.ttft_s is None else self._promise.ttft_s)
        return able

    def estimate(self, shape: Shape, workers: int) -> Estimate:
        engine, mix = self._mix(shape.engine, shape.chunk_tokens)
        able = float(self.attainable([shape]).mean())
        both, prefill = not shape.apart, shape.prefill(workers)
        decode = workers - prefill
        each = self.load.rate / decode
        pace = pace_of(mix, engine, each, both)
        if pace is None:
            return Estimate(able, 1.0)
        late = prefill_misses(mix, prefill or workers, self.load.rate, self._promise, pace.beside_s if both else 0.0)
        slow = float_sum(
            share * decode_misses(mix._replace(typical_tokens=tokens), pace, decode, each, self._promise, both)
            for tokens, share in shares(*self._answers)
        )
        return Estimate(able, 1 - (1 - late) * (1 - slow))

    def needed(self, shape: Shape, attainment: float, most: int) -> int | None:
        """The fewest workers that attain so much of all requests; None: not even `most`."""
        if most < shape.least or self.estimate(shape, most).attainment < attainment:
            return None
        low, high = shape.least - 1, most
        while high - low > 1:
            middle = (low + high) // 2
            if self.estimate(shape, middle).attainment >= attainment:
                high = middle
            else:
                low = middle
        return high

    def prefill_share(self, engine: SizedEngine, chunk: int) -> float:
        """Return the share of the workers that prefill, where prefill and decode are apart, so that both are about as
        busy."""
        counted, mix = self._mix(engine, chunk)
        prefills = prefill_curve(mix, self._promise, SPLIT_MISSES).rate(SPLIT_AT)
        decodes = decode_curve(mix, counted, self._promise, SPLIT_MISSES).rate(SPLIT_AT)
        return min(max(decodes / max(prefills + decodes, 1e-9), 0.05), 0.95)

    def _mix(self, engine: SizedEngine, chunk: int) -> tuple[engines.Engine, Mix]:
        """The engine as the planner calculates with it, and what the workload costs it."""
        key = (engine.label, chunk)
        if key not in self._known:
            counted = engines.Engine(model(engine.profile), chunk, self._max_sequences, engine.kv_tokens)
            mix = mix_of(counted, self._prompts, self._answers, self.load.reuse, self._promise.ttft_s)
            # the planner has arrivals at random (variance 1): what bursts have more is added to that of prefills
            more = (self._burst - 1) * mix.prefill_s**2
            self._known[key] = counted, mix._replace(prefill_square=mix.prefill_square + more)
        return self._known[key]


def _lengths(tokens: Floats) -> Lengths:
    return Lengths(Counter(bucket_of(int(length)) for length in tokens), float(tokens.mean()))
