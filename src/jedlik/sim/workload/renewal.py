"""Gaps between arrivals: renewal processes with a given coefficient of variation, in units of the mean gap."""

from collections.abc import Iterator
from math import exp, lgamma, log, sqrt
from random import Random
from typing import Literal

import msgspec

Family = Literal["Gamma", "Weibull"]
LEAST_SHAPE: dict[Family, float] = {"Gamma": 1e-3, "Weibull": 0.05}
"""Below these, gaps are 0 or beyond any simulation."""


class Gaps(msgspec.Struct, frozen=True):
    """Gamma- or Weibull-distributed gaps of mean 1; shape 1 is Poisson arrivals in both, infinity a steady beat."""

    family: Family
    shape: float

    def draw(self, chance: Random) -> float:
        if self.shape == float("inf"):
            return 1.0
        if self.family == "Gamma":
            return chance.gammavariate(self.shape, 1 / self.shape)
        return chance.weibullvariate(exp(-lgamma(1 + 1 / self.shape)), self.shape)

    def first(self, chance: Random) -> float:
        """Draw the time from a moment picked at random to the next arrival: a share of a gap that is the likelier hit
        the longer."""
        if self.shape == float("inf"):
            return chance.random()
        if self.family == "Gamma":
            return chance.random() * chance.gammavariate(self.shape + 1, 1 / self.shape)
        power = log(chance.gammavariate(1 + 1 / self.shape, 1.0)) / self.shape
        return chance.random() * exp(power - lgamma(1 + 1 / self.shape))

    def arrivals(self, chance: Random, rate_rps: float, duration_s: float | None = None) -> Iterator[float]:
        """Times from 0, in order, before `duration_s`."""
        at_s = self.first(chance) / rate_rps
        while duration_s is None or at_s < duration_s:
            yield at_s
            at_s += self.draw(chance) / rate_rps


def gaps(cv: float, family: Family = "Gamma") -> Gaps:
    """Return gaps of that coefficient of variation (as far as shapes go)."""
    if cv == 0:
        return Gaps(family, float("inf"))
    return Gaps(family, max(LEAST_SHAPE["Gamma"], cv**-2) if family == "Gamma" else weibull_shape(cv))


def weibull_shape(cv: float) -> float:
    """Return the shape, by bisection: the variation falls as the shape grows."""
    low, high = LEAST_SHAPE["Weibull"], 1000.0
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if weibull_cv(middle) > cv else (low, middle)
    return low


def weibull_cv(shape: float) -> float:
    return sqrt(exp(lgamma(1 + 2 / shape) - 2 * lgamma(1 + 1 / shape)) - 1)
