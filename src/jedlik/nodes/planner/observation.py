"""The reports of gateways put together: demand since the planner was last asked, workers as last seen, and whether all
of that can be believed.

A gateway that has not reported for three of its periods makes all stale, as does having none; a newer incarnation of
a gateway takes its predecessor's place. Demand is given out only when every gateway that can be believed has reported
since: half a view is no view.
"""

from collections.abc import Iterable, Mapping, Sequence

from jedlik.core.ids import GatewayId, WorkerId
from jedlik.core.plans import Demand, Report, WorkerSeen
from jedlik.core.sums import float_sum
from jedlik.fleet.loss import Hits, Loss, cache_s, residual_s

STALE_PERIODS = 3.0
FORGET_S = 600.0
NOTHING = Demand(
    arrived=0,
    prompt_tokens=0,
    prompts={},
    answered=0,
    answered_prompt_tokens=0,
    cached_tokens=0,
    output_tokens=0,
    outputs={},
    refused=0,
    failed=0,
    met=0,
    missed_alone=0,
    ttft_sum_s=0.0,
    itl_sum_s=0.0,
    itl_count=0,
)


class _Gateway:
    """One gateway: its last report, and what is not given out yet."""

    __slots__ = ("fresh", "heard_at", "last", "period_s", "usual_s")

    def __init__(self, report: Report, now: float) -> None:
        self.last = report
        self.heard_at = now
        self.fresh: list[Demand] = []
        self.period_s = 0.0
        """That `fresh` covers."""
        self.usual_s = report.period_s


class Observation:
    """The observation of one fleet."""

    def __init__(self) -> None:
        self._gateways: dict[GatewayId, _Gateway] = {}
        self._hits: dict[WorkerId, Hits] = {}
        self._heard_at: dict[WorkerId, float] = {}
        self._output_tokens: float | None = None
        self._workers: dict[WorkerId, WorkerSeen] | None = None
        """`workers()`, until something is said."""
        self.whole_since = 0.0
        """Since then the same gateways have reported without a gap."""
        self.last_demand = NOTHING
        self.last_period_s = 0.0

    def take(self, report: Report, now: float) -> None:
        """A gateway's period; one that is not newer than its last is dropped."""
        known = self._gateways.get(report.gateway)
        if known is not None and report.at <= known.last.at:
            return
        if known is None:
            self._supersede(report.gateway)
            known = self._gateways[report.gateway] = _Gateway(report, now)
            self.whole_since = now
        elif _late(known, now):
            self.whole_since = now
        known.usual_s = max(report.period_s, known.last.period_s)
        known.last, known.heard_at = report, now
        self._workers = None
        known.fresh.append(report.demand)
        known.period_s += report.period_s
        for seen in report.workers:
            self._heard_at[seen.worker] = max(self._heard_at.get(seen.worker, now - seen.age_s), now - seen.age_s)
            self._hits.setdefault(seen.worker, Hits(now)).add(seen.hit_tokens, now)

    def gone(self, gateway: GatewayId) -> None:
        """Forget a gateway that has ended."""
        self._gateways.pop(gateway, None)
        self._workers = None

    def forget(self, worker: WorkerId) -> None:
        """This incarnation has ended."""
        self._hits.pop(worker, None)
        self._heard_at.pop(worker, None)

    def stale(self, now: float) -> list[str]:
        """Gateways that should have reported and have not; "none has reported" where there is none."""
        if not self._gateways:
            return ["none has reported"]
        return [name for name, gateway in sorted(self._gateways.items()) if _late(gateway, now)]

    @property
    def heard_at(self) -> Mapping[WorkerId, float]:
        """When any gateway last heard of each worker."""
        return self._heard_at

    def waiting(self) -> tuple[int, int]:
        """(choices, prompt tokens) at gateways."""
        reports = [gateway.last for gateway in self._gateways.values()]
        return sum(report.waiting for report in reports), sum(report.waiting_tokens for report in reports)

    def workers(self) -> dict[WorkerId, WorkerSeen]:
        """Return the workers as last seen, by id: of several gateways' views the one of the latest load report."""
        if self._workers is not None:
            return self._workers
        best: dict[WorkerId, tuple[float, WorkerSeen]] = {}
        for _, gateway in sorted(self._gateways.items()):
            for seen in gateway.last.workers:
                heard_at = gateway.heard_at - seen.age_s
                if seen.worker not in best or heard_at > best[seen.worker][0]:
                    best[seen.worker] = (heard_at, seen)
        self._workers = {worker: best[worker][1] for worker in sorted(best)}
        return self._workers

    def demand(self, now: float) -> tuple[Demand, float]:
        """(demand, seconds that it covers) since the last call; nothing, and 0 s, while somebody's is missing."""
        reporting = [gateway for gateway in self._gateways.values() if gateway.fresh]
        if not reporting or any(not gateway.fresh and not _late(gateway, now) for gateway in self._gateways.values()):
            return NOTHING, 0.0
        total = add(demand for gateway in reporting for demand in gateway.fresh)
        period_s = _period_s(reporting)
        for gateway in reporting:
            gateway.fresh, gateway.period_s = [], 0.0
        self._prune(now)
        self.last_demand, self.last_period_s = total, period_s
        if total.answered:
            self._output_tokens = total.output_tokens / total.answered
        return total, period_s

    def promises(self) -> tuple[float | None, float | None]:
        """(time to first token, time between tokens) that gateways say they keep."""
        ttft = [r.slo_ttft_s for r in self._last() if r.slo_ttft_s is not None]
        itl = [r.slo_itl_s for r in self._last() if r.slo_itl_s is not None]
        return min(ttft, default=None), min(itl, default=None)

    def loss(self, seen: WorkerSeen | None, horizon_s: float, now: float) -> Loss:
        """Return what would be lost with this worker; None: no gateway sees it."""
        if seen is None:
            return Loss()
        hits = self._hits.get(seen.worker)
        per_s = 0.0 if hits is None else hits.per_s(now)
        return Loss(seen.trusted, residual_s(seen, self._output_tokens), cache_s(seen, per_s, horizon_s))

    def _last(self) -> list[Report]:
        return [gateway.last for gateway in self._gateways.values()]

    def _prune(self, now: float) -> None:
        """Forget workers that nobody has named for long."""
        for worker in [worker for worker, at in self._heard_at.items() if now - at > FORGET_S]:
            self.forget(worker)

    def _supersede(self, gateway: GatewayId) -> None:
        name = gateway.rpartition("@")[0]
        for other in [other for other in self._gateways if name and other.rpartition("@")[0] == name]:
            self.gone(other)


