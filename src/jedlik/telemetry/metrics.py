"""A gateway's metrics: facts, load reports and deliveries become Prometheus series under the field's names.

Every series exists from the start, in base units. Labels are bounded: outcomes are a fixed set, workers are named
without their incarnation. Worker gauges say what the last load report said; `vllm:` aliases are for tools that know
those. Nothing is computed per request beyond a few additions: families are built at scrape.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from jedlik.core.effects import Deliver
from jedlik.core.facts import Answered, FirstToken, Migrated, Routed, Suspected
from jedlik.core.ids import StreamId, WorkerId
from jedlik.core.plans import Promise
from jedlik.core.protocol import Counters, Load
from jedlik.telemetry.histogram import LONG_S, Histogram
from jedlik.telemetry.kv import KvMetrics

OUTCOMES = (
    "stop",
    "length",
    "cut",
    "abandoned",
    "invalid",
    "overloaded",
    "unavailable",
    "timeout",
    "internal",
    "other",
)
SHED = ("late", "long", "harm", "deadline", "policy")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, *LONG_S)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, *LONG_S)
RATIOS = (0.01, 0.1, 0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.11, 1.25, 1.5, 2.0, 4.0, 10.0, 100.0)
PRUNE_STREAMS = 8192
PRUNE_AFTER_S = 60.0
Blocks = Callable[[], dict[str, int]]


class GatewayMetrics:
    """Collects for one gateway. `total_blocks` tells, per worker name, the size of its KV cache.

    `held_back` tells how many choices wait at the gateway; `promise` is what answers are held against.
    """

    def __init__(
        self, total_blocks: Blocks, held_back: Callable[[], int] = lambda: 0, promise: Promise | None = None
    ) -> None:
        self._total_blocks = total_blocks
        self._held_back = held_back
        self._promise = promise or Promise()
        self._by_worker: dict[str, WorkerTotals] = {}
        self._loads: dict[str, Load] = {}
        self._kv = KvMetrics()
        self._last_token: dict[StreamId, float] = {}
        self._prune_at = PRUNE_STREAMS
        self._outcomes = dict.fromkeys(OUTCOMES, 0)
        self._shed = dict.fromkeys(SHED, 0)
        self._totals = dict.fromkeys(COUNTERS, 0)
        self.ttft = Histogram("jedlik_time_to_first_token_seconds", "From arrival to the first token.", SECONDS)
        self.itl = Histogram("jedlik_inter_token_latency_seconds", "Between tokens of a stream.", TOKEN_SECONDS)
        self.queue = Histogram("jedlik_request_queue_seconds", "From dispatch to the first step, as told.", SECONDS)
        self.duration = Histogram("jedlik_request_duration_seconds", "From arrival to the end of a choice.", SECONDS)
        self.prediction = Histogram("jedlik_ttft_predicted_over_observed_ratio", "Of first tokens.", RATIOS)
        self._calibration: dict[str, float] = {}
        self._shadow: dict[tuple[str, bool], int] = {}
        self.caches: list[Callable[[], Mapping[str, tuple[int, int]]]] = []
        """Each tells items and bytes of this process's caches, by name."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def scrape(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry)

    def load(self, worker: WorkerId, load: Load) -> None:
        self._loads[name_of(worker)] = load
        self._totals_of(worker)  # its series are there from its first report on

    def counters(self, worker: WorkerId, counters: Counters) -> None:
        self._kv.take(name_of(worker), counters)

    def tokens(self, worker: WorkerId, count: int) -> None:
        """Count tokens that came from a worker."""
        self._totals_of(worker).output += count

    def lost(self, worker: WorkerId) -> None:
        self._loads.pop(name_of(worker), None)
        self._calibration.pop(name_of(worker), None)

    def kicked(self) -> None:
        self._totals["jedlik_workers_kicked"] += 1

    def delivered(self, deliver: Deliver, now: float) -> None:
        """Inter-token latencies; a stream's first token has none."""
        last, streams = self._last_token, deliver.streams
        known: float | None = None
        times = 0
        for before in map(last.get, streams):  # a step's streams mostly moved together before: counted as runs
            if before != known:
                if known is not None:
                    self.itl.observe(now - known, times)
                known, times = before, 0
            times += 1
        if known is not None:
            self.itl.observe(now - known, times)
        last.update(dict.fromkeys(streams, now))
        self._totals["jedlik_output_tokens"] += len(deliver.tokens)
        for ended in deliver.ended:
            last.pop(ended.stream, None)
        if len(last) > self._prune_at:
            self._prune(now)

    def followed_streams(self) -> int:
        """Streams whose last token's time is kept."""
        return len(self._last_token)

    def routed(self, fact: Routed) -> None:
        self._totals["jedlik_dispatches"] += fact.chosen is not None
        if fact.chosen is not None:
            sent = self._totals_of(fact.chosen)
            sent.prompt += fact.prompt_tokens
            sent.cached += next((row.cached_tokens for row in fact.candidates if row.worker == fact.chosen), 0)
        self._totals["jedlik_policy_failures"] += bool(fact.failure)
        if fact.shed:
            self._shed[fact.shed if fact.shed in self._shed else "policy"] += 1
        shadow = fact.shadow
        if shadow is not None:
            key = shadow.policy, shadow.chosen == fact.chosen
            self._shadow[key] = self._shadow.get(key, 0) + 1

    def first_token(self, fact: FirstToken) -> None:
        self._calibration[name_of(fact.worker)] = fact.ratio
        if fact.observed_s > 0:
            self.prediction.observe(fact.predicted_s / fact.observed_s)

    def migrated(self, fact: Migrated) -> None:
        self._totals["jedlik_migrations"] += 1

    def suspected(self, fact: Suspected) -> None:
        self._totals["jedlik_worker_health_changes"] += 1

    def answered(self, fact: Answered) -> None:
        self._outcomes[fact.outcome if fact.outcome in self._outcomes else "other"] += 1
        if fact.offered:
            self._totals["jedlik_requests_offered"] += 1
            self._totals["jedlik_requests_kept_slo"] += fact.met(self._promise)
        self._totals["jedlik_prefix_cache_queried_tokens"] += fact.prompt_tokens
        self._totals["jedlik_prefix_cache_hit_tokens"] += fact.cached_tokens
        self.duration.observe(fact.duration_s)
        if fact.ttft_s is not None:
            self.ttft.observe(fact.ttft_s)
        if fact.queued_s is not None:
            self.queue.observe(fact.queued_s)

    def _prune(self, now: float) -> None:
        """Streams cut or abandoned are not delivered an end: forget those that have been silent."""
        self._last_token = {s: at for s, at in self._last_token.items() if now - at < PRUNE_AFTER_S}
        self._prune_at = max(PRUNE_STREAMS, 2 * len(self._last_token))

    def collect(self) -> Iterable[Metric]:
        """Called by Prometheus' client at scrape."""
        yield from (h.family() for h in (self.ttft, self.itl, self.queue, self.duration, self.prediction))
        requests = CounterMetricFamily("jedlik_requests", "Choices ended, by outcome.", labels=["outcome"])
        for outcome, count in self._outcomes.items():
            requests.add_metric([outcome], count)
        yield requests
        shed = CounterMetricFamily("jedlik_requests_shed", "Requests refused for load, by why.", labels=["reason"])
        for reason, count in self._shed.items():
            shed.add_metric([reason], count)
        yield shed
        text = "Choices held back at the gateway for a better moment."
        yield GaugeMetricFamily("jedlik_gateway_requests_waiting", text, value=self._held_back())
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(name, text, value=self._totals[name])
        yield from self._cached()
        yield from self._workers()
        yield from self._gauges()
        yield from self._routing()
        yield from self._kv.collect()

    def _totals_of(self, worker: WorkerId) -> "WorkerTotals":
        name = name_of(worker)
        found = self._by_worker.get(name)
        if found is None:
            found = self._by_worker[name] = WorkerTotals()
        return found

    def _cached(self) -> Iterable[Metric]:
        items = GaugeMetricFamily("jedlik_gateway_cache_items", "Kept in a cache of the gateway.", labels=["cache"])
        sizes = GaugeMetricFamily("jedlik_gateway_cache_bytes", "Memory they take, about.", labels=["cache"])
        for sizes_of in self.caches:
            for name, (count, size) in sizes_of().items():
                items.add_metric([name], count)
                sizes.add_metric([name], size)
        yield from (items, sizes)

    def _workers(self) -> Iterable[Metric]:
        for name, text, value in WORKER_COUNTERS:
            family = CounterMetricFamily(name, text, labels=["worker"])
            for worker, totals in sorted(self._by_worker.items()):
                family.add_metric([worker], value(totals))
            yield family
        limits = GaugeMetricFamily("jedlik_slo_seconds", "What is promised of an answer.", labels=["of"])
        for name, limit_s in (("ttft", self._promise.ttft_s), ("itl", self._promise.itl_s)):
            if limit_s is not None:
                limits.add_metric([name], limit_s)
        yield limits
        target = GaugeMetricFamily("jedlik_slo_attainment_target_ratio", "Share of requests that should keep it.")
        if self._promise.attainment is not None:
            target.add_metric([], self._promise.attainment)
        yield target

    def _gauges(self) -> Iterable[Metric]:
        blocks = self._total_blocks()
        for name, text, value in GAUGES:
            family = GaugeMetricFamily(name, text, labels=["worker"])
            for worker, load in sorted(self._loads.items()):
                family.add_metric([worker], value(load, blocks.get(worker, 0)))
            yield family

    def _routing(self) -> Iterable[Metric]:
        text = "First tokens observed over predicted by the step model, lately: what predictions are multiplied by."
        ratios = GaugeMetricFamily("jedlik_ttft_calibration_ratio", text, labels=["worker"])
        for worker, ratio in sorted(self._calibration.items()):
            ratios.add_metric([worker], ratio)
        yield ratios
        text = "Choices of the shadow policy, by whether it agreed with the one that serves."
        decisions = CounterMetricFamily("jedlik_shadow_decisions", text, labels=["policy", "agreed"])
        for policy in sorted({policy for policy, _ in self._shadow}):
            for agreed in (True, False):
                decisions.add_metric([policy, str(agreed).lower()], self._shadow.get((policy, agreed), 0))
        yield decisions


