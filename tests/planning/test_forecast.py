"""What to provide for: steady, swinging and bursty loads, and each step of the judgement against the plain way."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jedlik.planning.forecast import (
    FEW,
    GROWTH,
    HISTORY,
    PRIOR_BINS,
    PRIOR_RATIOS,
    RISE_LEAST,
    RISE_MOST,
    SEASON_LEAST,
    Expert,
    Floats,
    Forecast,
    Provision,
    Task,
    bins_of,
    correlations,
    experts,
    explained,
    judged,
    least_factor,
    means,
    season,
    steepest,
    sustained,
)

BEARABLE = 0.035
LISTS = partial(st.lists, st.floats(0, 50))
EACH = 0.02
"""Engine seconds of one request in the loads below: 20 requests/s are a load of 0.4."""


def provided(
    loads: Floats, bins: int, kept_bins: int = 1, chance: float = 0.0, since: int = 0
) -> list[Provision | None]:
    """Said after each bin from `since` on, for so many bins ahead."""
    forecast, found = Forecast(), []
    for at, load in enumerate(loads):
        forecast.push(float(load), chance * float(load))
        if at >= since:
            found.append(forecast.provide(bins, BEARABLE, kept_bins))
    return found


def cost_and_missed(found: list[Provision | None], loads: Floats, bins: int, since: int) -> tuple[float, float]:
    """(provided over what came, share of what came beyond what was provided); the first was said at `since`."""
    said = np.array([0.0 if told is None else told.load for told in found[:-bins]])
    came = loads[since + bins :]
    return float(said.sum() / came.sum()), float(np.maximum(0, came - said).sum() / came.sum())


def poisson(rate: Floats, bin_s: float, seed: int) -> Floats:
    """Loads that requests of `EACH` bring, arriving at random at `rate` requests/s."""
    arrived: Floats = np.random.default_rng(seed).poisson(rate * bin_s).astype(np.float64)
    return arrived * EACH / bin_s


# --- whole ----------------------------------------------------------------------------------------------------------


def test_too_few_bins_say_nothing() -> None:
    found = provided(np.full(FEW + 2, 3.0), 4)
    assert found[: FEW - 1] == [None] * (FEW - 1)
    assert all(told is not None for told in found[FEW - 1 :])
    assert Forecast().last is None
    assert Forecast().period is None


@pytest.mark.parametrize("bins", [1, 12, 60])
def test_a_load_that_never_changes_is_provided_for_as_it_is(bins: int) -> None:
    found = [told for told in provided(np.full(120, 3.0), bins, bins) if told is not None]
    assert len(found) == 121 - FEW
    assert all(told.expected == pytest.approx(3.0) for told in found)
    assert all(3.0 * (1 - 2 * BEARABLE) <= told.load <= 3.0 * max(PRIOR_RATIOS) for told in found)
    assert all(told.load == pytest.approx(3.0, rel=0.15) for told in found[60 + bins :])
    assert len({told.expert for told in found[bins + 12 :]}) <= 2
    assert len({told.expert for told in found[60:]}) == 1


def test_no_load_at_all_is_provided_for_with_nothing() -> None:
    for told in provided(np.zeros(40), 6)[FEW:]:
        assert told is not None
        assert told.load == told.expected == told.missed == 0.0


@pytest.mark.parametrize("seed", range(2))
def test_steady_arrivals_at_random_are_provided_for_near_their_mean(seed: int) -> None:
    loads = poisson(np.full(300, 20.0), 5.0, seed)
    late = [told for told in provided(loads, 12, 12, EACH / 5.0, 180) if told is not None]
    assert len(late) == 120
    assert all(told.load == pytest.approx(0.4, rel=0.15) for told in late)
    assert sum(one.expert != other.expert for one, other in pairwise(late)) <= 6


def test_a_swing_is_foreseen_once_it_has_been_seen() -> None:
    period, ahead, since = 60, 6, 240
    rate = 25 - 20 * np.cos(2 * np.pi * np.arange(6 * period) / period)
    loads = poisson(rate, 10.0, 7)
    forecast, found = Forecast(), []
    for at, load in enumerate(loads):
        forecast.push(float(load), EACH * float(load) / 10.0)
        if at >= since:
            found.append(forecast.provide(ahead, BEARABLE))
    cost, missed = cost_and_missed(found, loads, ahead, since)
    assert cost < 1.25
    assert missed < 3 * BEARABLE
    assert forecast.period is not None
    repeats = forecast.period / period  # whole periods repeat as well
    assert repeats == pytest.approx(max(1, round(repeats)), rel=0.05)
    now, came = cost * loads[since:-ahead], loads[since + ahead :]
    assert np.maximum(0, came - now).sum() / came.sum() > 2 * missed  # as much, of the load as it is


@pytest.mark.parametrize("seed", range(2))
def test_bursts_at_random_are_missed_about_as_often_as_is_bearable(seed: int) -> None:
    rng = np.random.default_rng(seed)
    loads = np.full(600, 1.0)
    for begin in rng.choice(590, 40, replace=False):
        loads[begin : begin + rng.integers(2, 8)] += rng.uniform(0.5, 2)
    _, missed = cost_and_missed(provided(loads, 6, 6, since=300), loads, 6, 300)
    assert BEARABLE / 3 <= missed <= 3 * BEARABLE


def test_a_load_that_grows_is_provided_for_ahead_of_time() -> None:
    loads = np.linspace(1, 9, 120)
    (told,) = provided(loads, 12, since=119)
    assert told is not None
    assert told.load >= loads[-1] * 1.02
    assert told.load <= loads[-1] + 3 * 12 * (8 / 119)


def test_what_is_bearable_and_how_far_it_is_decide_the_headroom() -> None:
    rng = np.random.default_rng(3)
    loads = np.abs(np.cumsum(rng.normal(0, 0.2, 300)) + 8)
    forecast = Forecast()
    for load in loads:
        forecast.push(float(load), 0.0)
    near, far = (forecast.provide(bins, BEARABLE) for bins in (1, 30))
    strict = forecast.provide(30, BEARABLE / 10)
    assert near is not None
    assert far is not None
    assert strict is not None
    assert near.load / near.expected < far.load / far.expected
    assert far.load <= strict.load


def test_only_so_much_is_remembered_but_all_is_counted() -> None:
    forecast = Forecast()
    for load in range(3 * HISTORY):
        forecast.push(float(load), 0.0)
    assert len(forecast) == 3 * HISTORY
    assert forecast.last == 3 * HISTORY - 1
    told = forecast.provide(1, BEARABLE)
    assert told is not None
    assert told.load == pytest.approx(3 * HISTORY, rel=0.1)


@given(st.lists(st.floats(0, 1e3), min_size=FEW, max_size=50), st.integers(1, 40), st.integers(1, 40))
def test_whatever_came_what_is_said_is_finite_and_no_steeper_than_may_be(
    values: list[float], bins: int, kept_bins: int
) -> None:
    loads = np.array(values)
    (told,) = provided(loads, bins, kept_bins, since=len(loads) - 1)
    assert told is not None
    assert 0 <= told.load <= steepest(loads, bins) + 1e-9
    assert 0 <= told.expected <= GROWTH * loads.max()
    assert -1e-9 <= told.missed <= 1 + 1e-9


def test_the_same_loads_say_the_same() -> None:
    loads = poisson(np.full(110, 15.0), 5.0, 1)
    assert provided(loads, 8, 8, EACH, 80) == provided(loads, 8, 8, EACH, 80)


# --- parts ----------------------------------------------------------------------------------------------------------


@given(LISTS(min_size=1, max_size=60), st.integers(1, 70))
def test_means_are_of_the_last_bins(values: list[float], window: int) -> None:
    found = means(np.concatenate([[0.0], np.cumsum(values)]), window)
    for at in range(len(values)):
        part = values[max(0, at - window + 1) : at + 1]
        assert found[at] == pytest.approx(sum(part) / len(part), abs=1e-9)


@given(LISTS(min_size=1, max_size=80), st.integers(1, 90))
def test_a_load_may_rise_by_its_steepest_rise_or_a_part_of_itself(values: list[float], bins: int) -> None:
    loads = np.array(values)
    level = [float(loads[max(0, at - 2) : at + 1].mean()) for at in range(len(loads))]
    rises = [level[at + bins] - level[at] for at in range(len(level) - bins)]
    rise = max([RISE_LEAST * level[-1], *rises])
    assert steepest(loads, bins) == pytest.approx(level[-1] + RISE_MOST * rise, abs=1e-9)


@given(LISTS(min_size=0, max_size=60), st.integers(1, 70))
def test_what_is_kept_is_a_running_maximum(values: list[float], bins: int) -> None:
    expected = [max(values[max(0, at - bins + 1) : at + 1]) for at in range(len(values))]
    assert sustained(np.array(values), bins).tolist() == expected


@given(st.integers(12, 120), st.integers(0, 10_000), st.floats(0, 100))
def test_correlations_are_pearsons(size: int, seed: int, trend: float) -> None:
    values = np.random.default_rng(seed).normal(5, 2, size) + np.linspace(0, trend, size)
    found = correlations(values)
    for lag in range(1, size - 4):
        assert found[lag] == pytest.approx(np.corrcoef(values[:-lag], values[lag:])[0, 1], abs=1e-6)
    assert found[0] == pytest.approx(1)


@pytest.mark.parametrize("period", [20, 47, 120])
def test_a_period_is_found_through_noise(period: int) -> None:
    for periods in (2.5, 4.0, 7.3):
        at = np.arange(int(periods * period))
        loads = poisson(25 - 15 * np.cos(2 * np.pi * at / period), 5.0, period)
        found = season(loads)
        assert found is not None
        assert found / period == pytest.approx(max(1, round(found / period)), abs=0.05)


def test_what_does_not_repeat_has_no_period() -> None:
    rng = np.random.default_rng(5)
    assert season(np.full(300, 2.0)) is None
    assert season(np.zeros(300)) is None
    assert season(poisson(np.full(600, 20.0), 5.0, 2)) is None
    assert season(rng.exponential(1.0, 500)) is None
    assert season(np.tile([1.0, 5.0], SEASON_LEAST)) is None  # too little of it


@given(LISTS(min_size=1, max_size=60), st.floats(0, 30))
def test_chance_is_taken_out_of_errors_as_far_as_it_explains_them(errors: list[float], variance: float) -> None:
    signed = np.array(errors) * np.where(np.arange(len(errors)) % 2, -1, 1)
    weights = np.linspace(0.5, 1, len(errors))
    left = explained(signed, np.full(len(errors), variance), weights)
    whole = float(weights @ signed**2)
    assert float(weights @ left**2) == pytest.approx(max(0.0, whole - variance * weights.sum()), rel=1e-6, abs=1e-6)
    assert np.all(left * signed >= 0)


def shortfall(factor: float, beyond: Floats, unit: Floats, weights: Floats, plain: float, mean: float) -> float:
    """Weighted work on top of the base and `factor` units, the prior's bins counted in."""
    above = float(weights @ np.maximum(0, beyond - factor * unit))
    each = PRIOR_BINS / len(PRIOR_RATIOS)
    return above + sum(each * max(0.0, mean * (ratio - (1 - plain)) - factor * mean) for ratio in PRIOR_RATIOS)


