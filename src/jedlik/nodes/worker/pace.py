"""The pace of a worker's engine: steps counted, averaged and learnt from; what the step in flight should take.

A load report says what a worker has to do now: it is counted here from batch, pool, pace and paths.
"""

from jedlik.core.protocol import Load, StepCosts
from jedlik.core.step import StepDone
from jedlik.kv.pool import BlockPool
from jedlik.perf.fit import Corrected, StepFit
from jedlik.perf.model import decode_line, leap_s, steps_begun
from jedlik.perf.paths import Paths
from jedlik.perf.step import StepShape, chunk_pairs, prefill_s, shape_s
from jedlik.scheduling.batch import Batch
from jedlik.scheduling.step_plan import StepPlan

STEP_AVERAGE = 0.1
"""Weight of the newest step in the reported average."""
SHAPE_AVERAGE = 0.02
"""The weight of the newest step in the average step shape, which covers about the last fifty steps."""


class StepPace:
    """The pace of one engine that runs steps one after the other. `profile`: what they should take; None: it is
    learnt."""

    def __init__(self, profile: StepCosts | None = None) -> None:
        self.steps = 0
        """Finished."""
        self.step_s: float | None = None
        """Exponential average."""
        self.shape: tuple[float, float, float, float] | None = None
        """The average shape of recently finished steps, as in `StepShape`."""
        self._began_s = 0.0
        self._chunks_s: float | None = None
        """What the last step with a prefill took."""
        self._fit = StepFit() if profile is None else Corrected(profile)

    @property
    def costs(self) -> StepCosts | None:
        return self._fit.costs

    def launch(self, plan: StepPlan, now: float, behind: bool) -> None:
        """This step is handed over, `behind` another one or to an idle engine."""
        plan.predicted_s = self._predicted_s(plan)
        if not behind:
            self._began_s = now

    def ended(self, plan: StepPlan, done: StepDone, now: float) -> None:
        """Record that a step is done; the next one, if there is one, has begun."""
        steps, shape, elapsed_s, weight = done.steps, plan.shape, done.elapsed_s, STEP_AVERAGE
        if steps > 1:
            elapsed_s /= steps
            weight = 1 - (1 - STEP_AVERAGE) ** steps
            context = shape.context_tokens + shape.decode_sequences * (steps - 1) // 2
            shape = StepShape(0, 0, shape.decode_sequences, context)
        self.steps += steps
        self._began_s = now
        average = elapsed_s if self.step_s is None else self.step_s
        self.step_s = average + weight * (elapsed_s - average)
        self._fit.observe(shape, elapsed_s, steps)
        self._remember(shape, steps)
        if plan.prefills:
            self._chunks_s = done.elapsed_s

    def _remember(self, shape: StepShape, steps: int) -> None:
        tokens, pairs, sequences, context = self.shape or shape
        weight = SHAPE_AVERAGE if steps == 1 else 1 - (1 - SHAPE_AVERAGE) ** steps
        self.shape = (
            tokens + weight * (shape.prefill_tokens - tokens),
            pairs + weight * (shape.prefill_pairs - pairs),
            sequences + weight * (shape.decode_sequences - sequences),
            context + weight * (shape.context_tokens - context),
        )

    def progress(self, plan: StepPlan, now: float) -> tuple[int, float]:
        """(steps of a leap that should be over by now, how long the step in flight has been running)."""
        age_s, costs = now - self._began_s, self._fit.costs
        if plan.repeat == 1 or costs is None:
            return 0, age_s
        sequences = len(plan.decodes)
        line = decode_line(costs, sequences)
        over = min(plan.repeat, steps_begun(line, sequences, plan.context, age_s)) - 1
        return over, max(0.0, age_s - leap_s(line, sequences, plan.context, over))

    def late(self, leap: StepPlan, now: float) -> bool:
        """A leap that runs should be over: the engine is slower than believed, and live would know by now."""
        costs = self._fit.costs
        if costs is None:
            return False
        sequences = len(leap.decodes)
        line = decode_line(costs, sequences)
        return now - self._began_s > leap_s(line, sequences, leap.context, leap.repeat + 1)

    def _predicted_s(self, plan: StepPlan) -> float | None:
        """Costs are learnt late where nothing but a long prompt runs, and from short prompts not what context costs.

        But the next chunk takes hardly longer than the last: without that, slow ones would pass for hung.
        """
        costs = self._fit.costs
        learnt_s = None if costs is None else shape_s(costs, plan.shape)
        if not plan.prefills or self._chunks_s is None:
            return learnt_s
        return max(learnt_s or 0.0, self._chunks_s)

    def wait_s(self, tokens: int, max_step_tokens: int) -> float:
        """Return the seconds that prefilling what waits would take; a second where nothing is known."""
        return prefill_s(self._fit.costs, tokens, 0, max_step_tokens) if self._fit.costs else 1.0


def load_of(
    batch: Batch,
    pool: BlockPool,
    pace: StepPace,
    flight: StepPlan | None,
    paths: Paths,
    *,
    last_submit: int,
    now: float,
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
