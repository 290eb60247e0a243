"""Predictions against what happened, and when that corrects them."""

from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.routing.estimates import BOUND, MIN_SAMPLES, WEIGHT, Calibration


def after(*samples: tuple[float, float]) -> Calibration:
    calibration = Calibration()
    for predicted_s, observed_s in samples:
        calibration.observe(predicted_s, observed_s)
    calibration.check()
    return calibration


def test_nothing_is_corrected_before_there_are_enough_samples() -> None:
    few = after(*[(1.0, 2.0)] * (MIN_SAMPLES - 1))
    assert few.correction == 1.0
    assert few.ratio == pytest.approx(2.0)
    assert after(*[(1.0, 2.0)] * MIN_SAMPLES).correction == pytest.approx(2.0)


def test_seconds_count_not_samples() -> None:
    assert after((0.01, 0.04), (4.0, 4.0)).ratio == pytest.approx(1.0, abs=0.01)


def test_it_forgets_what_is_long_past() -> None:
    samples = 2 / WEIGHT
    drifted = after(*[(1.0, 1.0)] * 100, *[(1.0, 3.0)] * int(samples))
    assert 2.5 < drifted.ratio < 3.0


def test_one_absurd_sample_weighs_no_more_than_the_bound() -> None:
    calm = [(1.0, 1.0)] * 40
    assert after(*calm, (1e-9, 1e9)).ratio == pytest.approx(1.0, abs=1e-6)
    assert after(*calm, (1.0, 1e9)).ratio == pytest.approx(1 + WEIGHT * (BOUND - 1))


def test_times_that_compare_to_nothing_are_left_out() -> None:
    assert after((0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)).samples == 0


@given(st.lists(st.tuples(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6)), min_size=1, max_size=60))
def test_the_ratio_stays_within_its_bounds_and_its_samples(samples: list[tuple[float, float]]) -> None:
    ratio = after(*samples).ratio
    ratios = [min(BOUND, max(1 / BOUND, observed / predicted)) for predicted, observed in samples]
    assert min(ratios) <= ratio <= max(ratios) or isclose(ratio, min(ratios)) or isclose(ratio, max(ratios))
