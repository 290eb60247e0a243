"""The requirement curve: how much a pool of workers can take within the SLOs, in closed form.

Waiting is that of a queue with many servers (Allen and Cunneen, exponent by Sakasegawa), its tail exponential.
A time between tokens is the step's base over what prefills and other answers leave of the engine (Little's law), and
varies with the prefills that fall into one answer's life. Misses are expected shares of the requests that could keep
their promise alone. docs/planner.md derives each line. All times are seconds.
"""

from collections.abc import Callable
from functools import lru_cache
from math import erfc, exp, sqrt
from typing import NamedTuple

from jedlik.core.plans import Promise
from jedlik.planning.engine import Engine, Mix

KV_SHARE = 0.9
"""The share of a worker's cache that running sequences may hold on average: beyond, they preempt each other."""
FULL = 0.999
EVENING = 0.7
"""The variance of what one of n workers has to do is an n-th to this power of a lone worker's: 0 would be a router that
draws lots, 1 one that deals out evenly (measured with fleets of 1 to 8: bench/planning)."""
ROUNDS, PACE_ROUNDS = 20, 60
EXACT = 8
"""Fleets up to this size are calculated one by one, larger ones at steps of a quarter."""


def late_share(servers: int, load: float, service_s: float, variability: float, within_s: float) -> float:
    """P(wait > within_s) at `load` (0..1 of all servers); `variability` is Ca^2 + Cs^2."""
    if load >= FULL:
        return 1.0
    if load <= 0 or service_s <= 0:
        return 0.0
    busy: float = load ** (sqrt(2 * (servers + 1)) - 1)
    wait_s = service_s * variability / 2 * busy / (servers * (1 - load))
    return busy * exp(-max(0.0, within_s) * busy / wait_s) if wait_s > 0 else 0.0


def prefill_misses(mix: Mix, servers: int, rate: float, promise: Promise, beside_s: float = 0.0) -> float:
    """Share of attainable requests whose first token is late at `rate` requests/s; `beside_s`: what the sequences that
    decode there add to each step."""
    service_s = mix.prefill_s + beside_s * mix.chunks
    load = rate * service_s / servers
    if promise.ttft_s is None or not mix.kinds:
        return float(load >= FULL)
    variability = 1 + mix.prefill_cv2
    late = 0.0
    for kind in mix.kinds:
        left_s = promise.ttft_s - kind.prefill_s - beside_s * kind.chunks
        late += kind.share * (1.0 if left_s < 0 else late_share(servers, load, service_s, variability, left_s))
    return late


class Pace(NamedTuple):
    """A worker that decodes, in equilibrium."""

    batch: float
    """Sequences in the batch."""
    step_s: float
    """Seconds of a step that only decodes them."""
    beside_s: float
    """Seconds that they add to a step that prefills."""


def pace_of(mix: Mix, engine: Engine, each: float, prefills: bool) -> Pace | None:
    """Return the pace at `each` requests/s, prefilled there too or not; None: the worker can't keep up. By Little's law
    the batch is the rate times what an answer takes; the answer takes the longer the larger the batch: iterated from an
    empty one."""
    batch, chunk_rate = 0.0, each * mix.chunks if prefills else 0.0
    prefill_load = each * mix.prefill_s if prefills else 0.0
    most = min(engine.sequences, KV_SHARE * engine.kv_tokens / max(1.0, mix.context_tokens))
    for _ in range(PACE_ROUNDS):
        step_s, beside_s = engine.step_s(batch, mix.context_tokens), batch * engine.token_s(mix.context_tokens)
        free = 1 - prefill_load - chunk_rate * beside_s
        if free <= 0:
            return None
        before, batch = batch, each * mix.answer_tokens / (chunk_rate + free / step_s)
        if batch > most:
            return None
        if batch - before <= 1e-3 * batch:
            return Pace(batch, step_s, beside_s)
    return None


