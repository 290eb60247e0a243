"""Pieces of one move, several at a time: how far they came is told exactly, and nothing runs on afterwards."""

import random
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kept_blocks import never

from jedlik.core.moves import Cause
from jedlik.transfer.parallel import Parallel


@pytest.fixture
def abreast(no_threads_left: None) -> Iterator[Parallel]:
    made = Parallel(4, "test")
    yield made
    made.close()


def test_nothing_to_do(abreast: Parallel) -> None:
    assert abreast.run(0, lambda _: "failed", never) == (0, "")


@given(st.integers(1, 40), st.sets(st.integers(0, 39)), st.integers(0, 99))
def test_the_first_that_fails_counts(pieces: int, bad: set[int], seed: int) -> None:
    done: set[int] = set()
    order = random.Random(seed)

    def piece(number: int) -> Cause:
        if number in bad:
            return "corrupt" if number % 2 else "failed"
        for _ in range(order.randrange(50)):
            pass
        done.add(number)
        return ""

    first = min((number for number in bad if number < pieces), default=pieces)
    cause = "" if first == pieces else ("corrupt" if first % 2 else "failed")
    abreast = Parallel(4, "test")
    assert abreast.run(pieces, piece, never) == (first, cause)
    abreast.close()
    assert done >= set(range(first))


def test_as_many_at_a_time_as_promised(abreast: Parallel) -> None:
    meet = threading.Barrier(4, timeout=60)

    def piece(_: int) -> Cause:
        meet.wait()
        return ""

    assert abreast.run(8, piece, never) == (8, "")


def test_stopped(abreast: Parallel) -> None:
    begun = [0]

    def piece(number: int) -> Cause:
        begun[0] = max(begun[0], number)
        return ""

    told = abreast.run(1000, piece, lambda: begun[0] >= 10)
    assert told[1] == "cancelled"
    assert 8 <= told[0] < 1000


def test_a_bug_in_a_piece_is_raised_after_all_have_ended(abreast: Parallel) -> None:
    running: set[int] = set()

    def piece(number: int) -> Cause:
        running.add(number)
        try:
            if number == 2:
                raise ValueError("a bug")
            return ""
        finally:
            running.discard(number)

    for _ in range(50):
        with pytest.raises(ValueError, match="a bug"):
            abreast.run(20, piece, never)
        assert running == set()


def test_callers_do_not_wait_for_each_others_helpers(abreast: Parallel) -> None:
    """With every helper busy for another caller, a caller does its pieces itself."""
    inside, leave = threading.Semaphore(0), threading.Event()

    def blocked(_: int) -> Cause:
        inside.release()
        assert leave.wait(60)
        return ""

    other = threading.Thread(target=abreast.run, args=(4, blocked, never))
    other.start()
    for _ in range(4):
        assert inside.acquire(timeout=60)
    assert abreast.run(5, lambda _: "", never) == (5, "")
    leave.set()
    other.join()
