"""One step ahead, from what was seen at equal intervals: the predictors of Dynamo's planner.

Constant is as published (core/load/predictors.py).
Dynamo's default is pmdarima's auto_arima. `AutoRegressive` stands for it and is what can be fitted on the few points
there are: AR(0..2) of the values or of their differences, by least squares, stationary ones only, the order by AICc; no
moving-average part. As there: the last value until there are five, values that never changed stay, and where no
autoregression helps (order (0, d, 0)) it is fitted again on log(1 + value). Leading zeros are not counted; nothing
below zero is predicted.
"""

from collections.abc import Sequence
from math import expm1, isfinite, log, log1p
from typing import Protocol

import numpy as np
import numpy.typing as npt

LEAST_POINTS = 5
ORDERS = (0, 1, 2)
Floats = npt.NDArray[np.float64]


class Predictor(Protocol):
    def add(self, value: float) -> None: ...

    def next(self) -> float: ...


class Constant:
    """The last value."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add(self, value: float) -> None:
        if value or self.values:
            self.values.append(value)

    def next(self) -> float:
        return self.values[-1] if self.values else 0.0


class AutoRegressive(Constant):
    """See the module."""

    def next(self) -> float:
        values = self.values
        if len(values) < LEAST_POINTS or len(set(values)) == 1:
            return super().next()
        order, forecast = fitted(values)
        if not order:
            forecast = expm1(min(fitted([log1p(value) for value in values])[1], 700.0))
        return max(0.0, forecast) if isfinite(forecast) else super().next()


def fitted(values: Sequence[float]) -> tuple[int, float]:
    """(p, the next value) of the best AR(p) of the values or of their differences."""
    found = []
    for differences in (0, 1):
        series = np.diff(np.asarray(values, np.float64), differences)
        for order in ORDERS:
            # All are judged by their errors at the same points: a difference's error is the value's.
            points = len(values) - 1 - max(ORDERS)
            judged = _judged(series, order, points)
            if judged is not None:
                score, ahead = judged
                found.append((score, differences, order, ahead + (values[-1] if differences else 0.0)))
    _, _, order, forecast = min(found)
    return order, forecast


def _judged(series: Floats, order: int, points: int) -> tuple[float, float] | None:
    """(AICc, the next value) of an AR of that order with a constant; None: too few points, or not stationary."""
    free = order + 2  # coefficients, constant, variance
    if points <= free + 1 and order:
        return None
    rows = np.column_stack([np.ones(points), *(series[-points - lag : -lag] for lag in range(1, order + 1))])
    weights = np.linalg.lstsq(rows, series[-points:], rcond=None)[0]
    if not _stationary([float(weight) for weight in weights[1:]]):
        return None
    errors = series[-points:] - rows @ weights
    variance = max(float(errors @ errors) / points, 1e-12)
    small = 2 * free * (free + 1) / max(points - free - 1, 0.5)
    ahead = float(weights[0] + sum(weights[lag] * series[-lag] for lag in range(1, order + 1)))
    return points * log(variance) + 2 * free + small, ahead


def _stationary(weights: Sequence[float]) -> bool:
    """Of order two and less."""
    first, second = (*weights, 0.0, 0.0)[:2]
    return abs(second) < 1 and first + second < 1 and second - first < 1
