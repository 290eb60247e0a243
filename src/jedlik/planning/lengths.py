"""Lengths in buckets on a logarithmic scale, as gateways report them, and what follows from them.

A bucket is about 25 % wide: its middle stands for all lengths in it. Pure arithmetic; all sizes are tokens.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import floor, log

from jedlik.core.plans import BUCKET_RATIO
from jedlik.core.sums import float_sum

_LOG = log(BUCKET_RATIO)


@lru_cache(maxsize=4096)
def bucket_of(tokens: int) -> int:
    """The bucket of a length; of 0 and less as of 1."""
    return floor(log(max(1, tokens)) / _LOG + 1e-9)


def middle(bucket: int) -> float:
    """The geometric middle of a bucket's lengths."""
    return float(BUCKET_RATIO ** (bucket + 0.5))


def add(total: dict[int, float], more: Mapping[int, float], weight: float = 1.0) -> None:
    """Add counts by bucket, in place."""
    for bucket, count in more.items():
        total[bucket] = total.get(bucket, 0.0) + weight * count


def shares(counts: Mapping[int, float], mean_tokens: float | None = None) -> Iterator[tuple[float, float]]:
    """(length, share of all) of each bucket, shortest first; nothing where nothing was counted.

    `mean_tokens`: of all, where it is known: lengths are scaled to it, for a bucket alone is a rough guess.
    """
    whole = float_sum(counts.values())
    if whole <= 0:
        return
    guess = float_sum(middle(bucket) * count for bucket, count in counts.items()) / whole
    scale = 1.0 if mean_tokens is None else mean_tokens / guess
    for bucket in sorted(counts):
        if counts[bucket] > 0:
            yield middle(bucket) * scale, counts[bucket] / whole


def quantile(counts: Mapping[int, float], share: float) -> float | None:
    """The length that this share of all does not exceed; None where nothing was counted."""
    below = 0.0
    found = None
    for length, part in shares(counts):
        found = length
        below += part
        if below >= share - 1e-12:
            break
    return found


def mean(counts: Mapping[int, float]) -> float | None:
    """Return the mean length; None where nothing was counted."""
    parts = list(shares(counts))
    return float_sum(length * part for length, part in parts) if parts else None