@given(
    st.lists(st.tuples(st.floats(-5, 20), st.floats(0, 10), st.floats(0.1, 1)), min_size=1, max_size=25),
    st.floats(0.01, 0.3),
    st.sampled_from([0.0, 1.0]),
    st.floats(0.1, 10),
)
def test_the_least_factor_is_the_least(
    bins: list[tuple[float, float, float]], bearable: float, plain: float, mean: float
) -> None:
    beyond, unit, weights = (np.array(column) for column in zip(*bins, strict=True))
    unit = np.where(unit < 0.05, 0.0, unit)  # a unit is nothing or something
    bound = bearable * (float(weights.sum()) + PRIOR_BINS) * mean
    lost = float(weights @ np.where(unit <= 0, np.maximum(0, beyond), 0))
    assume(lost < bound)
    found = least_factor(beyond, unit, weights, bearable, plain, mean)
    short = partial(shortfall, beyond=beyond, unit=unit, weights=weights, plain=plain, mean=mean)
    assert found >= 0
    assert short(found) <= bound + 1e-6
    if found > 1e-6:
        assert short(found * (1 - 1e-3) - 1e-6) >= bound - 1e-9
    low, high = 0.0, 1000.0  # searched by halves
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if short(middle) <= bound else (middle, high)
    assert found == pytest.approx(high, abs=1e-6)


