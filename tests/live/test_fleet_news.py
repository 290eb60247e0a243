"""What people are told of the fleet."""

import msgspec

from jedlik.core.facts import MemberMoved, Planned
from jedlik.core.plans import Reason
from jedlik.live.planner import FleetNews

DECIDED = Planned(
    at=1.0,
    planner="jedlik",
    serving={"both": 1},
    starting={},
    draining={},
    wanted={"both": 2},
    done=("start worker-1 (both)",),
    why="more is asked for",
    reasons=(Reason("rate", 3.25, "1/s"), Reason("hits", None)),
)


def told(*facts: Planned | MemberMoved, ended: str | None = None) -> list[str]:
    said: list[str] = []
    telling = FleetNews(said.append)
    if ended is not None:
        telling.ended("worker-1", ended)
    for fact in facts:
        telling.fact(fact)
    return said


def moved(state: str, why: str) -> MemberMoved:
    return MemberMoved(at=1.0, name="worker-1", start=2, state=state, role="both", why=why)


def test_a_decision_has_its_reasons_in_numbers() -> None:
    assert told(DECIDED) == ["jedlik: start worker-1 (both). more is asked for (rate 3.25 1/s, hits unknown)"]


def test_a_decision_that_changes_nothing_and_the_counts_at_start_are_not_worth_a_line() -> None:
    nothing = msgspec.structs.replace(DECIDED, done=())
    at_start = msgspec.structs.replace(DECIDED, planner="static")
    again = msgspec.structs.replace(DECIDED, done=("start worker-1 again (both)",))
    assert told(nothing, at_start, again) == []


def test_advice_says_what_would_be() -> None:
    advice = msgspec.structs.replace(DECIDED, advice=True, done=(), wanted={"prefill": 2, "decode": 1}, reasons=())
    assert told(advice) == ["jedlik would have 2 prefill and 1 decode instead of 1 worker. more is asked for"]


def test_a_worker_that_ended_is_told_of_with_what_follows() -> None:
    assert told(moved("waiting", "killed; next start in 0 s"), ended="was killed by SIGKILL") == [
        "worker-1 was killed by SIGKILL; starting it again (next start in 0 s)"
    ]
    assert told(moved("waiting", "crashed; crash loop, next start in 4 s"), ended="ended with code 1") == [
        "worker-1 ended with code 1; starting it again (crash loop, next start in 4 s); its output says why"
    ]
    assert told(moved("ended", "as it was told"), ended="ended with code 0") == [
        "worker-1 ended with code 0 (as it was told)"
    ]


def test_moves_without_an_end_are_not_worth_a_line() -> None:
    assert told(moved("starting", "wanted"), moved("serving", "ready"), moved("held", "held")) == []
