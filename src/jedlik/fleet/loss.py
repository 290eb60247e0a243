"""The loss if a worker left now: work it has begun, and the cache that others' prompts find at it.

Both in seconds of its own time. What is not known counts as more than what is.
"""

from math import exp
from typing import NamedTuple

from jedlik.core.plans import WorkerSeen

HITS_TAU_S = 60.0
"""Tokens found in its cache count for about this long."""
OUTPUT_TOKENS = 256.0
"""Tokens that a running sequence still needs, where lengths of answers are not known."""


class Loss(NamedTuple):
    """The loss of one worker."""

    trusted: bool = True
    residual_s: float | None = None
    """Seconds of work that the worker has; None: not known."""
    cache_s: float | None = None
    """Prefill that its cache would save within the horizon."""

    @property
    def leaving(self) -> tuple[int, int, float]:
        """Sort key: who should leave comes first."""
        if not self.trusted:
            return (0, 0, 0.0)
        if self.residual_s is None or self.cache_s is None:
            return (1, 1, self.residual_s or 0.0)
        return (1, 0, self.residual_s + self.cache_s)

    @property
    def turning(self) -> tuple[int, int, float]:
        """Sort key: who should take another role comes first. Its cache stays of use: hand-offs pull from it."""
        return (0 if self.trusted else 1, 1 if self.residual_s is None else 0, self.residual_s or 0.0)


def residual_s(seen: WorkerSeen, output_tokens: float | None) -> float | None:
    """Seconds of work that it has: prompts to prefill, and its batch's share of steps until answers are complete."""
    if seen.costs is None:
        return None if seen.running or seen.waiting else 0.0
    costs = seen.costs
    step_s = seen.running * costs.decode_sequence_s + seen.context_tokens * costs.context_token_s
    remaining = OUTPUT_TOKENS if output_tokens is None else output_tokens
    return seen.waiting_tokens * costs.prefill_token_s * seen.correction + step_s * remaining


def cache_s(seen: WorkerSeen, hits_per_s: float, horizon_s: float) -> float | None:
    """Prefill seconds that its cache saves in the horizon."""
    if seen.costs is None:
        return None if hits_per_s > 0 else 0.0
    return hits_per_s * seen.costs.prefill_token_s * horizon_s


class Hits:
    """Tokens per second found in one worker's cache, all gateways together: an exponential average."""

    __slots__ = ("_at", "_rate")

    def __init__(self, now: float) -> None:
        self._rate = 0.0
        self._at = now

    def add(self, tokens: int, now: float) -> None:
        self._rate = self.per_s(now) + tokens / HITS_TAU_S
        self._at = now

    def per_s(self, now: float) -> float:
        return self._rate * exp(-max(0.0, now - self._at) / HITS_TAU_S)