def test_work_that_no_factor_provides_for_uses_up_what_is_bearable() -> None:
    weights = np.ones(76)
    unit, beyond = np.ones(76), np.ones(76)
    before = least_factor(beyond, unit, weights, 0.1, 1.0, 1.0)
    unit[0], beyond[0] = 0.0, 5.0
    after = least_factor(beyond, unit, weights, 0.1, 1.0, 1.0)
    assert before < after  # five of the ten that may be missed are lost
    beyond[0] = 50.0
    assert least_factor(beyond, unit, weights, 0.1, 1.0, 1.0) == pytest.approx(max(PRIOR_RATIOS))


def test_nothing_to_provide_for_needs_no_factor() -> None:
    nothing = np.zeros(3)
    assert least_factor(nothing - 2, nothing + 1, nothing + 1, 0.01, 1.0, 0.0) == 0.0
    assert least_factor(nothing - 2, nothing + 1, nothing + 1, 10.0, 1.0, 1.0) == 0.0


def test_the_judge_prefers_who_foretold() -> None:
    at = np.arange(200)
    loads = 5 + 3 * np.sin(at / 9)
    task = Task(loads, np.zeros(200), 10, BEARABLE, 1)
    right = Expert("right", np.append(loads[10:], 5 + 3 * np.sin((190 + at[:10] + 10) / 9)), np.zeros(200))
    last = Expert("last", loads, np.zeros(200))
    (good, provision), (bad, other) = judged(right, task), judged(last, task)
    assert good < bad
    assert provision.load / provision.expected < other.load / other.expected
    assert provision.missed <= 2 * BEARABLE


