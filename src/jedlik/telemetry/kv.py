"""Counts of blocks on the move: a worker counts its facts here, a gateway shows what its workers told.

What travels is cumulative since the worker began (`core/protocol.Counters`), so nothing is lost with a message or with
a gateway. Labels are bounded: a name outside the known sets becomes "other".
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from jedlik.core.facts import Carried, Fact, Fetched, HandedOff, Offloaded, Verified
from jedlik.core.moves import TIERS
from jedlik.core.protocol import Count, Counters, Submit
from jedlik.core.sums import float_sum
from jedlik.telemetry.histogram import LONG_S

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, *LONG_S)
OTHER = "other"
SHADOW = "shadow"
"""Why blocks came that nobody read: they are compared with computed ones."""
KNOWN = {
    "kind": ("prefill", "pull"),
    "tier": TIERS[1:],
    "path": ("shm", "tcp", "nixl", "copy", "file", "object", "sim", "none"),
    "handoff_cause": ("refused", "late", "gone", "memory", "cancelled"),
    "cause": ("late", "cancelled", "gone", "corrupt", "stale", "missing", "failed", "full", "dropped"),
}


class Family(NamedTuple):
    """One metric: what it says, its labels (after `worker`), and whether it is a histogram."""

    text: str
    labels: tuple[str, ...] = ()
    seconds: bool = False


STARTED, COMPLETED, FALLBACKS = "jedlik_handoff_started", "jedlik_handoff_completed", "jedlik_handoff_fallbacks"
FAMILIES = {
    STARTED: Family("Hand-offs that a worker asked another one for.", ("kind",)),
    COMPLETED: Family("Hand-offs whose blocks all came.", ("kind",)),
    FALLBACKS: Family("Hand-offs whose rest was computed by the worker that asked, by why.", ("handoff_cause",)),
    "jedlik_handoff_tokens": Family("Prompt tokens whose KV came from another worker."),
    "jedlik_handoff_blocks": Family("Blocks that came from another worker."),
    "jedlik_handoff_bytes": Family("Bytes of blocks sent to other workers."),
    "jedlik_handoff_seconds": Family("From asking for a hand-off to its end.", (), True),
    "jedlik_tier_hits": Family("Blocks wanted from a tier that came, whole and verified.", ("tier",)),
    "jedlik_tier_misses": Family("Blocks wanted from a tier that did not come, by why.", ("tier", "cause")),
    "jedlik_tier_load_seconds": Family("From wanting blocks of a tier to having them.", ("tier",), True),
    "jedlik_tier_loaded_bytes": Family("Bytes read from a tier.", ("tier",)),
    "jedlik_tier_stored": Family("Blocks copied to a tier.", ("tier",)),
    "jedlik_tier_not_stored": Family("Blocks meant for a tier that were not copied there, by why.", ("tier", "cause")),
    "jedlik_tier_stored_bytes": Family("Bytes written to a tier.", ("tier",)),
    "jedlik_tier_verified": Family("Blocks of a tier that were computed as well, and compared.", ("tier",)),
    "jedlik_tier_differing": Family("Of those compared: blocks that hold something else.", ("tier",)),
    "jedlik_transfer_blocks": Family("Blocks carried, by what carried them.", ("path",)),
    "jedlik_transfer_bytes": Family("Bytes carried.", ("path",)),
    "jedlik_transfer_failures": Family("Moves that did not bring all their blocks, by why.", ("path", "cause")),
    "jedlik_transfer_seconds": Family("Of a move, from its beginning to its end.", ("path",), True),
    "jedlik_transfer_queue_seconds": Family("Of a move, before it began.", ("path",), True),
}  # fmt: skip
Key = tuple[str, tuple[str, ...]]


class KvCounts:
    """The counts of KV movement of one worker. It fulfils `live/worker.WorkerTelemetry`."""

    def __init__(self) -> None:
        self._values: dict[Key, list[float]] = {}
        self._counters: Counters | None = None
        for name in (COMPLETED, STARTED):
            for kind in KNOWN["kind"]:
                self._add(name, 0, kind)
        for cause in KNOWN["handoff_cause"]:
            self._add(FALLBACKS, 0, cause)

    def asked(self, submit: Submit) -> None:
        if submit.push is not None:
            self._add(STARTED, 1, _kind(submit.push.compute))

    def fact(self, fact: Fact) -> None:
        match fact:
            case HandedOff():
                self._handed_off(fact)
            case Fetched() if fact.cause != SHADOW:
                self._add("jedlik_tier_hits", fact.blocks, fact.tier)
                if fact.blocks < fact.wanted:
                    self._add("jedlik_tier_misses", fact.wanted - fact.blocks, fact.tier, fact.cause)
                self._observe("jedlik_tier_load_seconds", fact.elapsed_s, fact.tier)
            case Verified():
                self._add("jedlik_tier_verified", fact.blocks, fact.tier)
                self._add("jedlik_tier_differing", fact.differing, fact.tier)
            case Offloaded():
                self._add("jedlik_tier_stored", fact.blocks, fact.tier)
                if fact.blocks < fact.wanted:
                    self._add("jedlik_tier_not_stored", fact.wanted - fact.blocks, fact.tier, fact.cause)
            case Carried():
                self._carried(fact)

    def counters(self) -> Counters:
        """All of them, since this worker began; the same object while nothing has changed."""
        if self._counters is None:
            rows = sorted(self._values.items())
            self._counters = Counters([Count(name, labels, tuple(values)) for (name, labels), values in rows])
        return self._counters

    def _handed_off(self, fact: HandedOff) -> None:
        if fact.cause:
            self._add(FALLBACKS, 1, fact.cause)
        else:
            self._add(COMPLETED, 1, _kind(fact.compute))
        self._add("jedlik_handoff_tokens", fact.tokens)
        self._add("jedlik_handoff_blocks", fact.blocks)
        self._observe("jedlik_handoff_seconds", fact.elapsed_s)

    def _carried(self, fact: Carried) -> None:
        path = fact.path or "none"
        self._add("jedlik_transfer_blocks", fact.blocks, path)
        self._add("jedlik_transfer_bytes", fact.size_bytes, path)
        if fact.cause:
            self._add("jedlik_transfer_failures", 1, path, fact.cause)
        self._observe("jedlik_transfer_seconds", fact.elapsed_s, path)
        self._observe("jedlik_transfer_queue_seconds", fact.queued_s, path)
        if fact.target not in TIERS:  # of another worker
            self._add("jedlik_handoff_bytes", fact.size_bytes)
        elif fact.target != "device":
            self._add("jedlik_tier_stored_bytes", fact.size_bytes, fact.target)
        if fact.source in TIERS and fact.source != "device":
            self._add("jedlik_tier_loaded_bytes", fact.size_bytes, fact.source)

    def _add(self, name: str, by: float, *labels: str) -> None:
        self._row(name, labels, 1)[0] += by

    def _observe(self, name: str, value: float, *labels: str) -> None:
        row = self._row(name, labels, len(SECONDS) + 2)
        row[0] += value
        row[1 + bisect_left(SECONDS, value)] += 1

    def _row(self, name: str, labels: tuple[str, ...], size: int) -> list[float]:
        bounded = tuple(
            label if label in KNOWN[kind] else OTHER
            for kind, label in zip(FAMILIES[name].labels, labels, strict=True)
        )  # fmt: skip
        self._counters = None
        return self._values.setdefault((name, bounded), [0.0] * size)


class KvMetrics:
    """The counts of a gateway's workers, by name. A restarted worker goes on under its name, from zero."""

    def __init__(self) -> None:
        self._counters: dict[str, Counters] = {}

    def take(self, worker: str, counters: Counters) -> None:
        """Replaces what it told before. Series that are not known here, or of another shape, are left out."""
        self._counters[worker] = Counters([count for count in counters.counts if _known(count)])

    def collect(self) -> Iterable[Metric]:
        rows: dict[str, list[tuple[list[str], tuple[float, ...]]]] = {}
        for worker, counters in sorted(self._counters.items()):
            for count in counters.counts:
                rows.setdefault(count.name, []).append(([worker, *count.labels], count.values))
        for name, family in FAMILIES.items():
            yield _metric(name, family, rows.get(name, ()))
        text = "Hand-offs that a worker asked for and that have not ended."
        flying = GaugeMetricFamily("jedlik_handoff_in_flight", text, labels=["worker"])
        for worker, counters in sorted(self._counters.items()):
            flying.add_metric([worker], _in_flight({(c.name, c.labels): c.values for c in counters.counts}))
        yield flying


