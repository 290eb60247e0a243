"""The gateway's report to the planner: requests of a period, their outcomes, and the state of workers.

Sums and buckets only, so that a report is as small after a thousand requests as after ten. Whether a request could
have met its promise at all is judged by the step model of the fastest worker, with as much cached as anybody had.
"""

from collections.abc import Iterable
from math import inf

from jedlik.core.config import GatewayConfig
from jedlik.core.facts import Answered
from jedlik.core.ids import GatewayId, WorkerId
from jedlik.core.plans import Demand, Promise, Report, WorkerSeen
from jedlik.nodes.gateway.streams import Peer, Stream
from jedlik.perf.step import prefill_s
from jedlik.planning.lengths import bucket_of
from jedlik.routing.view import WorkerView


class Tally:
    """The counts of the period that runs."""

    def __init__(self, config: GatewayConfig) -> None:
        self._promise = Promise(config.slo_ttft_s, config.slo_itl_s)
        self._began_at: float | None = None
        self._clear()

    def _clear(self) -> None:
        self._arrived = self._prompt_tokens = self._answered = self._answered_prompt = self._cached = 0
        self._output_tokens = self._refused = self._failed = self._met = self._missed_alone = self._itl_count = 0
        self._ttft_sum_s = self._itl_sum_s = 0.0
        self._prompts: dict[int, int] = {}
        self._outputs: dict[int, int] = {}
        self._hits: dict[WorkerId, int] = {}

    def arrived(self, prompt_tokens: int, choices: int) -> None:
        """Count a request that has arrived."""
        self._arrived += choices
        self._prompt_tokens += prompt_tokens * choices
        bucket = bucket_of(prompt_tokens)
        self._prompts[bucket] = self._prompts.get(bucket, 0) + choices

    def ended(self, fact: Answered, stream: Stream | None, fleet: Iterable[WorkerView]) -> None:
        """Count a choice that has ended; `stream` is None if it was never taken in."""
        met = fact.met(self._promise)
        if fact.well:
            self._well(fact, met)
            worker = stream.routed.chosen if stream is not None and stream.routed is not None else None
            if worker is not None:
                self._hits[worker] = self._hits.get(worker, 0) + fact.cached_tokens
        elif fact.outcome == "overloaded":
            self._refused += 1
        else:
            self._failed += fact.offered
            return
        self._missed_alone += not met and not self._attainable(fact, stream, fleet)

    def _well(self, fact: Answered, met: bool) -> None:
        self._answered += 1
        self._answered_prompt += fact.prompt_tokens
        self._cached += fact.cached_tokens
        self._output_tokens += fact.output_tokens
        bucket = bucket_of(fact.output_tokens)
        self._outputs[bucket] = self._outputs.get(bucket, 0) + 1
        self._ttft_sum_s += fact.ttft_s or 0.0
        if fact.itl_s is not None:
            self._itl_sum_s += fact.itl_s
            self._itl_count += 1
        self._met += met

    def _attainable(self, fact: Answered, stream: Stream | None, fleet: Iterable[WorkerView]) -> bool:
        """Return whether an idle worker could have met its time to first token."""
        limit_s = self._promise.ttft_s
        if limit_s is None:
            return True
        cached = fact.cached_tokens
        if stream is not None and stream.routed is not None:
            cached = max([cached, *(one.cached_tokens for one in stream.routed.candidates)])
        best_s = inf
        for view in fleet:
            costs = view.costs
            if costs is not None:
                own = max(1, fact.prompt_tokens - cached)
                best_s = min(best_s, prefill_s(costs, own, fact.prompt_tokens - own, view.card.max_step_tokens))
        return best_s == inf or best_s <= limit_s

    def due_s(self, now: float, period_s: float) -> float:
        """Return when the period that runs is over; the first begins now."""
        if self._began_at is None:
            self._began_at = now
        return self._began_at + period_s

    def report(
        self, gateway: GatewayId, peers: Iterable[Peer], idle: list[Stream], in_flight: int, now: float
    ) -> Report:
        """Return the report of the period that ends now; another begins. `idle`: choices that wait here."""
        began_at, self._began_at = (now if self._began_at is None else self._began_at), now
        seen = [_seen(peer, self._hits.get(peer.id, 0), now) for peer in peers if peer.view.load is not None]
        report = Report(
            gateway=gateway,
            at=now,
            period_s=now - began_at,
            demand=self._demand(),
            waiting=len(idle),
            waiting_tokens=sum(stream.history_tokens() for stream in idle),
            in_flight=in_flight,
            workers=sorted(seen, key=lambda one: one.worker),
            slo_ttft_s=self._promise.ttft_s,
            slo_itl_s=self._promise.itl_s,
        )
        self._clear()
        return report

    def _demand(self) -> Demand:
        return Demand(
            arrived=self._arrived,
            prompt_tokens=self._prompt_tokens,
            prompts=self._prompts,
            answered=self._answered,
            answered_prompt_tokens=self._answered_prompt,
            cached_tokens=self._cached,
            output_tokens=self._output_tokens,
            outputs=self._outputs,
            refused=self._refused,
            failed=self._failed,
            met=self._met,
            missed_alone=self._missed_alone,
            ttft_sum_s=self._ttft_sum_s,
            itl_sum_s=self._itl_sum_s,
            itl_count=self._itl_count,
        )


def _seen(peer: Peer, hit_tokens: int, now: float) -> WorkerSeen:
    view, card, load = peer.view, peer.view.card, peer.view.load
    assert load is not None
    return WorkerSeen(
        worker=peer.id,
        name=card.name,
        role=peer.role(),
        draining=view.state.draining,
        trusted=view.suspect is None,
        age_s=now - peer.heard_at,
        running=load.running,
        waiting=load.waiting,
        waiting_tokens=load.waiting_tokens,
        context_tokens=load.context_tokens,
        held_blocks=load.held_blocks,
        total_blocks=card.total_blocks,
        block_size=card.layout.block_size,
        max_sequences=card.max_sequences,
        max_step_tokens=card.max_step_tokens,
        step_s=load.step_s,
        costs=load.costs if load.costs is not None else view.costs,
        correction=view.correction,
        hit_tokens=hit_tokens,
    )
