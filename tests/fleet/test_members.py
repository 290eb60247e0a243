"""One member's life."""

import pytest

from jedlik.core.errors import Bug
from jedlik.core.ids import WorkerId
from jedlik.core.plans import Place
from jedlik.fleet.lifecycle import LIFE, LIVE, after
from jedlik.fleet.members import Member

W = WorkerId("w@1")


def member(processes: int = 1) -> Member:
    return Member(Place(name="w", processes=processes), 0, "both", 0.0)


def test_every_state_is_reached_and_left() -> None:
    assert {before for before, _ in LIFE} == set(LIFE.values())
    assert all(LIFE[state, "gone"] == "free" for state in LIVE)


def test_what_is_not_in_the_table_is_a_bug_with_the_members_story() -> None:
    one = member()
    one.launch("both", 1.0, 300.0)
    one.ready(W, 0, 2.0)
    with pytest.raises(Bug, match=r"serving can't launch: w: 1 launch: starting \(wanted\); 2 ready: serving"):
        one.launch("both", 3.0, 300.0)
    assert after("free", "launch", "") == "starting"


def test_a_life() -> None:
    one = member(processes=2)
    one.launch("decode", 1.0, 300.0)
    assert (one.start, one.role, one.due, one.committed, one.live) == (1, "decode", 301.0, True, True)
    assert not one.ready(WorkerId("other"), 1, 5.0)
    assert one.ready(W, 0, 6.0)
    assert (one.worker, one.state, one.shown) == (W, "serving", "serving")
    one.retire(10.0, 5.0, "too many")
    assert (one.due, one.committed, one.live) == (15.0, False, True)
    one.end(15.0, "late")
    one.gone(16.0, "as it was told")
    assert (one.worker, one.shown, one.state, one.up) == (None, "ended", "free", set())
    one.launch("both", 17.0, 300.0)
    assert one.start == 2
    one.check()


def test_only_time_in_service_makes_an_end_no_quick_one() -> None:
    one = member()
    waits = []
    for start in range(5):
        now = start * 100.0
        one.launch("both", now, 300.0)
        waits.append(one.wait(now + 90.0, "crashed").delay_s)  # loading for long is not serving
    assert waits == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert one.looping
    one.launch("both", 600.0, 300.0)
    one.ready(W, 0, 610.0)
    assert one.wait(612.0, "killed").quick_ends == 0
    assert not one.looping


def test_a_place_that_gave_up_waiting_is_not_free_before_its_time() -> None:
    one = member()
    one.launch("both", 0.0, 300.0)
    one.wait(1.0, "crashed")
    one.launch("both", 1.0, 300.0)
    one.wait(2.0, "crashed")
    one.gone(2.1, "another place takes over")
    assert (one.state, one.due) == ("free", 2.5)


def test_a_place_that_is_held_stays_empty_until_released() -> None:
    one = member()
    one.launch("both", 0.0, 300.0)
    one.end(1.0, "held")
    one.hold(1.0)
    one.gone(2.0, "as it was told")
    assert one.shown == "held"
    one.check()
    one.release(3.0)
    assert (one.state, one.due) == ("free", 3.0)


def test_parts_that_contradict_each_other_are_a_bug() -> None:
    one = member()
    one.up.add(0)
    with pytest.raises(Bug, match="contradicts itself"):
        one.check()
