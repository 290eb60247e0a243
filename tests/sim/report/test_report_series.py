"""Runs in bins, and bins in pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import outcome, run

from jedlik.sim.outcome import FleetSample
from jedlik.sim.report.charts import SHADES, cells
from jedlik.sim.report.columns import columns
from jedlik.sim.report.series import MOST_ROWS, Bins, bins_for, cdf, fleet, percentiles, rates, shares
from jedlik.sim.report.svg import across, log_ticks, number_ticks, path, time_ticks, upward

FOUR = Bins(4, 8.0)


def test_bins_are_few_for_few_requests_and_never_many() -> None:
    assert [bins_for(count, 1.0).number for count in (0, 1000, 10**6)] == [12, 25, 120]


def test_what_happens_at_the_end_is_in_the_last_bin() -> None:
    assert FOUR.of(np.array([0.0, 1.9, 2.0, 8.0])).tolist() == [0, 0, 1, 3]


def test_shares_and_rates_by_bin() -> None:
    data = columns([outcome(arrived_s=0.5, cached_tokens=50), outcome(arrived_s=1.0), outcome(arrived_s=7.0)])
    rate = shares(FOUR, data.arrived_s, data.cached_tokens, data.prompt_tokens)
    assert np.array_equal(rate, [0.25, np.nan, np.nan, 0.0], equal_nan=True)
    assert rates(FOUR, data.arrived_s).tolist() == [1.0, 0.0, 0.0, 0.5]
    (p50,) = percentiles(FOUR, data.arrived_s, np.array([1.0, 3.0, 9.0]), (50,))
    assert np.array_equal(p50, [2.0, np.nan, np.nan, 9.0], equal_nan=True)


def test_a_fleet_in_bins() -> None:
    samples = [
        FleetSample(at_s=at, running=[1, 3], waiting=[0, at_of], context_tokens=[0, 0], cached_blocks=[0, 0])
        for at, at_of in ((0.0, 4), (1.0, 6), (7.0, 8))
    ]
    waiting = fleet(run([], samples=samples), FOUR, lambda sample: sample.waiting)
    assert np.array_equal(waiting.mean, [[0, np.nan, np.nan, 0], [5, np.nan, np.nan, 8]], equal_nan=True)
    assert np.array_equal(waiting.total, [5, np.nan, np.nan, 8], equal_nan=True)
    assert np.array_equal(waiting.most, [6, np.nan, np.nan, 8], equal_nan=True)
    assert np.array_equal(waiting.least, [0, np.nan, np.nan, 0], equal_nan=True)
    assert waiting.rows == ["a/0", "a/1"]


def test_a_large_fleet_is_shown_in_groups_of_neighbours() -> None:
    names = [f"a/{number}" for number in range(401)]
    sample = FleetSample(
        at_s=0.0, running=list(range(401)), waiting=[0] * 401, context_tokens=[0] * 401, cached_blocks=[0] * 401
    )
    running = fleet(run([], workers=names, samples=[sample]), Bins(1, 1.0), lambda s: s.running)
    assert len(running.rows) == len(running.mean) <= MOST_ROWS
    assert running.rows[0] == "a/0 to a/2"
    assert running.mean[0].tolist() == [1.0]
    assert running.mean[-1].tolist() == [399.5]


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=50))
def test_a_distribution_rises_from_its_least_to_its_largest(values: list[float]) -> None:
    xs, ys = cdf(np.array(values))
    assert (xs[0], xs[-1]) == (min(values), max(values))
    assert (np.diff(ys) >= 0).all()
    assert (np.diff(xs) >= -1e-9).all()


@given(st.floats(1e-6, 1e9))
def test_ticks_lie_on_the_axis_and_there_are_a_few(high: float) -> None:
    scale = upward(high)
    ticks = number_ticks(scale)
    assert 2 <= len(ticks) <= 7
    assert all(scale.low <= tick.value <= scale.high * (1 + 1e-9) for tick in ticks)
    assert len({tick.text for tick in ticks}) == len(ticks)
    times, _ = time_ticks(across(0.0, high))
    assert 2 <= len(times) <= 11


def test_ticks_of_a_logarithmic_axis() -> None:
    assert [tick.text for tick in log_ticks(across(0.02, 2.0, log=True))] == [
        "20 ms", "50 ms", "100 ms", "200 ms", "500 ms", "1 s", "2 s",
    ]  # fmt: skip


def test_a_line_breaks_where_there_is_nothing() -> None:
    drawn = path(np.array([0.0, 1.0, 2.0, 3.0]), np.array([5.0, np.nan, 6.0, 7.0]))
    assert drawn == "M0.0 5.0h0M2.0 6.0h0L3.0 7.0"


def test_neighbours_of_one_shade_are_one_stroke() -> None:
    drawn = cells(np.array([[9.0, 9.0, 0.0, 1.0], [np.nan, 9.0, 9.0, 9.0]]), 9.0, 10.0, 5.0)
    assert drawn.count("<path") == 2
    assert drawn.count("M") == 3
    assert f'class="h{SHADES}"' in drawn
    assert cells(np.zeros((2, 2)), 0.0, 1.0, 1.0) == ""


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_scales_map_their_ends(value: float) -> None:
    scale = across(0.0, 1.0)
    assert scale.at(value) == (scale.start_px if value == 0 else scale.end_px)