class WorkerTotals:
    """The totals of one worker's name, over all its incarnations."""

    __slots__ = ("cached", "output", "prompt")

    def __init__(self) -> None:
        self.output = self.prompt = self.cached = 0


WORKER_COUNTERS: tuple[tuple[str, str, Callable[[WorkerTotals], int]], ...] = (
    ("jedlik_worker_output_tokens", "Tokens that came from a worker.", lambda totals: totals.output),
    ("jedlik_worker_prompt_tokens", "Prompt tokens dispatched to a worker.", lambda totals: totals.prompt),
    ("jedlik_worker_cached_tokens", "Of those, in its cache as the router saw it.", lambda totals: totals.cached),
)
COUNTERS = {
    "jedlik_requests_offered": "Choices ended that count: all but those a client gave up or got wrong.",
    "jedlik_requests_kept_slo": "Of those offered: ended well and within the SLOs (all that ended well, without any).",
    "jedlik_output_tokens": "Tokens delivered to clients.",
    "jedlik_prefix_cache_queried_tokens": "Prompt tokens of answered choices.",
    "jedlik_prefix_cache_hit_tokens": "Prompt tokens of answered choices that were found in a KV cache.",
    "jedlik_dispatches": "Attempts sent to a worker.",
    "jedlik_policy_failures": "Choices made by the default policy because the configured one failed.",
    "jedlik_migrations": "Streams that went on at another worker.",
    "jedlik_workers_kicked": "Workers cut off because they hung or lied.",
    "jedlik_worker_health_changes": "Changes of a worker's health in this gateway's eyes.",
}


