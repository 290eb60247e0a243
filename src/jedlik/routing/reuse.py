"""What cached tokens are worth: how often requests find theirs computed already, and which prefixes are hot.

If a share h of prompt tokens is found cached somewhere, each token computed is found h / (1 - h) times before it is
evicted, on average: that is what computing one in a full cache costs whoever it displaces, and what it earns later.
A prefix that a share of requests begins with is wanted at that share of the workers.
"""

from collections import OrderedDict

FORGET = 0.998
"""Per request: a half-life of about 350."""
MOST = 32.0
"""A token is taken to be found again at most so often: the estimate of a share near one is not worth more."""
ENOUGH = 200
"""Requests: before, caches may be cold."""
PREFIXES = 4096
"""Prefixes counted; who was not seen for longest goes."""


class Reuse:
    """Of one model at one gateway."""

    def __init__(self) -> None:
        self._found = self._computed = 0.0
        self._requests = 0.0
        self._counts: OrderedDict[int, tuple[float, int]] = OrderedDict()
        """By the last block found of a prompt: (weight, number of the request it was last counted at)."""
        self._number = 0

    def observe(self, tokens: int, found: int, last_key: int | None) -> None:
        """A prompt came, of which so many tokens are cached at the worker that has most; `last_key` ends them."""
        self._found = self._found * FORGET + found
        self._computed = self._computed * FORGET + tokens - found
        self._requests = self._requests * FORGET + 1
        self._number += 1
        if last_key is not None:
            self._counts[last_key] = (self._weight(last_key) + 1, self._number)
            self._counts.move_to_end(last_key)
            if len(self._counts) > PREFIXES:
                self._counts.popitem(last=False)

    @property
    def known(self) -> bool:
        """Enough requests were seen to say."""
        return self._number >= ENOUGH

    @property
    def times(self) -> float:
        """How often a token that is computed is found again."""
        if self._found >= MOST * self._computed:
            return MOST if self._computed else 0.0
        return self._found / self._computed

    def share(self, last_key: int) -> float:
        """Of the requests lately: those that found this prefix."""
        return self._weight(last_key) / self._requests if self._requests else 0.0

    def _weight(self, key: int) -> float:
        weight, number = self._counts.get(key, (0.0, 0))
        return weight * FORGET ** (self._number - number) if weight else 0.0
