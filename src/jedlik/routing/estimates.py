"""Estimates that a gateway learns from the requests and answers it sees: lengths, re-use of prefixes, corrections.

- `OutputLengths`: how long answers are, as a histogram on a logarithmic scale that forgets slowly.
- `Reuse`: how often cached tokens are found again, and how popular a prefix is.
- `Calibration`: how one worker's times to first token compare with what its step model predicted.

All of it is pure arithmetic on what is observed; nothing here reads a clock.
"""

from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate, pairwise
from math import exp, inf

from jedlik.core.errors import Bug

PRIOR_MEAN = 64
"""Lengths are taken to be exponential with this mean, in tokens, until answers have been seen."""
PRIOR_WEIGHT = 8.0
"""The first guess counts for this many answers."""
FORGET_LENGTHS = 0.999
"""The weight of an old answer shrinks by this factor with each new one: a half-life of about 700 answers."""
RATIO = 1.25
_EDGES = [1]
while _EDGES[-1] < 1 << 20:
    _EDGES.append(max(_EDGES[-1] + 1, int(_EDGES[-1] * RATIO)))
"""Bucket i holds lengths from _EDGES[i] up to below _EDGES[i + 1]."""
RENORMALISE = 1e6

FORGET_REUSE = 0.998
"""The weight of an old request shrinks by this factor with each new one: a half-life of about 350 requests."""
MOST_REUSE = 32.0
"""A token is taken to be found again at most this often: the estimate of a share near one is not exact enough."""
ENOUGH_REQUESTS = 200
"""Before so many requests, caches may be cold, and the share of cached tokens says little."""
PREFIXES = 4096
"""This many prefixes are counted; the one that was not seen for longest goes first."""

BOUND = 4.0
"""No sample of a calibration counts as more than this many times off."""
WEIGHT = 0.05
"""Weight of the newest sample of a calibration: about the last twenty count."""
MIN_SAMPLES = 8


class OutputLengths:
    """The lengths of one model's answers at one gateway: the best guess of how long the next ones will be."""

    def __init__(self) -> None:
        tails = [exp(-(edge - 1) / PRIOR_MEAN) for edge in _EDGES] + [0.0]
        self._weights = [PRIOR_WEIGHT * (a - b) for a, b in pairwise(tails)]
        self._unit = 1.0
        """Weight of one answer now: growing it is forgetting all others."""
        self._weight, self._tokens = PRIOR_WEIGHT, PRIOR_WEIGHT * PRIOR_MEAN
        self._below: list[float] | None = None
        self._tokens_below: list[float] = []

    def observe(self, tokens: int) -> None:
        """Count an answer of so many tokens."""
        if tokens < 1:
            return
        self._unit /= FORGET_LENGTHS
        if self._unit > RENORMALISE:
            self._weights = [weight / self._unit for weight in self._weights]
            self._weight, self._tokens, self._unit = self._weight / self._unit, self._tokens / self._unit, 1.0
        self._weights[bisect_right(_EDGES, tokens) - 1] += self._unit
        self._weight += self._unit
        self._tokens += self._unit * tokens
        self._below = None

    @property
    def mean(self) -> float:
        """The mean length of an answer in tokens."""
        return self._tokens / self._weight

    def shorter(self, tokens: float) -> float:
        """Return the share of answers with fewer tokens than this."""
        below, _ = self._sums()
        return below[bisect_right(_EDGES, tokens) - 1] / below[-1] if tokens >= 1 else 0.0

    def shorter_running(self, tokens: float) -> float:
        """Return the same share of the answers that run at any moment: long ones are seen more often."""
        _, generated = self._sums()
        return generated[bisect_right(_EDGES, tokens) - 1] / generated[-1] if tokens >= 1 else 0.0

    def _sums(self) -> tuple[list[float], list[float]]:
        if self._below is None:
            self._below = [0.0, *accumulate(self._weights)]
            middles = ((a + b - 1) / 2 for a, b in zip(_EDGES, [*_EDGES[1:], _EDGES[-1] + 1], strict=True))
            self._tokens_below = [0.0, *accumulate(w * m for w, m in zip(self._weights, middles, strict=True))]
        return self._below, self._tokens_below


