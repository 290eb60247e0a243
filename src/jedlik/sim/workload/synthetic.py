"""Synthetic workloads: arrivals by law, prompts unlike each other, with shared prefixes, or growing by turns."""

from collections.abc import Callable, Iterator
from itertools import accumulate
from math import cos, log, pi, sqrt
from random import Random

import msgspec

from jedlik.core.errors import ConfigError
from jedlik.sim.workload.conversations import Conversations, ConversationTurn, Script, Start, steady
from jedlik.sim.workload.offered import Workload
from jedlik.sim.workload.options import CLOSED_ONLY, FILES_ONLY, WorkloadOptions
from jedlik.sim.workload.renewal import gaps
from jedlik.sim.workload.shape import Replay
from jedlik.sim.workload.spec import Count, Generator, Positive, Share, Whole
from jedlik.sim.workload.trace import Drawn, Fresh, Trace, TraceRow

UNIQUE_PIECE_TOKENS = 512
IDS_OF_ONE = 1 << 28
"""A group's or conversation's own ids start at (its number + 1) times this."""
UNSHARED = 1 << 60

Times = Callable[[Random], Iterator[float]]
Ids = Callable[[Random, int], "range | list[int]"]


class DrawnLengths(Generator, frozen=True, kw_only=True):
    """Tokens of a prompt and of an answer: fixed, or log-normal with that mean and coefficient of variation."""

    input: Count = 1000
    output: Count = 100
    input_cv: Share = 0.0
    output_cv: Share = 0.0

    def drawn(self, chance: Random) -> tuple[int, int]:
        return draw(chance, self.input, self.input_cv), draw(chance, self.output, self.output_cv)


class Poisson(DrawnLengths, frozen=True, kw_only=True):
    """Arrivals of a Poisson process."""

    rate: Positive
    """The rate in requests per second."""
    duration: Positive | None = None
    """The duration of arrivals in seconds."""

    def workload(self, options: WorkloadOptions, seed: int) -> Workload:
        law = gaps(1.0)
        return opened(self, lambda chance: law.arrivals(chance, self.rate, self.duration), options, seed)


class Gamma(DrawnLengths, frozen=True, kw_only=True):
    """Arrivals in bursts: gaps with that coefficient of variation (1 is Poisson, 0 a steady beat)."""

    rate: Positive
    cv: Share = 3.0
    duration: Positive | None = None

    def workload(self, options: WorkloadOptions, seed: int) -> Workload:
        law = gaps(self.cv)
        return opened(self, lambda chance: law.arrivals(chance, self.rate, self.duration), options, seed)


class Sinusoid(DrawnLengths, frozen=True, kw_only=True):
    """Arrivals at random, at a rate that swings: rate - amplitude * cos(2 pi t / period), least at time 0.

    Said by `rate` and `amplitude`, or by `min` and `max`. Drawn by thinning the arrivals at the highest rate.
    """

    rate: Positive | None = None
    amplitude: Share = 0.0
    min: Share = 0.0
    max: Positive | None = None
    period: Positive = 600.0
    duration: Positive | None = None

    def workload(self, options: WorkloadOptions, seed: int) -> Workload:
        low, high = self._ends()
        return opened(self, lambda chance: self._times(chance, low, high), options, seed)

    def _ends(self) -> tuple[float, float]:
        if (self.rate is None) == (self.max is None):
            raise ConfigError("sinusoid: give either rate (with amplitude) or max (with min)")
        if self.rate is not None:
            if self.amplitude > self.rate or self.min:
                raise ConfigError(f"sinusoid: rate {self.rate} - amplitude {self.amplitude} is the least: 0 or more")
            return self.rate - self.amplitude, self.rate + self.amplitude
        assert self.max is not None
        if self.min > self.max or self.amplitude:
            raise ConfigError(f"sinusoid: min {self.min} is above max {self.max}, or amplitude is given with max")
        return self.min, self.max

    def _times(self, chance: Random, low: float, high: float) -> Iterator[float]:
        middle, swing = (high + low) / 2, (high - low) / 2
        for at_s in gaps(1.0).arrivals(chance, high, self.duration):
            if chance.random() * high < middle - swing * cos(2 * pi * at_s / self.period):
                yield at_s


class SharedPrefix(DrawnLengths, frozen=True, kw_only=True):
    """Arrivals at random, of prompts that begin with the prefix of their group; groups are picked by Zipf's law."""

    rate: Positive
    groups: Count = 10
    prefix: Count = 512
    """Tokens that all prompts of a group begin with, part of `input`; a multiple of `block`."""
    zipf: Share = 1.0
    """Group n is picked in proportion to n ** -zipf; 0: all alike."""
    block: Count = 16
    """Tokens in which prompts are told apart."""
    duration: Positive | None = None

    def workload(self, options: WorkloadOptions, seed: int) -> Workload:
        if self.prefix % self.block:
            raise ConfigError(f"shared_prefix: prefix {self.prefix} is not a multiple of block {self.block}; round it")
        if self.prefix >= self.input:
            raise ConfigError(f"shared_prefix: prefix {self.prefix} leaves nothing of input {self.input}; shorten it")
        law = gaps(1.0)
        return opened(self, lambda chance: law.arrivals(chance, self.rate, self.duration), options, seed)

    def drawn(self, chance: Random) -> tuple[int, int]:
        tokens, output_tokens = super().drawn(chance)
        return max(tokens, self.prefix + 1), output_tokens

    def ids(self) -> Ids:
        fresh = Fresh(self.block, UNSHARED)
        weights = list(accumulate((number + 1) ** -self.zipf for number in range(self.groups)))
        blocks = self.prefix // self.block

        def ids(chance: Random, tokens: int) -> list[int]:
            start = (chance.choices(range(self.groups), cum_weights=weights)[0] + 1) * IDS_OF_ONE
            return [*range(start, start + blocks), *fresh.ids(tokens - self.prefix)]

        return ids


