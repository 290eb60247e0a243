"""What would be lost with a worker, and how long starts take."""

from math import exp

import pytest
from msgspec.structs import replace

from jedlik.core.protocol import StepCosts
from jedlik.fleet.loss import HITS_TAU_S, Hits, Loss, cache_s, residual_s
from jedlik.fleet.starts import Starts
from seen_given import worker_seen

SEEN = worker_seen(
    running=4,
    waiting=1,
    waiting_tokens=1000,
    context_tokens=2000,
    costs=StepCosts.of([0.005, 0.001, 0.0, 0.002, 0.00001]),
    correction=2.0,
)


def test_residual_work_is_prompts_to_prefill_and_its_share_of_steps_to_come() -> None:
    assert residual_s(SEEN, 100.0) == pytest.approx(1000 * 0.001 * 2.0 + (4 * 0.002 + 2000 * 0.00001) * 100)
    assert residual_s(replace(SEEN, costs=None), 100.0) is None
    assert residual_s(replace(SEEN, costs=None, running=0, waiting=0), 100.0) == 0.0


def test_a_cache_is_worth_the_prefill_that_it_saves() -> None:
    hits = Hits(0.0)
    for second in range(600):
        hits.add(500, float(second))
    assert hits.per_s(599.0) == pytest.approx(500.0, rel=0.02)
    assert hits.per_s(599.0 + HITS_TAU_S) == pytest.approx(500.0 * exp(-1), rel=0.02)
    assert cache_s(SEEN, 500.0, 120.0) == pytest.approx(60.0)
    assert cache_s(replace(SEEN, costs=None), 500.0, 120.0) is None
    assert cache_s(replace(SEEN, costs=None), 0.0, 120.0) == 0.0


def test_what_is_not_known_counts_as_more_than_what_is() -> None:
    order = [Loss(False, None, None), Loss(True, 1.0, 5.0), Loss(True, 9.0, 0.0), Loss(True, 1.0, None), Loss()]
    assert sorted(order, key=lambda loss: loss.leaving)[:3] == order[:3]
    turning = [Loss(True, 1.0, 99.0), Loss(True, 2.0, 0.0), Loss(), Loss(False, 0.0, 0.0)]
    backwards = list(reversed(turning))
    assert sorted(backwards, key=lambda loss: loss.turning) == turning


def test_start_up_time_is_told_or_learnt() -> None:
    told, learnt = Starts(12.0), Starts(None)
    assert (told.expected_s, learnt.expected_s, learnt.late_s) == (12.0, 30.0, 300.0)
    for start_s in (40.0, 50.0, 60.0, 20.0):
        told.took(start_s)
        learnt.took(start_s)
    assert (told.expected_s, learnt.expected_s, learnt.late_s) == (12.0, 45.0, 450.0)
    learnt.took(90.0)
    assert learnt.expected_s == 90.0
