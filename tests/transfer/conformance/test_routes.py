"""One suite for every way between workers: the right bytes in the right blocks, one `Moved` each, and no more."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
from carrying import WAYS, Carrying, move

from jedlik.core.ids import Handle, WorkerId
from jedlik.core.moves import CancelMove, Location, Revoke

DEVICE, HOST = Location("device"), Location("host")
Pair: TypeAlias = tuple[Carrying, Carrying]
Lists = tuple[list[int], list[int]]

CONTIGUOUS = (list(range(4, 20)), list(range(10, 26)))
BACKWARDS = (list(range(20, 4, -1)), list(range(10, 26)))
SCATTERED = ([31, 3, 17, 8, 9, 10, 0], [0, 5, 6, 7, 30, 29, 31])
ONE = ([5], [5])
RUNS = ([0, 1, 2, 10, 11, 12, 5, 6], [20, 21, 22, 23, 24, 25, 1, 0])
ALL = (list(range(32)), list(range(32)))


@pytest.fixture(params=WAYS)
def pair(request: pytest.FixtureRequest, carrying: Callable[..., Carrying]) -> Pair:
    """Two that have met, the first's blocks filled."""
    left, right = (carrying(name, paths=[request.param]) for name in ("left@1", "right@1"))
    left.fill(7)
    left.meet(right)
    return left, right


def path_of(pair: Pair) -> str:
    return pair[0].agent.paths[0]


@pytest.mark.parametrize("lists", [CONTIGUOUS, BACKWARDS, SCATTERED, ONE, RUNS, ALL])
@pytest.mark.parametrize("target", ["device", "host"])
def test_pushed_blocks_are_in_their_places_and_nothing_else_is_touched(pair: Pair, lists: Lists, target: str) -> None:
    left, right = pair
    sources, targets = lists
    place = Location(target, right.worker)  # type: ignore[arg-type]
    left.agent.perform(move(1, DEVICE, sources, place, targets, ticket=3))
    moved = left.ear.moved(1)
    assert (moved.blocks, moved.cause, moved.path) == (len(sources), "", path_of(pair))
    assert moved.size_bytes == len(sources) * 4096
    there = right.device if target == "device" else right.host
    assert np.array_equal(there[targets], left.device[sources])
    rest = np.setdiff1d(np.arange(32), targets)
    assert not there[rest].any()


@pytest.mark.parametrize("lists", [CONTIGUOUS, SCATTERED, ALL])
def test_pulled_blocks_are_in_their_places(pair: Pair, lists: Lists) -> None:
    left, right = pair
    sources, targets = lists
    right.agent.perform(move(1, Location("device", left.worker), sources, HOST, targets))
    moved = right.ear.moved(1)
    assert (moved.blocks, moved.cause, moved.path) == (len(sources), "", path_of(pair))
    assert np.array_equal(right.host[targets], left.device[sources])
    rest = np.setdiff1d(np.arange(32), targets)
    assert not right.host[rest].any()


def test_many_moves_each_told_once(pair: Pair) -> None:
    left, right = pair
    there = Location("device", right.worker)
    for number in range(1, 33):
        left.agent.perform(move(number, DEVICE, [number - 1], there, [32 - number], ticket=number))
    for number in range(1, 33):
        assert left.ear.moved(number).cause == ""
    assert left.ear.numbers() == list(range(1, 33))
    assert np.array_equal(right.device[::-1], left.device)


def test_what_waits_for_a_meeting_is_carried_then(carrying: Callable[..., Carrying], pair: Pair) -> None:
    left, _ = pair
    late = carrying("late@1", paths=left.agent.paths)
    left.agent.perform(move(1, DEVICE, [1], Location("device", late.worker), [2]))
    left.meet(late)
    assert left.ear.moved(1).cause == ""
    assert np.array_equal(late.device[2], left.device[1])


def test_blocks_the_peer_does_not_have_are_refused(pair: Pair) -> None:
    left, right = pair
    left.agent.perform(move(1, DEVICE, [0, 1], Location("device", right.worker), [0, 32], ticket=1))
    moved = left.ear.moved(1)
    assert (moved.blocks, moved.cause) == (0, "failed")
    assert not right.device.any()


def test_nothing_lands_for_a_revoked_ticket(pair: Pair) -> None:
    left, right = pair
    there = Location("device", right.worker)
    left.agent.perform(move(1, DEVICE, [1], there, [1], ticket=8))
    left.ear.moved(1)
    right.agent.perform(Revoke(left.worker, [Handle(9), Handle(10)]))
    assert right.ear.revoked(left.worker).tickets == [9, 10]
    left.agent.perform(move(2, DEVICE, [2, 3], there, [2, 3], ticket=9))
    moved = left.ear.moved(2)
    assert (moved.blocks, moved.cause) == (0, "stale")
    left.agent.perform(move(3, DEVICE, [4], there, [4], ticket=11))
    assert left.ear.moved(3).cause == ""
    assert not right.device[2:4].any()
    assert np.array_equal(right.device[4], left.device[4])


def test_a_ticket_revoked_before_they_met_is_refused(carrying: Callable[..., Carrying], pair: Pair) -> None:
    left, _ = pair
    late = carrying("late@1", paths=left.agent.paths)
    late.agent.perform(Revoke(left.worker, [Handle(5)]))
    late.ear.revoked(left.worker)
    left.meet(late)
    left.agent.perform(move(1, DEVICE, [1], Location("device", late.worker), [1], ticket=5))
    assert left.ear.moved(1).cause == "stale"
    assert not late.device.any()


def test_a_peer_that_closed_is_no_place_to_push_to(pair: Pair) -> None:
    left, right = pair
    left.agent.perform(move(1, DEVICE, [1], Location("device", right.worker), [1], ticket=1))
    left.ear.moved(1)
    right.agent.close()
    left.agent.met(right.worker, None)
    left.agent.perform(move(2, DEVICE, [2], Location("device", right.worker), [2], ticket=1))
    assert left.ear.moved(2).cause == "gone"
    assert not right.device[2].any()


def test_another_incarnation_at_the_address_is_not_the_one_that_was_meant(
    carrying: Callable[..., Carrying], pair: Pair
) -> None:
    left, right = pair
    left.agent.perform(move(1, DEVICE, [1], Location("device", WorkerId("right@0")), [1], ticket=1))
    left.agent.met(WorkerId("right@0"), right.agent.address)
    assert left.ear.moved(1).cause == "stale"
    assert not right.device.any()


def test_blocks_of_another_size_are_never_taken(carrying: Callable[..., Carrying], pair: Pair) -> None:
    left, _ = pair
    other = carrying("other@1", paths=left.agent.paths, block_bytes=8192)
    left.agent.perform(move(1, DEVICE, [1], Location("device", other.worker), [1], ticket=1))
    left.meet(other)
    assert left.ear.moved(1).cause == "stale"
    assert not other.device.any()


def test_a_move_can_be_cancelled_at_any_time(pair: Pair) -> None:
    left, right = pair
    for number in range(1, 20):
        left.agent.perform(
            move(number, DEVICE, list(range(32)), Location("device", right.worker), list(range(32)), ticket=1)
        )
        left.agent.perform(CancelMove(number))
    for number in range(1, 20):
        moved = left.ear.moved(number)
        assert moved.cause in ("", "cancelled")
        assert (moved.blocks == 32) == (moved.cause == "")
    assert left.ear.numbers() == list(range(1, 20))
