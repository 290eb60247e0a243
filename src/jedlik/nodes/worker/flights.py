"""The steps of a worker that are handed over: one runs, one waits behind it; or a leap, and nothing behind.

A leap ends early if live would have planned otherwise meanwhile. Then live had handed over the step after it already,
before whatever came up: with run-ahead that one is planned first, for those who run only.
"""

from collections import deque
from collections.abc import Iterator

from jedlik.core.effects import EndLeap, RunStep, WorkerEffect
from jedlik.core.errors import Bug
from jedlik.core.step import StepDone
from jedlik.nodes.worker.pace import Pace
from jedlik.scheduling.batch import Batch
from jedlik.scheduling.step_plan import StepPlan


class Flights:
    """In order. `depth`: how many at once."""

    def __init__(self, batch: Batch, pace: Pace, depth: int) -> None:
        self._batch, self._pace, self._depth = batch, pace, depth
        self._plans: deque[StepPlan] = deque()
        self._landed = False
        """A leap has just ended."""

    def __iter__(self) -> Iterator[StepPlan]:
        return iter(self._plans)

    def __len__(self) -> int:
        return len(self._plans)

    @property
    def running(self) -> StepPlan | None:
        """The one that the engine works on."""
        return self._plans[0] if self._plans else None

    def land(self, done: StepDone) -> StepPlan:
        """The first has ended. Raises Bug if the answer is another's."""
        plan = self._plans.popleft() if self._plans else None
        if plan is None or plan.step_id != done.step_id:
            raise Bug(f"step {done.step_id} ended; in flight: {plan and plan.step_id}")
        if done.error is not None:
            return plan
        if done.lanes != plan.sampled_lanes():
            raise Bug(f"step {done.step_id} answers for lanes {done.lanes}, asked were {plan.sampled_lanes()}")
        self._landed = plan.repeat > 1
        if done.steps != plan.repeat:
            self._batch.shorten(plan, done.steps)
        return plan

    def abandon(self) -> None:
        """The engine is gone: nothing is handed over any more."""
        self._plans.clear()
        self._depth = 0

    def late(self, now: float) -> bool:
        """A leap runs that should be over."""
        return bool(self._plans) and self._plans[0].repeat > 1 and self._pace.late(self._plans[0], now)

    def plan(self, now: float, out: list[WorkerEffect]) -> None:
        """Hand over what can be planned."""
        plans, depth = self._plans, self._depth
        if self._landed and depth > 1:
            self._launch(self._batch.plan(now, admit=False), now, out)
        self._landed = False
        while not plans or len(plans) < depth or plans[-1].repeat > 1:
            if plans and plans[-1].repeat > 1 and not self._end_leap(plans[-1], now, out):
                return
            if len(plans) >= depth or not self._launch(self._batch.plan(now), now, out):
                return

    def _launch(self, plan: StepPlan | None, now: float, out: list[WorkerEffect]) -> bool:
        if plan is None:
            return False
        self._pace.launch(plan, now, behind=bool(self._plans))
        self._plans.append(plan)
        out.append(RunStep(plan.step()))
        return True

    def _end_leap(self, leap: StepPlan, now: float, out: list[WorkerEffect]) -> bool:
        """End a leap if something came up. True if it has not begun: it is one step now, and planning goes on."""
        runs = len(self._plans) == 1
        if leap.interrupted or not (self._batch.unplanned(leap) or (runs and self._pace.late(leap, now))):
            return False
        out.append(EndLeap(leap.step_id))
        if runs:
            leap.interrupted = True
        else:
            self._batch.shorten(leap, 1)
        return not runs

    def check(self) -> None:
        """Every sequence knows how many steps in flight name it, and how many moves read its blocks."""
        named = dict(self._batch.readers)
        for plan in self._plans:
            for s in (*plan.chunked, *plan.decoded):
                named[s.number] = named.get(s.number, 0) + 1
        for s in self._batch.everyone():
            assert s.in_flight == named.pop(s.number, 0)
        assert not named
        assert len(self._plans) <= max(1, self._depth)
