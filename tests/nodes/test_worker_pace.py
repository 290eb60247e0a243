"""What a step in flight should take, before and after costs are learnt."""

from jedlik.core.ids import Lane
from jedlik.core.step import Chunk, StepDone
from jedlik.nodes.worker.pace import StepPace
from jedlik.scheduling.step_plan import StepPlan


def plan(step_id: int, prefill_tokens: int, pairs: int = 0) -> StepPlan:
    made = StepPlan(step_id, [])
    if prefill_tokens:
        made.prefills.append(Chunk(Lane(0), 0, prefill_tokens, False))
        made.prefill_tokens, made.pairs = prefill_tokens, pairs
    else:
        made.decodes.append(Lane(0))
    return made


def ran(pace: StepPace, step: StepPlan, elapsed_s: float) -> float | None:
    pace.launch(step, 0.0, behind=False)
    pace.ended(step, StepDone(step_id=step.step_id, lanes=[], tokens=[], elapsed_s=elapsed_s), elapsed_s)
    return step.predicted_s


def test_a_long_prompt_on_a_fresh_worker_is_predicted_by_its_last_chunk() -> None:
    pace = StepPace()
    assert [ran(pace, plan(n, 512), 1.0 + n) for n in range(4)] == [None, 1.0, 2.0, 3.0]
    assert pace.costs is None
    assert ran(pace, plan(5, 0), 0.01) is None  # a decode is no chunk
    assert ran(pace, plan(6, 512), 5.0) == 4.0


def test_a_chunk_with_much_context_is_not_judged_by_short_prompts_alone() -> None:
    pace = StepPace()
    for n in range(12):
        ran(pace, plan(n, 64), 0.01)
        ran(pace, plan(n, 0), 0.005)
    assert pace.costs is not None
    assert (ran(pace, plan(30, 512, 512 * 4000), 3.0) or 0.0) < 0.2
    assert ran(pace, plan(31, 512, 512 * 4500), 3.3) == 3.0
    assert (ran(pace, plan(32, 0), 0.005) or 1.0) < 0.1  # a hung decode is found as soon as before
