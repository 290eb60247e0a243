"""What is learnt from misses: bounds, directions, and that it rests where misses are as many as wanted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.errors import Bug
from jedlik.planning.budget import CAUTION, FACTORS, LEVELS, MEMORY_S, OVERLOADED, MissBudget

PERIOD = st.tuples(
    st.integers(0, 5000),  # offered
    st.floats(0, 1),  # of them missed
    st.lists(st.floats(0, 1), max_size=4),
    st.floats(0, 120),
)


@given(st.floats(0.5, 0.999), st.lists(PERIOD, max_size=40))
def test_both_stay_within_their_bounds(attainment: float, periods: list[tuple[int, float, list[float], float]]) -> None:
    learnt = MissBudget(attainment)
    assert learnt.wanted == pytest.approx(CAUTION * (1 - attainment))
    for offered, share, predicted, period_s in periods:
        learnt.learn(offered, share * offered, predicted, period_s)
        learnt.check()


def test_nothing_offered_and_no_time_are_no_evidence() -> None:
    learnt = MissBudget(0.95)
    before = (learnt.level, learnt.factor)
    learnt.learn(0.0, 0.0, [0.5], 5.0)
    learnt.learn(100.0, 100.0, [0.0], 0.0)
    learnt.learn(-1.0, 0.0, [0.5], 5.0)
    assert (learnt.level, learnt.factor) == before == (learnt.wanted, 1.0)


@given(st.floats(0, 1), st.lists(st.floats(0, 1), max_size=4))
def test_the_factor_moves_only_where_the_model_can_tell(share: float, predicted: list[float]) -> None:
    learnt = MissBudget(0.95)
    learnt.learn(1000.0, 1000.0 * share, predicted, 5.0)
    crowded = bool(predicted) and max(predicted) > OVERLOADED and share > 3 * learnt.wanted
    inside = not predicted or min(predicted) <= share <= max(predicted)
    if crowded or inside:
        assert learnt.factor == pytest.approx(1.0)
    elif share < min(predicted):
        assert learnt.factor >= 1.0
    else:
        assert learnt.factor <= 1.0


def test_fewer_misses_than_the_model_says_are_a_worker_that_takes_more() -> None:
    much = 3 * MissBudget(0.95).wanted
    found = []
    for share, predicted, offered in ((0.0, much, 300.0), (0.0, much, 100.0), (much, 0.0, 100.0), (much, 0.0, 300.0)):
        learnt = MissBudget(0.95)
        for _ in range(3):
            learnt.learn(offered, share * offered, [predicted], 5.0)
        found.append(learnt.factor)
    assert found == sorted(found, reverse=True)
    assert found[0] > found[1] > 1.0 > found[2] > found[3]  # more requests are more evidence


def test_no_misses_and_none_predicted_say_nothing_of_the_factor() -> None:
    learnt = MissBudget(0.95)
    for _ in range(100):
        learnt.learn(100.0, 0.0, [0.0, 0.0], 5.0)
    assert learnt.factor == pytest.approx(1.0)


def test_a_wrong_model_moves_the_factor_to_its_bound_and_no_further() -> None:
    for share, predicted, bound in ((0.0, 0.2, FACTORS[1]), (0.2, 0.0, FACTORS[0])):
        learnt = MissBudget(0.95)
        for _ in range(200):
            learnt.learn(500.0, share * 500.0, [predicted], 5.0)
            learnt.check()
        assert learnt.factor == pytest.approx(bound)


@given(st.floats(0, 1))
def test_the_level_rises_without_misses_and_falls_with_too_many(share: float) -> None:
    learnt = MissBudget(0.95)
    learnt.learn(1000.0, 1000.0 * share, [], 5.0)
    if share < 0.999 * learnt.wanted:
        assert learnt.level > learnt.wanted
    elif share > 1.001 * learnt.wanted:
        assert learnt.level < learnt.wanted


def test_without_misses_the_level_rises_by_e_in_its_memory() -> None:
    learnt = MissBudget(0.95)
    for _ in range(round(MEMORY_S / 5)):
        learnt.learn(100.0, 0.0, [], 5.0)
    assert learnt.level == pytest.approx(learnt.wanted * min(2.718281828, LEVELS[1]), rel=1e-6)


@pytest.mark.parametrize("every", [1, 10])
def test_the_level_rests_where_misses_are_as_many_as_wanted(every: int) -> None:
    """Evenly, or all in one period of ten."""
    learnt = MissBudget(0.95)
    levels = []
    for at in range(2000):
        missed = every * learnt.wanted * 100 if at % every == 0 else 0.0
        learnt.learn(100.0, missed, [], 5.0)
        levels.append(learnt.level / learnt.wanted)
    assert min(levels) > 0.8
    assert max(levels) < 1.25
    assert levels[-1] == pytest.approx(1, rel=0.1)


def test_what_came_from_more_requests_weighs_more() -> None:
    """A tenth of the requests miss ten times as often as is wanted, in periods of few; nobody else does."""
    few, even = MissBudget(0.9), MissBudget(0.9)
    for learnt in (few, even):
        for _ in range(20):
            learnt.learn(100.0, 100.0 * learnt.wanted, [], 5.0)
    few.learn(10.0, 10.0 * 2 * few.wanted, [], 5.0)
    even.learn(100.0, 100.0 * 2 * even.wanted, [], 5.0)
    assert few.wanted > few.level > even.level


def test_a_level_settles_where_planning_for_it_misses_what_is_wanted() -> None:
    """A fleet that misses a part, or a multiple, of what is planned: the level goes to where that is wanted."""
    for part in (0.6, 1.0, 2.0):
        learnt = MissBudget(0.95)
        for _ in range(1500):
            learnt.learn(200.0, 200.0 * part * learnt.level, [], 5.0)
        assert learnt.level == pytest.approx(learnt.wanted / part, rel=0.05)


def test_bounds_are_checked() -> None:
    learnt = MissBudget(0.95)
    learnt.level = 100 * LEVELS[1] * learnt.wanted
    with pytest.raises(Bug, match="level"):
        learnt.check()
    learnt = MissBudget(0.95)
    learnt.factor = 2 * FACTORS[1]
    with pytest.raises(Bug, match="times what the model says"):
        learnt.check()
