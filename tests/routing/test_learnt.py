"""What a gateway learns of requests: how long answers are, how often computed tokens are found again."""

from operator import mul

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.routing.estimates import (
    ENOUGH_REQUESTS,
    FORGET_LENGTHS,
    MOST_REUSE,
    PREFIXES,
    PRIOR_MEAN,
    PRIOR_WEIGHT,
    OutputLengths,
    Reuse,
)


def test_before_any_answer_there_is_a_first_guess() -> None:
    lengths = OutputLengths()
    assert lengths.mean == PRIOR_MEAN
    assert 0.5 < lengths.shorter(PRIOR_MEAN) < 0.75
    assert lengths.shorter(0) == 0


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=200), st.lists(st.floats(0, 200_000), max_size=20))
def test_shares_grow_with_length_and_running_answers_are_longer(seen: list[int], asked: list[float]) -> None:
    lengths = OutputLengths()
    for tokens in seen:
        lengths.observe(tokens)
    shares = [(lengths.shorter(tokens), lengths.shorter_running(tokens)) for tokens in sorted(asked)]
    assert shares == sorted(shares)
    assert all(0 <= running <= ended + 1e-9 <= 1 + 2e-9 for ended, running in shares)


def test_many_answers_outweigh_the_guess_and_newer_ones_the_older() -> None:
    lengths = OutputLengths()
    for _ in range(1000):
        lengths.observe(300)
    assert lengths.mean == pytest.approx(300, rel=0.02)
    assert lengths.shorter(200) < 0.02
    assert lengths.shorter(500) > 0.98
    for _ in range(20_000):  # far enough for the weights to be scaled down on the way
        lengths.observe(10)
    assert lengths.mean == pytest.approx(10, rel=0.01)
    assert lengths.shorter_running(100) > 0.99


def test_tokens_found_again() -> None:
    reuse = Reuse()
    assert (reuse.times, reuse.known) == (0.0, False)
    for _ in range(ENOUGH_REQUESTS):
        reuse.observe(100, 75, None)
    assert reuse.times == pytest.approx(3)
    assert reuse.known
    for _ in range(5000):
        reuse.observe(100, 100, None)
    assert reuse.times == MOST_REUSE


def test_a_prefix_is_as_hot_as_the_share_of_requests_that_find_it() -> None:
    reuse = Reuse()
    for number in range(4000):
        reuse.observe(10, 5, 7 if number % 4 == 0 else 1000 + number % 50)
    assert reuse.share(7) == pytest.approx(0.25, rel=0.02)
    assert reuse.share(1001) == pytest.approx(0.02, rel=0.1)
    assert reuse.share(5) == 0
    for number in range(PREFIXES + 10):
        reuse.observe(10, 5, 10_000 + number)
    assert reuse.share(7) == 0


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=100))
def test_the_mean_is_the_answers_and_the_guess_weighed(seen: list[int]) -> None:
    lengths = OutputLengths()
    for tokens in seen:
        lengths.observe(tokens)
        lengths.observe(0)  # no answer
    weights = [FORGET_LENGTHS**age for age in range(len(seen), -1, -1)]  # of the guess first
    total = PRIOR_WEIGHT * weights[0] * PRIOR_MEAN + sum(map(mul, weights[1:], seen))
    assert lengths.mean == pytest.approx(total / (PRIOR_WEIGHT * weights[0] + sum(weights[1:])))


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 1), st.none() | st.integers(1, 9)), max_size=100))
def test_what_is_learnt_of_prefixes_stays_within_bounds(prompts: list[tuple[int, float, int | None]]) -> None:
    reuse = Reuse()
    for tokens, share, key in prompts:
        reuse.observe(tokens, int(share * (tokens - 1)), key)
        assert 0 <= reuse.times <= MOST_REUSE
    keyed = [key for _, _, key in prompts if key is not None]
    shares = [reuse.share(key) for key in range(1, 10)]
    assert sum(shares) == pytest.approx(sum(shares[key - 1] for key in set(keyed)))
    assert all(share >= 0 for share in shares)
    assert sum(shares) <= 1 + 1e-9
    if len(keyed) == len(prompts) and prompts:
        assert sum(shares) == pytest.approx(1)
