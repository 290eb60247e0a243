"""How many workers a workload keeps busy, roughly: how large a fleet is large enough.

A request is worth the share of a worker's second that it takes at the highest rate a worker serves its like at within
the SLOs. No queueing, no cache unless it is told of: a guess from which measuring starts.
"""

from collections.abc import Iterable, Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
from capacity import Asked, Engine, aggregated_capacity, decode_capacity, prefill_capacity
from oracle_schedule import Floats

from jedlik.core.config import Role
from jedlik.fleet.desired import most_workers
from jedlik.planning.lengths import bucket_of, middle
from jedlik.sim.outcome import SimulationRun
from jedlik.sim.setup import Setup
from jedlik.sim.slots import slots_of

PEAK_S = 30.0
ROOM = 1.5
"""The largest fleet has so much more than the busiest moment needs."""


class Came(NamedTuple):
    """A request."""

    at_s: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    counts: bool = True
    """It could keep its promise."""


def came_in(run: SimulationRun, before: Sequence[Came]) -> list[Came]:
    """The requests of a run, in order of time. What did not end well says nothing: what was known of it holds."""
    attainable = run.attainable or [True] * len(run.outcomes)
    ended = sorted(
        zip(run.outcomes, attainable, strict=True), key=lambda pair: (pair[0].arrived_s, pair[0].prompt_tokens)
    )
    known = before if len(before) == len(ended) else [None] * len(ended)
    return [
        Came(o.arrived_s, o.prompt_tokens, o.cached_tokens, o.output_tokens, counts)
        if o.ok or old is None
        else old._replace(counts=counts)
        for (o, counts), old in zip(ended, known, strict=True)
    ]


class Work:
    """Of requests at one role's workers, in worker-seconds."""

    def __init__(self, setup: Setup, role: Role) -> None:
        pool = next(pool for pool in setup.pools if pool.role == role)
        worker = setup.worker
        self._engine = Engine(pool.model, worker.max_step_tokens, worker.max_sequences, pool.kv_tokens)
        self._role, self._slo = role, (setup.gateway.slo_ttft_s, setup.gateway.slo_itl_s)
        self._known: dict[tuple[int, int, int], float] = {}

    def of(self, came: Came) -> float:
        """Of one like this: lengths in buckets."""
        hit = round(10 * came.cached_tokens / max(1, came.prompt_tokens))
        key = (bucket_of(came.prompt_tokens), bucket_of(came.output_tokens), hit)
        if key not in self._known:
            self._known[key] = 1.0 / self._rate(Asked(middle(key[0]), middle(key[1]), hit / 10))
        return self._known[key]

    def _rate(self, asked: Asked) -> float:
        ttft_s, itl_s = self._slo
        if self._role == "prefill":
            return prefill_capacity(self._engine, asked, ttft_s).rate
        if self._role == "decode":
            return decode_capacity(self._engine, asked, itl_s).rate
        rate = aggregated_capacity(self._engine, asked, ttft_s, itl_s).rate
        return rate or 1.0 / self._engine.prefill_s(asked.fresh_tokens, asked.attended)  # hardly anything but prefill


def busy(setup: Setup, role: Role, requests: Iterable[Came]) -> Floats:
    """Workers kept busy, over each half minute of the workload."""
    work = Work(setup, role)
    pairs = [(came.at_s, work.of(came)) for came in requests]
    if not pairs:
        return np.zeros(1)
    places = np.array([int(at_s / PEAK_S) for at_s, _ in pairs])
    return np.bincount(places, weights=[seconds for _, seconds in pairs]) / PEAK_S


def largest(load: Floats, least: int, most: int) -> int:
    """A fleet that is rarely short."""
    return max(least, min(most, ceil(ROOM * float(load.max())) + 1))


def rooms(setup: Setup, role: Role) -> int:
    """Workers of a role, at most, by budget and places; where there are two roles, the other has its least."""
    places = [slot.place for slot in slots_of(setup)]
    most = most_workers(places, setup.planner.budget)
    if role != "both":
        most -= least_of(setup, "decode" if role == "prefill" else "prefill")
    return min(most, sum(pool.rooms for pool in setup.pools if pool.role == role))


def least_of(setup: Setup, role: Role) -> int:
    """That there must be of a role."""
    config = setup.planner
    return {"both": config.min_workers, "prefill": config.min_prefill, "decode": config.min_decode}[role]
