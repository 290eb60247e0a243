"""How long answers are, learnt: a histogram of output lengths on a logarithmic scale, forgetting slowly.

Nobody knows how long an answer will be; how long answers lately were is the best guess. Until some have been seen, they
are taken to be as lengths often are: exponential with a mean of `PRIOR_MEAN` tokens.
"""

from bisect import bisect_right
from itertools import accumulate, pairwise
from math import exp

PRIOR_MEAN = 64
PRIOR_WEIGHT = 8.0
"""Answers that the first guess counts for."""
FORGET = 0.999
"""Per answer: a half-life of about 700."""
RATIO = 1.25
_EDGES = [1]
while _EDGES[-1] < 1 << 20:
    _EDGES.append(max(_EDGES[-1] + 1, int(_EDGES[-1] * RATIO)))
"""Bucket i holds lengths from _EDGES[i] up to below _EDGES[i + 1]."""
RENORMALISE = 1e6


class OutputLengths:
    """Of one model at one gateway."""

    def __init__(self) -> None:
        tails = [exp(-(edge - 1) / PRIOR_MEAN) for edge in _EDGES] + [0.0]
        self._weights = [PRIOR_WEIGHT * (a - b) for a, b in pairwise(tails)]
        self._unit = 1.0
        """Weight of one answer now: growing it is forgetting all others."""
        self._weight, self._tokens = PRIOR_WEIGHT, PRIOR_WEIGHT * PRIOR_MEAN
        self._below: list[float] | None = None
        self._tokens_below: list[float] = []

    def observe(self, tokens: int) -> None:
        """An answer had so many tokens."""
        if tokens < 1:
            return
        self._unit /= FORGET
        if self._unit > RENORMALISE:
            self._weights = [weight / self._unit for weight in self._weights]
            self._weight, self._tokens, self._unit = self._weight / self._unit, self._tokens / self._unit, 1.0
        self._weights[bisect_right(_EDGES, tokens) - 1] += self._unit
        self._weight += self._unit
        self._tokens += self._unit * tokens
        self._below = None

    @property
    def mean(self) -> float:
        """Tokens."""
        return self._tokens / self._weight

    def shorter(self, tokens: float) -> float:
        """The share of answers with fewer tokens than this."""
        below, _ = self._sums()
        return below[bisect_right(_EDGES, tokens) - 1] / below[-1] if tokens >= 1 else 0.0

    def shorter_running(self, tokens: float) -> float:
        """The same of answers that are being generated at any moment: the long ones are seen more often."""
        _, generated = self._sums()
        return generated[bisect_right(_EDGES, tokens) - 1] / generated[-1] if tokens >= 1 else 0.0

    def _sums(self) -> tuple[list[float], list[float]]:
        if self._below is None:
            self._below = [0.0, *accumulate(self._weights)]
            middles = ((a + b - 1) / 2 for a, b in zip(_EDGES, [*_EDGES[1:], _EDGES[-1] + 1], strict=True))
            self._tokens_below = [0.0, *accumulate(w * m for w, m in zip(self._weights, middles, strict=True))]
        return self._below, self._tokens_below
