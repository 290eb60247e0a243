"""What is written to a slow tier: what was asked for twice, or anything while it is roomy; what is remembered."""

from jedlik.core.ids import BlockId
from jedlik.moving.tiers import ROOMY_SHARE, SecondTouch


def block(number: int) -> BlockId:
    return BlockId(number.to_bytes(16, "little"))


def test_the_second_touch_admits() -> None:
    touched = SecondTouch(100)
    assert [touched.admit(block(n), 1.0) for n in (1, 2, 1, 1, 3, 2)] == [False, False, True, True, False, True]


def test_a_roomy_tier_takes_anything_and_remembers_it() -> None:
    touched = SecondTouch(100)
    assert touched.admit(block(1), ROOMY_SHARE - 0.01)
    assert not touched.admit(block(2), ROOMY_SHARE)
    assert touched.admit(block(1), ROOMY_SHARE)


def test_memory_is_bounded_and_forgets_the_oldest() -> None:
    touched = SecondTouch(100)
    for n in range(1000):
        touched.admit(block(n), 1.0)
        assert len(touched) <= 100
    assert not touched.admit(block(0), 1.0)
    assert all(touched.admit(block(n), 1.0) for n in range(960, 1000))


def test_what_is_touched_again_and_again_is_not_forgotten() -> None:
    touched = SecondTouch(10)
    touched.admit(block(0), 1.0)
    for n in range(1, 200):
        touched.admit(block(n), 1.0)
        assert n % 4 or touched.admit(block(0), 1.0)


def test_the_smallest_memory_still_works() -> None:
    touched = SecondTouch(1)
    assert not touched.admit(block(1), 1.0)
    assert touched.admit(block(1), 1.0)
    for n in range(5):
        touched.admit(block(n), 1.0)
        assert len(touched) <= 2