def _kind(compute: bool) -> str:
    return "prefill" if compute else "pull"


def _known(count: Count) -> bool:
    family = FAMILIES.get(count.name)
    if family is None or len(count.labels) != len(family.labels):
        return False
    allowed = all(label in (*KNOWN[kind], OTHER) for kind, label in zip(family.labels, count.labels, strict=True))
    return allowed and len(count.values) == (len(SECONDS) + 2 if family.seconds else 1)


def _metric(name: str, family: Family, rows: Iterable[tuple[list[str], tuple[float, ...]]]) -> Metric:
    labels = ["worker", *(label.removeprefix("handoff_") for label in family.labels)]
    if not family.seconds:
        counter = CounterMetricFamily(name, family.text, labels=labels)
        for names, values in rows:
            counter.add_metric(names, values[0])
        return counter
    bounds = [*(format(bound, "g") for bound in SECONDS), "+Inf"]
    histogram = HistogramMetricFamily(name, family.text, labels=labels)
    for names, values in rows:
        histogram.add_metric(names, list(zip(bounds, map(float, accumulate(values[1:])), strict=True)), values[0])
    return histogram


def _in_flight(values: Mapping[Key, tuple[float, ...]]) -> float:
    """Started, less what has ended."""
    started = float_sum(value[0] for (name, _), value in values.items() if name == STARTED)
    return started - float_sum(value[0] for (name, _), value in values.items() if name in (COMPLETED, FALLBACKS))