def urgent(report: Report, slo_ttft_s: float | None) -> bool:
    """Whether a backlog can't wait for the next tick: somebody waits for a worker, or a worker has more prompts than
    it can prefill in time."""
    if report.waiting:
        return True
    if slo_ttft_s is None:
        return False
    return any(
        seen.costs is not None and seen.waiting_tokens * seen.costs.prefill_token_s * seen.correction > slo_ttft_s
        for seen in report.workers
        if seen.trusted and not seen.draining
    )


def add(demands: Iterable[Demand]) -> Demand:
    """Return the sum of demands."""
    total = NOTHING
    for one in demands:
        total = Demand(
            arrived=total.arrived + one.arrived,
            prompt_tokens=total.prompt_tokens + one.prompt_tokens,
            prompts=_counts(total.prompts, one.prompts),
            answered=total.answered + one.answered,
            answered_prompt_tokens=total.answered_prompt_tokens + one.answered_prompt_tokens,
            cached_tokens=total.cached_tokens + one.cached_tokens,
            output_tokens=total.output_tokens + one.output_tokens,
            outputs=_counts(total.outputs, one.outputs),
            refused=total.refused + one.refused,
            failed=total.failed + one.failed,
            met=total.met + one.met,
            missed_alone=total.missed_alone + one.missed_alone,
            ttft_sum_s=total.ttft_sum_s + one.ttft_sum_s,
            itl_sum_s=total.itl_sum_s + one.itl_sum_s,
            itl_count=total.itl_count + one.itl_count,
        )
    return total


def _period_s(gateways: Sequence[_Gateway]) -> float:
    """Such that what arrived in it, divided by it, is the sum of the gateways' rates: periods may differ."""
    arrived = [sum(demand.arrived for demand in gateway.fresh) for gateway in gateways]
    rate = float_sum(
        count / gateway.period_s for count, gateway in zip(arrived, gateways, strict=True) if gateway.period_s
    )
    return sum(arrived) / rate if rate else max(gateway.period_s for gateway in gateways)


def _counts(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    return {bucket: one.get(bucket, 0) + other.get(bucket, 0) for bucket in sorted({**one, **other})}


def _late(gateway: _Gateway, now: float) -> bool:
    return now - gateway.heard_at > STALE_PERIODS * gateway.usual_s
