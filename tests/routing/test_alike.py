"""What workers of one kind share of step times and corrections, and who is left out as slow."""

import pytest
from fleets import COSTS, IDLE, card
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from jedlik.core.ids import WorkerId
from jedlik.core.protocol import Load, State, StepCosts
from jedlik.routing.alike import MOST_STEPS, REST_S, SLOWER
from jedlik.routing.view import Fleet, WorkerView

SHAPE = (50.0, 5000.0, 2.0, 400.0)


def times(factor: float) -> StepCosts:
    return COSTS.scaled(factor)


def told(factor: float, steps: int = 100, busy: int = 0) -> Load:
    return replace(IDLE, steps=steps, running=busy, costs=times(factor), step_shape=SHAPE)


def fleet_of(*factors: float) -> tuple[Fleet, list[WorkerView]]:
    """Workers that have learnt so many times the usual costs, in the order in which they told."""
    fleet = Fleet()
    views = [fleet.add(card(f"w{number}")) for number in range(len(factors))]
    for view, factor in zip(views, factors, strict=True):
        view.report(told(factor))
    return fleet, views


def factors(views: list[WorkerView]) -> list[float]:
    """What routing counts for each, as a multiple of the usual."""
    return [view.costs.base_s / COSTS.base_s for view in views if view.costs is not None]


def test_noise_is_averaged() -> None:
    _, views = fleet_of(0.95, 1.0, 1.08)
    assert factors(views) == pytest.approx([1.01] * 3)
    assert views[0].costs is views[1].costs is views[2].costs


def test_who_has_seen_more_steps_counts_for_more() -> None:
    _, views = fleet_of(1.0, 1.2)
    views[0].report(told(1.1, steps=10 * MOST_STEPS))
    views[1].report(told(1.0, steps=MOST_STEPS))
    assert factors(views) == pytest.approx([1.05] * 2)
    views[1].report(told(1.2, steps=MOST_STEPS // 4))
    assert factors(views) == pytest.approx([1.12] * 2)


def test_a_slow_one_counts_by_its_own_figures_and_spoils_no_mean() -> None:
    _, views = fleet_of(1.0, 1.0, 1.0, 3.0)
    assert factors(views) == pytest.approx([1.0, 1.0, 1.0, 3.0])
    views[3].report(told(1.1))
    assert factors(views) == pytest.approx([1.025] * 4)
    views[3].report(told(2.0))
    assert factors(views) == pytest.approx([1.0, 1.0, 1.0, 2.0])


def test_a_slow_one_is_tried_again_when_it_has_rested() -> None:
    _, views = fleet_of(1.0, 1.0, 3.0)
    for now in (1.0, 0.9 * REST_S):
        views[2].report(told(3.0), now)
        assert factors(views) == pytest.approx([1.0, 1.0, 3.0])
    views[2].report(told(3.0), REST_S)
    assert factors(views) == pytest.approx([1.0, 1.0, 1.0])
    views[2].report(told(3.0, steps=101), REST_S + 1.0)  # it was given a request, and is as slow as before
    assert factors(views) == pytest.approx([1.0, 1.0, 3.0])


def test_one_that_became_slow_is_left_out_with_its_next_report() -> None:
    _, views = fleet_of(1.0, SLOWER - 0.01)
    assert factors(views) == pytest.approx([(1.0 + SLOWER - 0.01) / 2] * 2)
    views[1].report(told(SLOWER + 0.01))
    assert factors(views) == pytest.approx([1.0, SLOWER + 0.01])


def test_who_does_not_tell_what_its_steps_are_like_shares_nothing() -> None:
    _, views = fleet_of(1.0, 1.1)
    views[0].report(replace(told(2.0), step_shape=None))
    assert factors(views) == pytest.approx([2.0, 1.1])


def test_who_has_run_no_step_yet_is_taken_to_be_like_the_others() -> None:
    fleet, views = fleet_of(1.0, 1.1)
    fresh = fleet.add(card("w9"))
    assert fresh.costs is None
    fresh.report(replace(IDLE, steps=0, costs=times(2.0)))
    assert factors([*views, fresh]) == pytest.approx([1.05] * 3)


def test_what_one_told_is_forgotten_when_it_leaves_or_changes_its_role() -> None:
    fleet, views = fleet_of(1.0, 1.2, 1.1)
    fleet.remove(WorkerId("w1@1"))
    assert factors([views[0], views[2]]) == pytest.approx([1.05] * 2)
    fleet.assume(views[2], State(1, "prefill"))
    assert factors([views[0], views[2]]) == pytest.approx([1.0, 1.1])


def test_corrections_of_idle_workers_are_shared_those_under_load_are_their_own() -> None:
    _, views = fleet_of(1.0, 1.0, 1.0)
    assert [view.correction for view in views] == [1.0] * 3
    views[0].correct(1.2)
    views[1].correct(1.4)
    assert [view.correction for view in views] == pytest.approx([1.3] * 3)
    views[1].report(told(1.0, busy=2))
    assert [view.correction for view in views] == pytest.approx([1.3, 1.4, 1.3])
    views[2].correct(4.0)
    assert views[2].correction == pytest.approx(2.2)
    views[2].correct(None)
    assert views[2].correction == pytest.approx(1.3)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.5, 0.9, 1.0, 1.1, 3.0]), st.integers(1, 900)), max_size=60)
)
def test_whatever_was_told_a_mean_stays_within_what_counts(reports: list[tuple[int, float, int]]) -> None:
    fleet, views = fleet_of(1.0, 1.0, 1.0, 1.0)
    for at, factor, steps in reports:
        views[at].report(told(factor, steps))
        assert all(0.5 - 1e-9 <= found <= 3.0 + 1e-9 for found in factors(views))
    for view in views:
        fleet.remove(view.card.worker)
    last = fleet.add(card("w9"))
    last.report(told(1.0))
    assert last.costs == times(1.0)