class MultiTurn(DrawnLengths, frozen=True, kw_only=True):
    """Conversations: each prompt is the one before it, its answer and `input` new tokens; sent after a pause.

    Either `rate` of conversations that begin per second, or a number of them kept going.
    """

    input: Count = 200
    """New tokens of each turn."""
    rate: Positive | None = None
    concurrency: Count | None = None
    turns: Positive = 5.0
    """Mean; the number is geometric."""
    think: Share = 10.0
    """Mean pause between an answer and the next request, s; exponential."""
    system: Whole = 512
    """Tokens that all conversations begin with, in whole blocks."""
    block: Count = 16
    duration: Positive | None = None

    def workload(self, options: WorkloadOptions, seed: int) -> Workload:
        options.refuse((*FILES_ONLY, "start_s"), "multi_turn is not recorded")
        bound_s = min(filter(None, (self.duration, options.duration_s)), default=None)
        bounded(bound_s, options)
        options = msgspec.structs.replace(options, duration_s=bound_s)
        scripts = Chats(self, seed)
        concurrency = self.concurrency or options.concurrency
        if (self.rate is None) == (concurrency is None):
            raise ConfigError("multi_turn: give either rate (conversations that begin per s) or concurrency")
        if concurrency is not None:
            starts = steady(options, concurrency * options.copies, seed)
            return Conversations(scripts, starts, options, replaced=True, total=options.limit)
        options.refuse(CLOSED_ONLY, "multi_turn has a rate")
        return Conversations(scripts, Begun(self, options, seed), options, replaced=False, total=options.limit)


class Begun:
    """Conversations that begin at random moments, drawn anew and alike each time."""

    def __init__(self, spec: MultiTurn, options: WorkloadOptions, seed: int) -> None:
        self._rate_rps = (spec.rate or 0.0) * options.copies * options.speed
        self._duration_s = options.duration_s
        self._seed = seed

    def __iter__(self) -> Iterator[Start]:
        times = gaps(1.0).arrivals(Random(f"begun {self._seed}"), self._rate_rps, self._duration_s)
        return (Start(at_s, number) for number, at_s in enumerate(times))


class Chats:
    """The conversations of a `MultiTurn`."""

    def __init__(self, spec: MultiTurn, seed: int) -> None:
        self._spec = spec
        self._seed = seed
        self.piece_tokens = spec.block

    def script(self, number: int) -> Script | None:
        spec, chance = self._spec, Random(f"chat {self._seed} {number}")
        count = 1 if spec.turns <= 1 else 1 + int(log(1 - chance.random()) / log(1 - 1 / spec.turns))
        return Script(f"chat{number}", 0, list(self._turns(chance, count, (number + 1) * IDS_OF_ONE)))

    def _turns(self, chance: Random, count: int, own: int) -> Iterator[ConversationTurn]:
        """A partial last block is never shared: with what follows it, it is another one."""
        spec = self._spec
        tokens = keep = spec.system // spec.block * spec.block
        keep //= spec.block
        shared: tuple[int, ...] = (0, keep)
        for number in range(count):
            new, output_tokens = spec.drawn(chance)
            tokens += new
            blocks = -(-tokens // spec.block)
            think_s = chance.expovariate(1 / spec.think) if spec.think else 0.0
            yield ConversationTurn(
                tokens=tokens,
                output_tokens=output_tokens,
                think_s=think_s,
                keep=keep if number else 0,
                runs=(*shared, own, blocks - keep),
            )
            own, shared, keep = own + blocks - keep, (), tokens // spec.block
            tokens += output_tokens


def opened(spec: DrawnLengths, times: Times, options: WorkloadOptions, seed: int) -> Workload:
    """An open loop. Raises ConfigError if it would never end."""
    options.refuse((*FILES_ONLY, "start_s"), "generators are not recorded")
    options.refuse(CLOSED_ONLY, "arrivals do not wait for answers")
    bounded(getattr(spec, "duration", None) or options.duration_s, options)
    piece_tokens = spec.block if isinstance(spec, SharedPrefix) else UNIQUE_PIECE_TOKENS

    def rows() -> Iterator[TraceRow]:
        chance = Random(f"{type(spec).__name__} {seed}")
        ids = spec.ids() if isinstance(spec, SharedPrefix) else unique()
        for at_s in times(Random(f"times {seed}")):
            tokens, output_tokens = spec.drawn(chance)
            yield TraceRow(at_s=at_s, tokens=tokens, output_tokens=output_tokens, ids=ids(chance, tokens))

    return Replay(Trace(Drawn(rows), piece_tokens), options)


def unique() -> Ids:
    fresh = Fresh(UNIQUE_PIECE_TOKENS)
    return lambda chance, tokens: fresh.ids(tokens)


def bounded(duration_s: float | None, options: WorkloadOptions) -> None:
    if duration_s is None and options.limit is None:
        raise ConfigError("the generator would never end: give duration=SECONDS in it, or limit")


def draw(chance: Random, mean: int, cv: float) -> int:
    if not cv:
        return mean
    sigma = sqrt(log(1 + cv * cv))
    return max(1, round(chance.lognormvariate(log(mean) - sigma * sigma / 2, sigma)))


GENERATORS: dict[str, type[Generator]] = {
    "poisson": Poisson,
    "gamma": Gamma,
    "sinusoid": Sinusoid,
    "shared_prefix": SharedPrefix,
    "multi_turn": MultiTurn,
}