def test_an_expert_without_a_past_gets_the_most_careful_headroom() -> None:
    loads = np.full(5, 2.0)
    cost, provision = judged(Expert("new", loads, np.zeros(5)), Task(loads, np.zeros(5), 9, BEARABLE, 1))
    assert (cost, provision) == (1.0, Provision(PRIOR_RATIOS[-1] * 2.0, 2.0, "new", 0.0))


def test_who_can_say_something_depends_on_how_much_there_is() -> None:
    few = [expert.name for expert in experts(np.full(7, 1.0), None, 3)]
    many = [expert.name for expert in experts(np.full(300, 1.0), 40, 3)]
    assert "mean of 1" in few
    assert set(few) < set(many)
    assert many[-1] == "season of 40"
    assert "regression" in many
    assert len(many) == len(set(many))


@given(st.lists(st.floats(0, 100), min_size=100, max_size=160), st.integers(1, 30))
def test_experts_judge_of_the_past_without_the_future(values: list[float], bins: int) -> None:
    """What one says at a bin does not change with what came after it; the regression is left-one-out instead."""
    loads = np.array(values)
    early = {expert.name: expert for expert in experts(loads[:-20], 30, bins)}
    for expert in experts(loads, 30, bins):
        if expert.name in early and expert.name != "regression":
            before = early[expert.name].ahead(bins, 1e9)
            assert expert.ahead(bins, 1e9)[: len(before)] == pytest.approx(before, abs=1e-6)


def test_a_season_that_repeats_exactly_is_foretold_exactly() -> None:
    at = np.arange(400)
    loads = 5 + 3 * np.sin(2 * np.pi * at / 50)
    (expert,) = [expert for expert in experts(loads, 50, 7) if expert.name == "season of 50"]
    assert 0 < expert.since < 120
    told, settled = expert.ahead(7, 1e9), expert.since + 5
    assert told[settled:-7] == pytest.approx(loads[settled + 7 :], rel=0.05)
    assert told[-1] == pytest.approx(5 + 3 * np.sin(2 * np.pi * 406 / 50), rel=0.05)


@pytest.mark.parametrize(("seconds", "bins"), [(0.0, 1), (0.1, 1), (5.0, 1), (5.1, 2), (60.0, 12), (61.0, 13)])
def test_a_distance_is_whole_bins_and_at_least_one(seconds: float, bins: int) -> None:
    assert bins_of(seconds, 5.0) == bins