class Reuse:
    """The re-use of one model's cached prompt tokens at one gateway, and which prefixes are popular.

    If a share h of prompt tokens is found cached somewhere, each computed token is found h / (1 - h) times before it
    is evicted, on average. That is what computing it in a full cache costs the tokens that it displaces, and what it
    earns later. A prefix that a share of the requests begins with is wanted at that share of the workers.
    """

    def __init__(self) -> None:
        self._found = self._computed = 0.0
        self._requests = 0.0
        self._counts: OrderedDict[int, tuple[float, int]] = OrderedDict()
        """By the last block found of a prompt: (weight, number of the request it was last counted at)."""
        self._number = 0

    def observe(self, tokens: int, found: int, last_key: int | None) -> None:
        """Count a prompt, of which the worker that has most has `found` tokens; `last_key` is their last block."""
        self._found = self._found * FORGET_REUSE + found
        self._computed = self._computed * FORGET_REUSE + tokens - found
        self._requests = self._requests * FORGET_REUSE + 1
        self._number += 1
        if last_key is not None:
            self._counts[last_key] = (self._weight(last_key) + 1, self._number)
            self._counts.move_to_end(last_key)
            if len(self._counts) > PREFIXES:
                self._counts.popitem(last=False)

    @property
    def known(self) -> bool:
        """Whether enough requests were seen to say anything."""
        return self._number >= ENOUGH_REQUESTS

    @property
    def times(self) -> float:
        """The average number of times that a computed token is found again."""
        if self._found >= MOST_REUSE * self._computed:
            return MOST_REUSE if self._computed else 0.0
        return self._found / self._computed

    def share(self, last_key: int) -> float:
        """Return the share of recent requests that found this prefix."""
        return self._weight(last_key) / self._requests if self._requests else 0.0

    def _weight(self, key: int) -> float:
        weight, number = self._counts.get(key, (0.0, 0))
        return weight * FORGET_REUSE ** (self._number - number) if weight else 0.0


class ModelHistory:
    """The estimates about the recent requests for one model."""

    def __init__(self) -> None:
        self.lengths = OutputLengths()
        self.reuse = Reuse()
        self.pressed_until = -inf
        """Until this time load is taken to be more than the fleet can bear."""


class Calibration:
    """The ratio of one worker's times to first token to its step model's, and the correction that follows.

    Both times are averaged exponentially and then divided: seconds count, not samples, because a correction matters
    where times are long. Each sample is bounded, and nothing is corrected before there are enough. Predictions go in
    as the model made them, uncorrected: otherwise a correction would be taken for a better model.
    """

    __slots__ = ("_observed_s", "_predicted_s", "samples")

    def __init__(self) -> None:
        self._observed_s = self._predicted_s = 0.0
        self.samples = 0

    def observe(self, predicted_s: float, observed_s: float) -> None:
        """Take one first token; times that can't be compared are ignored."""
        if predicted_s <= 0 or observed_s <= 0:
            return
        self.samples += 1
        weight = max(WEIGHT, 1 / self.samples)
        bounded_s = min(BOUND * predicted_s, max(predicted_s / BOUND, observed_s))
        self._predicted_s += weight * (predicted_s - self._predicted_s)
        self._observed_s += weight * (bounded_s - self._observed_s)

    @property
    def ratio(self) -> float:
        """Observed over predicted time, as averaged; 1 where nothing is known."""
        return self._observed_s / self._predicted_s if self.samples else 1.0

    @property
    def enough(self) -> bool:
        """Whether there are samples enough to correct by."""
        return self.samples >= MIN_SAMPLES

    @property
    def correction(self) -> float:
        """The factor that predictions are multiplied by."""
        return self.ratio if self.enough else 1.0

    def check(self) -> None:
        """Raise Bug unless the average is within the bounds of the samples."""
        if not 1 / BOUND - 1e-9 <= self.ratio <= BOUND + 1e-9:
            raise Bug(f"calibration: a mean ratio of {self.ratio} out of samples within {BOUND}")