def usage(load: Load, total_blocks: int) -> float:
    """Share of KV blocks that running sequences hold (block 0 is the engine's own)."""
    return load.held_blocks / (total_blocks - 1) if total_blocks > 1 else 0.0


GAUGES: tuple[tuple[str, str, Callable[[Load, int], float]], ...] = (
    ("jedlik_requests_running", "Sequences in the batch.", lambda load, _: load.running),
    ("jedlik_requests_waiting", "Sequences queued.", lambda load, _: load.waiting),
    ("jedlik_requests_arriving", "Of those queued: their blocks are on their way here.", lambda load, _: load.arriving),
    ("jedlik_kv_cache_reserved_blocks", "KV blocks that others may write.", lambda load, _: load.reserved_blocks),
    ("jedlik_waiting_tokens", "Prompt tokens not computed yet.", lambda load, _: load.waiting_tokens),
    ("jedlik_kv_cache_usage_ratio", "Share of KV blocks held by running sequences.", usage),
    ("jedlik_kv_cache_cached_blocks", "KV blocks kept for re-use only.", lambda load, _: load.cached_blocks),
    ("jedlik_steps", "Engine steps finished in this incarnation.", lambda load, _: load.steps),
    ("jedlik_step_seconds", "Recent time per engine step (exponential average).", lambda load, _: load.step_s or 0.0),
    ("jedlik_preemptions", "Preemptions in this incarnation.", lambda load, _: load.preemptions),
    ("vllm:num_requests_running", "As jedlik_requests_running.", lambda load, _: load.running),
    ("vllm:num_requests_waiting", "As jedlik_requests_waiting.", lambda load, _: load.waiting),
    ("vllm:kv_cache_usage_perc", "As jedlik_kv_cache_usage_ratio.", usage),
)


def name_of(worker: WorkerId) -> str:
    """Return a worker's name without the incarnation, which would be a new label at every restart."""
    return worker.partition("@")[0]
