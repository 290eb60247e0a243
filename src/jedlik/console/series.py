"""The numbers of Prometheus text, and what two readings of it show: increases and quantiles.

A series that does not exist is None: unknown is not zero. A counter that is smaller than before
began again from zero, because its process did.
"""

from collections.abc import Iterator, Mapping
from math import inf, isinf

from prometheus_client.parser import text_string_to_metric_families

from jedlik.core.errors import ConfigError
from jedlik.core.sums import float_sum

Labels = frozenset[tuple[str, str]]


class Series:
    """One reading of /metrics."""

    def __init__(self, values: Mapping[str, Mapping[Labels, float]]) -> None:
        self._values = values

    def total(self, name: str, **labels: str) -> float | None:
        """Return the sum over all series that have these labels; None where there is none."""
        found = [value for _, value in self._matching(name, labels)]
        return float_sum(found) if found else None

    def named(self, name: str, label: str, **labels: str) -> set[str]:
        """Return the values of a label."""
        return {dict(key).get(label, "") for key, _ in self._matching(name, labels)}

    def increase(self, before: "Series | None", name: str, **labels: str) -> float | None:
        """Return the increase since `before`, or since the beginning without it. None means that there is no such
        series."""
        matching = list(self._matching(name, labels))
        if not matching:
            return None
        return float_sum(_since(value, before, name, key) for key, value in matching)

    def quantile(self, before: "Series | None", name: str, share: float) -> float | None:
        """Return a quantile of a histogram's observations since `before`, interpolated within its bucket; None without
        any.

        Beyond the last bound nothing is known but that: it is the answer.
        """
        counts: dict[float, float] = {}
        for key, value in self._matching(f"{name}_bucket", {}):
            bound = float(dict(key).get("le", "nan"))
            counts[bound] = counts.get(bound, 0.0) + _since(value, before, f"{name}_bucket", key)
        bounds = sorted(counts)
        if not bounds or counts[bounds[-1]] <= 0:
            return None
        wanted, low, below = share * counts[bounds[-1]], 0.0, 0.0
        for bound in bounds:
            count = counts[bound]
            if count >= wanted and count > below:
                return low if isinf(bound) else low + (bound - low) * (wanted - below) / (count - below)
            low, below = (low if isinf(bound) else bound), max(below, count)
        return low

    def _matching(self, name: str, labels: Mapping[str, str]) -> Iterator[tuple[Labels, float]]:
        wanted = frozenset(labels.items())
        return ((key, value) for key, value in self._values.get(name, {}).items() if wanted <= key)

    def value(self, name: str, key: Labels) -> float:
        """Return the value of exactly these labels; 0 where nothing has been counted yet."""
        return self._values.get(name, {}).get(key, 0.0)


def _since(value: float, before: Series | None, name: str, key: Labels) -> float:
    earlier = 0.0 if before is None else before.value(name, key)
    return value - earlier if value >= earlier else value


def read(body: bytes) -> Series:
    """Parse a text. Raises ConfigError."""
    values: dict[str, dict[Labels, float]] = {}
    try:
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                if abs(sample.value) < inf:
                    values.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    except (ValueError, KeyError, IndexError) as error:
        raise ConfigError(f"/metrics is not Prometheus text: {error}") from error
    return Series(values)
