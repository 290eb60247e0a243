"""The telemetry of a gateway: facts become metrics and, one line a request, log lines."""

from jedlik.core.effects import Deliver
from jedlik.core.events import WorkerMessage
from jedlik.core.facts import (
    Answered,
    Carried,
    Fact,
    Fetched,
    FirstToken,
    HandedOff,
    Migrated,
    Offloaded,
    Routed,
    StepRan,
    Suspected,
    Verified,
)
from jedlik.core.ids import WorkerId
from jedlik.core.protocol import Counters, Load, Tokens
from jedlik.telemetry.log import Log
from jedlik.telemetry.metrics import GatewayMetrics

MAX_FAILURES = 100


class GatewayMonitor:
    """Turns a gateway's facts into metrics and log lines. It fulfils `live/gateway.GatewayTelemetry`."""

    def __init__(self, metrics: GatewayMetrics, log: Log, *, log_requests: bool) -> None:
        self._metrics = metrics
        self._log = log
        self._log_requests = log_requests
        self._failures: set[str] = set()
        """What has been said of policies that failed: once each, they fail at every request."""

    def heard(self, worker: WorkerId, message: WorkerMessage) -> None:
        match message:
            case Tokens():
                self._metrics.tokens(worker, len(message.tokens))
            case Load():
                self._metrics.load(worker, message)
            case _:
                pass  # what these change is seen in the next load report

    def counters(self, worker: WorkerId, counters: Counters) -> None:
        self._metrics.counters(worker, counters)

    def lost(self, worker: WorkerId) -> None:
        self._metrics.lost(worker)

    def delivered(self, deliver: Deliver, now: float) -> None:
        self._metrics.delivered(deliver, now)

    def kicked(self, worker: WorkerId, reason: str, dead: bool) -> None:
        self._metrics.kicked()
        self._log.line("kicked", worker=worker, reason=reason, killed=dead)

    def fact(self, fact: Fact) -> None:
        match fact:
            case Answered():
                self._metrics.answered(fact)
                if self._log_requests:
                    self._log.answered(fact)
            case Routed():
                self._metrics.routed(fact)
                self._failed(fact)
            case FirstToken():
                self._metrics.first_token(fact)
            case Migrated():
                self._metrics.migrated(fact)
                values = {"attempt": fact.attempt, "delivered": fact.delivered, "reason": fact.reason}
                self._log.line("migrated", request_id=fact.request_id, **values)
            case Suspected():
                self._metrics.suspected(fact)
                self._log.line("worker", worker=fact.worker, health=fact.health, reason=fact.reason)
            case StepRan() | HandedOff() | Fetched() | Offloaded() | Verified() | Carried():
                pass  # a worker's own

    def _failed(self, fact: Routed) -> None:
        shadow = fact.shadow.failure if fact.shadow is not None else ""
        for failure in (fact.failure, shadow):
            if failure and failure not in self._failures and len(self._failures) < MAX_FAILURES:
                self._failures.add(failure)
                self._log.line("policy", request_id=fact.request_id, failure=failure)
