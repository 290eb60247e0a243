"""What a worker knows of its paths: probed, corrected by what moved, closed after failures, tried again."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.moves import PathCosts
from jedlik.perf.paths import BACKOFF_S, LONGEST_BACKOFF_S, TRIPS, Paths

BLOCK = 1 << 20
TCP = PathCosts("tcp", 1e-4, 1e-9)
"""A block of 1 MiB takes 1.15 ms."""
BLOCK_S = 1e-4 + BLOCK * 1e-9


def probed() -> Paths:
    paths = Paths()
    paths.measured(TCP)
    return paths


def carry(paths: Paths, blocks: int, elapsed_s: float, now: float, ok: bool = True, path: str = "tcp") -> None:
    """One move alone on its path, ending now."""
    paths.began(path, blocks, blocks * BLOCK)
    paths.ended(path, blocks, blocks * BLOCK, elapsed_s, ok, now)


def ratio(paths: Paths) -> float:
    return (paths.seconds("tcp", 1, BLOCK) or 0.0) / BLOCK_S


def fail(paths: Paths, times: int, now: float) -> None:
    for _ in range(times):
        carry(paths, 1, 0.0, now, ok=False)


def test_what_is_unknown_is_none_and_not_held_against_a_path() -> None:
    paths = Paths()
    assert paths.seconds("tcp", 1, 1) is None
    assert paths.usable("tcp", 0.0)
    paths.began("tcp", 1, BLOCK)
    assert paths.seconds("tcp", 1, 1) is None
    assert paths.costs(0.0) == ()


def test_what_is_in_flight_goes_first() -> None:
    paths = probed()
    assert paths.seconds("tcp", 3, 3 * BLOCK) == pytest.approx(3 * BLOCK_S)
    paths.began("tcp", 10, 10 * BLOCK)
    paths.began("tcp", 4, 4 * BLOCK)
    assert paths.seconds("tcp", 3, 3 * BLOCK) == pytest.approx(17 * BLOCK_S)
    assert paths.seconds("tcp", 0, 0) == pytest.approx(14 * BLOCK_S)
    paths.ended("tcp", 10, 10 * BLOCK, 10 * BLOCK_S, True, 1.0)
    paths.ended("tcp", 4, 4 * BLOCK, 0.0, False, 1.0)
    assert paths.seconds("tcp", 0, 0) == 0.0


def test_costs_are_told_by_name_and_corrected() -> None:
    paths = probed()
    paths.measured(PathCosts("disk", 0.0, 2e-9))
    for at in range(200):
        carry(paths, 4, 8 * BLOCK_S, float(at))
    disk, tcp = paths.costs(200.0)
    assert disk == PathCosts("disk", 0.0, 2e-9)
    assert (tcp.path, tcp.open) == ("tcp", True)
    assert tcp.block_s == pytest.approx(2 * TCP.block_s, rel=0.05)
    assert tcp.byte_s == pytest.approx(2 * TCP.byte_s, rel=0.05)


def test_a_correction_is_told_when_it_has_moved_enough() -> None:
    """Else every move would change what a worker tells of itself."""
    paths = probed()
    for at in range(100):
        carry(paths, 4, 4 * BLOCK_S * 1.02, float(at))
    assert paths.costs(100.0) == (TCP,)


def test_a_probe_replaces_what_was_learnt() -> None:
    paths = probed()
    for at in range(50):
        carry(paths, 4, 12 * BLOCK_S, float(at))
    paths.began("tcp", 5, 5 * BLOCK)
    assert ratio(paths) > 6 * 2
    paths.measured(PathCosts("tcp", 0.0, 5e-9))
    assert paths.seconds("tcp", 1, BLOCK) == pytest.approx(6 * BLOCK * 5e-9)  # what is in flight stays so
    paths.ended("tcp", 5, 5 * BLOCK, 5 * BLOCK * 5e-9, True, 60.0)
    assert paths.seconds("tcp", 1, BLOCK) == pytest.approx(BLOCK * 5e-9)


@pytest.mark.parametrize("blocks", [1, 10, 1000])
def test_one_stall_moves_little(blocks: int) -> None:
    paths, at = probed(), 0.0
    for _ in range(50):
        at += 1.0
        carry(paths, 10, 10 * BLOCK_S, at)
    carry(paths, blocks, 600.0, at + 600.0)
    assert ratio(paths) < 1.45
    assert blocks > 10 or ratio(paths) < 1.11
    for _ in range(60):
        at += 1.0
        carry(paths, 10, 10 * BLOCK_S, at + 600.0)
    assert ratio(paths) == pytest.approx(1.0, rel=0.05)


def test_a_path_that_is_slower_for_good_is_believed_in_time() -> None:
    paths = probed()
    for at in range(120):
        carry(paths, 10, 100 * BLOCK_S, 10.0 * at)
    assert ratio(paths) == pytest.approx(10.0, rel=0.1)


@given(st.integers(0, 1 << 30), st.sampled_from([0.5, 1.0, 2.5]), st.sampled_from([2, 3, 12]), st.booleans())
def test_moves_that_share_a_path_are_not_counted_twice(
    seed: int, slowness: float, at_once: int, together: bool
) -> None:
    """Several at a time, one after the other or all with a share of the speed: the path is as fast as it is."""
    paths, random, now = probed(), Random(seed), 0.0
    for _ in range(150):
        sizes = sorted(random.randint(1, 20) for _ in range(at_once))
        for blocks in sizes:
            paths.began("tcp", blocks, blocks * BLOCK)
        done = 0.0
        for place, blocks in enumerate(sizes):
            before = sizes[place - 1] if place else 0
            took = (blocks - before) * (at_once - place) if together else blocks
            done += took * BLOCK_S * slowness
            elapsed_s = done if together else took * BLOCK_S * slowness
            paths.ended("tcp", blocks, blocks * BLOCK, elapsed_s, True, now + done)
        now += done + random.random()
    assert ratio(paths) == pytest.approx(slowness, rel=0.25)  # counted twice it would be half as much again, or more


def test_a_path_that_nobody_measured_is_learnt_from_what_moves() -> None:
    paths = Paths()
    carry(paths, 4, 4 * BLOCK_S, 1.0)
    assert paths.seconds("tcp", 2, 2 * BLOCK) == pytest.approx(2 * BLOCK_S)
    for at in range(100):
        carry(paths, 4, 2 * BLOCK_S, 2.0 + at)  # the first one was slow
    assert ratio(paths) == pytest.approx(0.5, rel=0.05)
    assert [cost.path for cost in paths.costs(0.0)] == ["tcp"]


def test_what_took_no_time_and_had_no_size_teaches_nothing() -> None:
    paths = Paths()
    paths.began("tcp", 0, 0)
    paths.ended("tcp", 0, 0, 0.1, True, 1.0)
    assert paths.seconds("tcp", 1, BLOCK) is None
    paths = probed()
    paths.began("tcp", 0, 0)
    paths.ended("tcp", 0, 0, 0.1, True, 1.0)
    assert ratio(paths) == pytest.approx(1.0)


def test_failures_in_a_row_close_a_path_and_one_trial_decides() -> None:
    paths = probed()
    fail(paths, TRIPS - 1, 0.0)
    carry(paths, 1, BLOCK_S, 0.0)
    fail(paths, TRIPS - 1, 0.0)
    assert paths.usable("tcp", 0.0)
    fail(paths, 1, 10.0)
    assert not paths.usable("tcp", 10.0)
    assert not paths.costs(10.0)[0].open
    again = 10.0 + BACKOFF_S
    assert paths.usable("tcp", again)
    assert paths.costs(again)[0].open
    fail(paths, 1, again)
    again += 2 * BACKOFF_S
    paths.began("tcp", 1, BLOCK)
    assert not paths.usable("tcp", again + 100.0)  # one trial, however long it takes
    paths.ended("tcp", 1, BLOCK, BLOCK_S, True, again + 100.0)
    assert paths.usable("tcp", again + 100.0)
    fail(paths, TRIPS, 200.0)
    assert paths.usable("tcp", 200.0 + BACKOFF_S)  # and the back-off is the first again


def test_back_offs_double_up_to_a_limit() -> None:
    paths, now, waits = probed(), 0.0, []
    fail(paths, TRIPS, now)
    for _ in range(9):
        wait_s = next(wait / 2 for wait in range(1, 400) if paths.usable("tcp", now + wait / 2))
        waits.append(wait_s)
        now += wait_s
        fail(paths, 1, now)
    assert waits == [min(LONGEST_BACKOFF_S, BACKOFF_S * 2**n) for n in range(9)]


def test_what_began_before_a_path_closed_is_no_trial() -> None:
    paths = probed()
    for _ in range(5):
        paths.began("tcp", 1, BLOCK)
    for at in range(4):
        paths.ended("tcp", 1, BLOCK, 0.0, False, float(at))
    assert paths.usable("tcp", 2.0 + BACKOFF_S)  # counted from the third
    paths.ended("tcp", 1, BLOCK, BLOCK_S, True, 4.0)  # but if it arrives, the path works
    assert paths.usable("tcp", 4.0)


def test_a_probe_closes_and_opens_a_path() -> None:
    paths = Paths()
    paths.measured(PathCosts("tcp", 1e-4, 1e-9, open=False))
    assert paths.usable("tcp", 0.0)  # one trial
    paths.began("tcp", 1, BLOCK)
    assert not paths.usable("tcp", 0.0)
    paths.measured(TCP)
    assert paths.usable("tcp", 0.0)


def test_what_says_nothing_of_a_path_changes_nothing_but_what_is_in_flight() -> None:
    paths = probed()
    fail(paths, TRIPS - 1, 0.0)
    paths.began("tcp", 9, 9 * BLOCK)
    paths.ended("tcp", 9, 9 * BLOCK, 0.0, None, 1.0)
    assert ratio(paths) == pytest.approx(1.0)
    fail(paths, 1, 2.0)  # still in a row
    assert not paths.usable("tcp", 2.0)
    paths.began("tcp", 1, BLOCK)
    paths.ended("tcp", 1, BLOCK, 0.0, None, 2.0 + BACKOFF_S)
    assert paths.usable("tcp", 2.0 + BACKOFF_S)  # another trial may go


def test_a_failure_says_nothing_about_speed() -> None:
    paths = probed()
    fail(paths, 2, 100.0)
    assert ratio(paths) == pytest.approx(1.0)
