"""What a gateway learns of requests: how long answers are, how often computed tokens are found again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.routing.lengths import PRIOR_MEAN, OutputLengths
from jedlik.routing.reuse import ENOUGH, MOST, PREFIXES, Reuse


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
    for _ in range(ENOUGH):
        reuse.observe(100, 75, None)
    assert reuse.times == pytest.approx(3)
    assert reuse.known
    for _ in range(5000):
        reuse.observe(100, 100, None)
    assert reuse.times == MOST


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