def decode_misses(mix: Mix, pace: Pace, servers: int, each: float, promise: Promise, prefills: bool) -> float:
    """Share of answers that are too slow on workers at this pace: of one of typical length, for the router spares short
    ones that could not bear a stall. Stalls are the prefills that fall into its life, each without the tokens that its
    steps bring all the same; a normal tail. The router also evens out what chance brings: see EVENING."""
    if promise.itl_s is None:
        return 0.0
    rate = each if prefills else 0.0
    tokens, life_s = mix.typical_tokens, mix.typical_tokens * promise.itl_s
    stall_s = max(0.0, mix.prefill_s + mix.chunks * (pace.beside_s - pace.step_s))
    spare_s = life_s - tokens * pace.step_s - rate * life_s * stall_s
    variance = rate * life_s * stall_s**2 * (1 + mix.prefill_cv2)
    spread_s = sqrt((variance + batch_spread(pace, tokens, mix.answer_tokens) ** 2) / servers**EVENING)
    return beyond(spare_s / spread_s) if spread_s > 0 else float(spare_s < 0)


def batch_spread(pace: Pace, tokens: float, mean_tokens: float) -> float:
    """Standard deviation of the time that others' sequences cost an answer: the batch is Poisson, and changes as often
    as answers of the mean length end in this one's life."""
    if pace.batch <= 0:
        return 0.0
    return tokens * pace.beside_s / sqrt(pace.batch * max(1.0, tokens / max(1.0, mean_tokens)))


def beyond(deviations: float) -> float:
    """P(a normal variable exceeds its mean by so many standard deviations)."""
    return 0.5 * erfc(deviations / sqrt(2))


def misses(mix: Mix, engine: Engine, servers: int, rate: float, promise: Promise) -> float:
    """Return the share of attainable requests that a pool of mixed workers is expected to miss one SLO or the other
    for."""
    each = rate / servers
    pace = pace_of(mix, engine, each, prefills=True)
    if pace is None:
        return 1.0
    slow = decode_misses(mix, pace, servers, each, promise, prefills=True)
    late = prefill_misses(mix, servers, rate, promise, pace.beside_s)
    return 1 - (1 - late) * (1 - slow)


def slow_share(mix: Mix, engine: Engine, servers: int, rate: float, promise: Promise) -> float:
    """Return the share that a pool which only decodes is expected to miss."""
    pace = pace_of(mix, engine, rate / servers, prefills=False)
    return 1.0 if pace is None else decode_misses(mix, pace, servers, rate / servers, promise, prefills=False)


class Curve:
    """Requests/s that so many workers take with at most a given share of misses; found once for each count."""

    def __init__(self, misses_at: Callable[[int, float], float], bearable: float, busy_s: float) -> None:
        """`misses_at(servers, rate)`; `busy_s`: engine time of one request, which bounds the rate."""
        self._misses, self._bearable, self._busy_s = misses_at, bearable, busy_s
        self.rate = lru_cache(maxsize=4096)(self._rate)

    def _rate(self, servers: int) -> float:
        """Of so many workers."""
        if servers <= 0:
            return 0.0
        if servers > EXACT:
            step = 1
            while servers > 2 * EXACT * step:
                step *= 2
            low = servers // step * step
            if low != servers:
                each = self.rate(low) / low
                return servers * each
        low_rate, high = 0.0, servers / max(self._busy_s, 1e-9)
        for _ in range(ROUNDS):
            middle = (low_rate + high) / 2
            if self._misses(servers, middle) <= self._bearable:
                low_rate = middle
            else:
                high = middle
        return low_rate

    def workers(self, rate: float, most: int) -> int:
        """The least count that takes this rate; `most` where even that does not."""
        if rate <= 0:
            return 0
        low, high = 0, most
        while low < high:
            middle = (low + high) // 2
            if self.rate(middle) >= rate:
                high = middle
            else:
                low = middle + 1
        return low


def both_curve(mix: Mix, engine: Engine, promise: Promise, bearable: float) -> Curve:
    """Return the curve of workers that prefill and decode."""
    return Curve(lambda n, rate: misses(mix, engine, n, rate, promise), bearable, mix.total_s)


def prefill_curve(mix: Mix, promise: Promise, bearable: float) -> Curve:
    """Return the curve of workers that only prefill."""
    return Curve(lambda n, rate: prefill_misses(mix, n, rate, promise), bearable, mix.prefill_s)


def decode_curve(mix: Mix, engine: Engine, promise: Promise, bearable: float) -> Curve:
    """Return the curve of workers that only decode."""
    return Curve(lambda n, rate: slow_share(mix, engine, n, rate, promise), bearable, mix.decode_s)
