"""How many workers a shape needs, in closed form: a bracket for the simulations that decide, in milliseconds.

Prefill as a queue with several servers (Allen-Cunneen), an answer's pace from Little's law: as many sequences decode at
a worker as arrive there while one answer lasts. Lateness of first tokens is averaged over the requests of the trace,
with the wait taken as exponential. Not modelled: imbalance between workers, hand-offs, shedding.
"""

from math import ceil, inf, sqrt
from typing import NamedTuple

import numpy as np

from jedlik.perf.model import StepModel
from jedlik.perf.profile import model
from jedlik.sim.report.columns import Flags, Floats, Slo
from jedlik.sim.sizing import Engine, Shape
from jedlik.sim.sizing_load import Load

FULL = 0.95
"""Prefill no busier than this: beyond it a queue is as long as the trace."""
FIXED_POINT_ROUNDS = 60
STALLING = 0.7
"""Of prefills' time: routers put them where they stall fewer. Roughly what simulations show."""
MOST_SEQUENCES = 100_000
"""In a batch: more means that decoding does not keep up."""


class Estimate(NamedTuple):
    """Of one fleet."""

    attainment: float
    """Of all requests."""
    itl_s: float
    """inf: decoding does not keep up."""


class Sizer:
    """Estimates for one workload and one promise."""

    def __init__(self, load: Load, slo: Slo) -> None:
        self.load = load
        self._ttft_s, self._itl_s = slo.ttft_s or inf, slo.itl_s or inf
        self._burst = min(max(load.burstiness(), 1.0), 50.0)
        self._outputs = float(load.output_tokens.mean())
        self._context = float((load.prompt_tokens + load.output_tokens / 2).mean())
        self._models: dict[str, StepModel] = {}
        self._spent: dict[tuple[str, int], Floats] = {}

    def alone_s(self, engine: Engine, chunk: int) -> Floats:
        """By request: its prefill on an idle worker that has its prefix."""
        key = (engine.label, chunk)
        if key not in self._spent:
            costs, load = self._model(engine).costs, self.load
            new = load.prompt_tokens - load.cached_tokens
            pairs = new * load.cached_tokens + new * (new + 1) / 2
            steps = np.ceil(new / chunk)
            self._spent[key] = steps * costs.base_s + costs.prefill_token_s * new + costs.prefill_pair_s * pairs
        return self._spent[key]

    def attainable(self, shapes: list[Shape]) -> Flags:
        """By request: one of the shapes could give its first token in time."""
        able = np.zeros(self.load.requests, dtype=np.bool_)
        for shape in shapes:
            able |= self.alone_s(shape.engine, shape.chunk_tokens) <= self._ttft_s
        return able

    def estimate(self, shape: Shape, workers: int) -> Estimate:
        alone_s = self.alone_s(shape.engine, shape.chunk_tokens)
        prefill = shape.prefill(workers) or workers
        decode = workers - shape.prefill(workers)
        busy = self.load.rate * float(alone_s.mean()) / prefill
        if busy >= FULL:
            return Estimate(0.0, inf)
        share = 0.0 if shape.apart else busy
        itl_s, batch = self._pace(shape.engine, decode, share)
        if itl_s > self._itl_s or batch * self._context > shape.engine.kv_tokens:
            return Estimate(0.0, itl_s)
        in_time = self._in_time(alone_s, prefill, busy)
        step_s = self._step_s(shape.engine, batch + sqrt(batch))
        stalls_s = np.zeros(1) if shape.apart else STALLING * alone_s
        return Estimate(float((in_time * self._in_pace(step_s, stalls_s, decode)).mean()), itl_s)

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

    def prefill_share(self, engine: Engine, chunk: int) -> float:
        """Of the workers, where prefill and decode are apart, so that both are about as busy."""
        rate = self.load.rate
        prefill = rate * float(self.alone_s(engine, chunk).mean()) / 0.7
        decode, least = 0, 1
        while least <= 4096:  # doubling, then bisecting
            if self._keeps_pace(engine, least):
                break
            decode, least = least, least * 2
        while least - decode > 1:
            middle = (least + decode) // 2
            if self._keeps_pace(engine, middle):
                least = middle
            else:
                decode = middle
        return min(max(prefill / (prefill + least), 0.05), 0.95)

    def _keeps_pace(self, engine: Engine, workers: int) -> bool:
        itl_s, batch = self._pace(engine, workers, 0.0)
        return itl_s < self._itl_s and batch * self._context <= engine.kv_tokens

    def _pace(self, engine: Engine, workers: int, busy: float) -> tuple[float, float]:
        """Time between tokens and batch, where prefill takes the share `busy` of a worker's time."""
        arriving = self.load.rate / workers * self._outputs
        batch = 1.0
        itl_s = inf
        for _ in range(FIXED_POINT_ROUNDS):
            itl_s = self._step_s(engine, batch) / (1 - busy)
            found = max(arriving * itl_s, 1.0)
            if abs(found - batch) < 0.01 * batch:
                break
            batch = found
        return itl_s, batch

    def _step_s(self, engine: Engine, batch: float) -> float:
        if batch > MOST_SEQUENCES:
            return inf
        fixed_s, token_s = self._model(engine).decode_line(max(ceil(batch), 1))
        return fixed_s + token_s * batch * self._context

    def _model(self, engine: Engine) -> StepModel:
        if engine.label not in self._models:
            self._models[engine.label] = model(engine.profile)
        return self._models[engine.label]

    def _in_time(self, alone_s: Floats, servers: int, busy: float) -> Floats:
        """By request: the chance that its first token comes in time."""
        mean_s = float(alone_s.mean())
        variation = float(alone_s.var()) / mean_s**2
        root = sqrt(2 * (servers + 1))
        waits = busy ** (root - 1)
        wait_s = mean_s * (self._burst + variation) / 2 * waits / (servers * (1 - busy))
        slack_s = self._ttft_s - alone_s
        if wait_s <= 0 or self._ttft_s == inf:
            return np.where(slack_s >= 0, 1.0, 0.0)
        tail = waits * np.exp(-np.maximum(slack_s, 0.0) * waits / wait_s)
        return np.where(slack_s >= 0, 1 - tail, 0.0)

    def _in_pace(self, step_s: float, stalls_s: Floats, workers: int) -> Floats:
        """By request: the chance that prefills beside it leave it enough time for its tokens.

        Prefills come by Poisson's law while it lasts; their time together is taken as normal.
        """
        if self._itl_s == inf:
            return np.ones(self.load.requests)
        if step_s >= self._itl_s:
            return np.zeros(self.load.requests)
        gaps = np.maximum(self.load.output_tokens - 1, 1)
        expected = self.load.rate / workers * gaps * self._itl_s
        room_s = gaps * (self._itl_s - step_s)
        spread_s = np.sqrt(expected * float((stalls_s**2).mean())) + 1e-9
        return logistic((room_s - expected * float(stalls_s.mean())) / spread_s)


def logistic(z: Floats) -> Floats:
    """Close to the normal distribution function."""
    return np.asarray(1 / (1 + np.exp(-np.clip(1.702 * z, -50, 50))))
