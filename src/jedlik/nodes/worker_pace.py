"""How fast a worker's engine works: steps counted, averaged and learnt from; what the step in flight should take."""

from jedlik.core.protocol import StepCosts
from jedlik.core.step import StepDone
from jedlik.perf.fit import StepFit
from jedlik.perf.step import prefill_s, shape_s
from jedlik.scheduling.plan import Plan

STEP_AVERAGE = 0.1
"""Weight of the newest step in the reported average."""


class Pace:
    """Of one engine, that runs steps one after the other."""

    def __init__(self) -> None:
        self.steps = 0
        """Finished."""
        self.step_s: float | None = None
        """Exponential average."""
        self._began_s = 0.0
        self._chunks_s: float | None = None
        """What the last step with a prefill took."""
        self._fit = StepFit()

    @property
    def costs(self) -> StepCosts | None:
        return self._fit.costs

    def launch(self, plan: Plan, now: float, behind: bool) -> None:
        """This step is handed over, `behind` another one or to an idle engine."""
        plan.predicted_s = self._predicted_s(plan)
        if not behind:
            self._began_s = now

    def ended(self, plan: Plan, done: StepDone, now: float) -> None:
        """It is done; the next one, if there is one, has begun."""
        self.steps += 1
        self._began_s = now
        average = done.elapsed_s if self.step_s is None else self.step_s
        self.step_s = average + STEP_AVERAGE * (done.elapsed_s - average)
        self._fit.observe(plan.shape, done.elapsed_s)
        if plan.prefills:
            self._chunks_s = done.elapsed_s

    def age_s(self, now: float) -> float:
        """How long the step in flight has been running."""
        return now - self._began_s

    def _predicted_s(self, plan: Plan) -> float | None:
        """Costs are learnt late where nothing but a long prompt runs, and from short prompts not what context costs.

        But the next chunk takes hardly longer than the last: without that, slow ones would pass for hung.
        """
        costs = self._fit.costs
        learnt_s = None if costs is None else shape_s(costs, plan.shape)
        if not plan.prefills or self._chunks_s is None:
            return learnt_s
        return max(learnt_s or 0.0, self._chunks_s)

    def wait_s(self, tokens: int, max_step_tokens: int) -> float:
        """How long prefilling what waits would take; a second where nothing is known."""
        return prefill_s(self._fit.costs, tokens, 0, max_step_tokens) if self._fit.costs else 1.0
