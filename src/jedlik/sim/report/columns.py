"""A run's requests as arrays, one entry per request: a million of them are summed, sorted and binned in a moment."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jedlik.sim.outcome import Outcome

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


class Slo(NamedTuple):
    """The limits within which an answer is good; None: there is no such limit."""

    ttft_s: float | None = None
    itl_s: float | None = None


class RequestColumns(NamedTuple):
    """The requests of a run, in the order of its outcomes."""

    arrived_s: Floats
    ttft_s: Floats
    """The time to the first token; NaN: no token came."""
    itl_s: Floats
    """The mean time between tokens; NaN: fewer than two tokens came."""
    ended_s: Floats
    prompt_tokens: Floats
    cached_tokens: Floats
    output_tokens: Floats
    worker: Indices
    attempts: Indices
    ok: Flags
    shed: Flags

    def good(self, slo: Slo) -> Flags:
        """Return which requests ended well within both limits; an answer of one token has no ITL and is within it."""
        good = self.ok.copy()
        if slo.ttft_s is not None:
            good &= self.ttft_s <= slo.ttft_s
        if slo.itl_s is not None:
            good &= np.isnan(self.itl_s) | (self.itl_s <= slo.itl_s)
        return good


def columns(outcomes: list[Outcome]) -> RequestColumns:
    """Return outcomes as columns."""

    def floats(of: Callable[[Outcome], float | None]) -> Floats:
        return np.array([of(outcome) for outcome in outcomes], dtype=np.float64)

    def integers(of: Callable[[Outcome], int]) -> Indices:
        return np.array([of(outcome) for outcome in outcomes], dtype=np.int64)

    def flags(of: Callable[[Outcome], bool]) -> Flags:
        return np.array([of(outcome) for outcome in outcomes], dtype=np.bool_)

    return RequestColumns(
        arrived_s=floats(lambda o: o.arrived_s),
        ttft_s=floats(lambda o: o.ttft_s),
        itl_s=floats(lambda o: o.itl_s),
        ended_s=floats(lambda o: o.ended_s),
        prompt_tokens=floats(lambda o: o.prompt_tokens),
        cached_tokens=floats(lambda o: o.cached_tokens),
        output_tokens=floats(lambda o: o.output_tokens),
        worker=integers(lambda o: o.worker),
        attempts=integers(lambda o: o.attempts),
        ok=flags(lambda o: o.ok),
        shed=flags(lambda o: o.outcome == "overloaded"),
    )
