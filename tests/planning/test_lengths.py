"""Lengths in buckets: the middle stands for what is in it, shares are a distribution, known means are kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.plans import BUCKET_RATIO
from jedlik.planning.lengths import add, bucket_of, mean, middle, quantile, shares

COUNTS = st.dictionaries(st.integers(0, 60), st.one_of(st.just(0.0), st.floats(1e-6, 1e4)), max_size=8)


def test_buckets_begin_where_the_ratio_says() -> None:
    assert [bucket_of(tokens) for tokens in (-5, 0, 1, 2, 3, 4, 1000)] == [0, 0, 0, 3, 4, 6, 30]
    assert middle(0) == pytest.approx(BUCKET_RATIO**0.5)
    assert middle(30) == pytest.approx(BUCKET_RATIO**30.5)


@given(st.integers(1, 10_000_000))
def test_a_middle_is_within_a_quarter_of_every_length_in_its_bucket(tokens: int) -> None:
    assert middle(bucket_of(tokens)) == pytest.approx(tokens, rel=0.25)
    assert BUCKET_RATIO ** bucket_of(tokens) <= tokens * (1 + 1e-6)


@given(st.integers(0, 1_000_000), st.integers(0, 1_000_000))
def test_longer_is_never_a_lower_bucket(one: int, other: int) -> None:
    assert bucket_of(min(one, other)) <= bucket_of(max(one, other))


@given(st.integers(0, 100))
def test_a_middle_is_in_its_own_bucket(bucket: int) -> None:
    length = middle(bucket)
    assert BUCKET_RATIO**bucket < length < BUCKET_RATIO ** (bucket + 1)
    if bucket >= 20:  # short lengths are whole numbers: not each bucket has one near its middle
        assert bucket_of(round(length)) == bucket


def test_counts_add_up_in_place() -> None:
    total = {3: 1.0}
    add(total, {3: 2, 5: 4}, 0.5)
    assert total == {3: 2.0, 5: 2.0}
    add(total, {5: 1})
    assert total == {3: 2.0, 5: 3.0}


@given(COUNTS)
def test_shares_sum_to_one_shortest_first(counts: dict[int, float]) -> None:
    parts = list(shares(counts))
    if sum(counts.values()) <= 0:
        assert parts == []
        return
    assert sum(share for _, share in parts) == pytest.approx(1)
    assert all(share > 0 for _, share in parts)
    assert [length for length, _ in parts] == sorted({middle(bucket) for bucket, count in counts.items() if count > 0})


@given(COUNTS.filter(lambda counts: sum(counts.values()) > 0), st.floats(1, 1e5))
def test_lengths_scale_to_the_mean_that_is_known(counts: dict[int, float], mean_tokens: float) -> None:
    scaled, guessed = list(shares(counts, mean_tokens)), list(shares(counts))
    assert sum(length * share for length, share in scaled) == pytest.approx(mean_tokens)
    assert [share for _, share in scaled] == [share for _, share in guessed]
    assert scaled[0][0] / guessed[0][0] == pytest.approx(scaled[-1][0] / guessed[-1][0])


def test_quantile_is_the_length_that_a_share_does_not_exceed() -> None:
    counts = {10: 5.0, 20: 3.0, 30: 0.0, 40: 2.0}
    found = [quantile(counts, share) for share in (0.0, 0.5, 0.51, 0.8, 0.81, 1.0)]
    assert found == [middle(bucket) for bucket in (10, 10, 20, 20, 40, 40)]
    assert quantile({}, 0.5) is None
    assert quantile({4: 0.0}, 0.5) is None


@given(COUNTS, st.floats(0, 1), st.floats(0, 1))
def test_quantiles_do_not_fall(counts: dict[int, float], one: float, other: float) -> None:
    low, high = quantile(counts, min(one, other)), quantile(counts, max(one, other))
    if low is None or high is None:
        assert (low, high) == (None, None)
    else:
        assert low <= high


def test_mean_is_of_middles() -> None:
    assert mean({10: 1.0, 20: 3.0}) == pytest.approx(0.25 * middle(10) + 0.75 * middle(20))
    assert mean({}) is None
    assert mean({7: 0.0}) is None
