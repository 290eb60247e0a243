"""Counts between floors and a ceiling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.config import Role
from jedlik.core.plans import ROLES, Place
from jedlik.fleet.desired import apportion, gpus_of, most_workers, within

counts = st.dictionaries(st.sampled_from(ROLES), st.integers(0, 40))


def test_what_takes_no_gpu_counts_as_one() -> None:
    assert [gpus_of(Place(name="a", gpus=gpus)) for gpus in (0.0, 1.0, 8.0)] == [1.0, 1.0, 8.0]


@pytest.mark.parametrize(("budget", "most"), [(None, 4), (3.0, 2), (4.0, 3), (7.9, 3), (8.0, 4), (99.0, 4), (0.5, 0)])
def test_so_many_workers_fit(budget: float | None, most: int) -> None:
    places = [Place(name=str(number), gpus=gpus) for number, gpus in enumerate((4.0, 1.0, 2.0, 0.0))]
    assert most_workers(places, budget) == most


def test_cutting_keeps_proportions() -> None:
    assert apportion({"prefill": 6, "decode": 3}, 6) == {"prefill": 4, "decode": 2}
    assert apportion({"prefill": 5, "decode": 5}, 5) == {"prefill": 3, "decode": 2}
    assert apportion({"prefill": 1, "decode": 30}, 4) == {"prefill": 0, "decode": 4}
    assert apportion({"prefill": 2}, 4) == {"prefill": 2}


def test_floors_are_kept_before_wishes_and_earlier_ones_before_later() -> None:
    assert within({"decode": 9}, [{"prefill": 2}], 0, 6) == {"prefill": 2, "decode": 4, "both": 0}
    assert within({}, [{"prefill": 1, "decode": 1}, {"both": 5}], 0, 4) == {"prefill": 1, "decode": 1, "both": 2}
    assert within({}, [{"prefill": 3, "decode": 1}], 0, 2) == {"prefill": 2, "decode": 0, "both": 0}


def test_what_lacks_in_all_goes_to_the_larger_pool() -> None:
    assert within({"both": 1}, [{}], 3, 9) == {"prefill": 0, "decode": 0, "both": 3}
    assert within({"prefill": 2, "decode": 1}, [{}], 6, 9) == {"prefill": 5, "decode": 1, "both": 0}
    assert within({"prefill": 1, "decode": 1}, [{}], 3, 9) == {"prefill": 1, "decode": 2, "both": 0}


@given(counts, counts, counts, st.integers(0, 20), st.integers(0, 50))
def test_limits_always_hold(
    wish: dict[Role, int], first: dict[Role, int], second: dict[Role, int], least: int, most: int
) -> None:
    got = within(wish, [first, second], least, most)
    assert min(least, most) <= sum(got.values()) <= most
    if sum(first.values()) <= most:
        assert all(got[role] >= count for role, count in first.items())
    if most >= 200:
        assert all(got[role] >= wish.get(role, 0) for role in ROLES)
    assert within(got, [first, second], least, most) == got
