"""A worker's load report: what the worker has to do now, and when the next report is due."""

from jedlik.core.config import WorkerConfig
from jedlik.core.protocol import Load
from jedlik.kv.pool import BlockPool
from jedlik.nodes.worker.pace import Pace
from jedlik.perf.paths import Paths
from jedlik.perf.step import chunk_pairs
from jedlik.scheduling.batch import Batch
from jedlik.scheduling.step_plan import StepPlan


def load_of(
    batch: Batch, pool: BlockPool, pace: Pace, flight: StepPlan | None, paths: Paths, last_submit: int, now: float
) -> Load:
    """`flight` is the step that runs, `last_submit` what the receiver's submits are known up to."""
    over, age_s = pace.progress(flight, now) if flight else (0, 0.0)
    if flight and flight.repeat > 1:
        context = flight.context + over * len(flight.decodes)
    else:
        context = sum([s.scheduled for s in batch.decoding])
    prefilling, pairs = batch.waiting.tokens, batch.waiting.pairs
    for s in batch.prefilling:
        prefilling += s.known - s.scheduled
        pairs += chunk_pairs(s.scheduled, s.known - s.scheduled)
    return Load(
        steps=pace.steps + over,
        step_age_s=age_s,
        step_predicted_s=flight.predicted_s if flight else None,
        running=batch.running,
        waiting=batch.lined_up,
        waiting_tokens=prefilling,
        context_tokens=context,
        held_blocks=pool.held_blocks,
        cached_blocks=pool.cached_blocks,
        last_submit=last_submit,
        step_s=pace.step_s,
        preemptions=batch.preemptions,
        costs=pace.costs,
        waiting_pairs=pairs,
        arriving=len(batch.arriving),
        reserved_blocks=batch.reserved,
        paths=paths.costs(now),
        step_shape=pace.shape,
    )


class LoadTimes:
    """When load reports are due: soon after a change, but not too often, and regularly without one.

    A change is that somebody comes, goes, or has a part of its prompt computed; a token more each is none.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._period_s, self._heartbeat_s = config.load_period_s, config.heartbeat_s
        self._last_s = float("-inf")
        self.changed = False

    def due_s(self) -> float:
        """When the next report is due."""
        return self._last_s + (self._period_s if self.changed else self._heartbeat_s)

    def sent(self, now: float) -> None:
        self._last_s, self.changed = now, False
