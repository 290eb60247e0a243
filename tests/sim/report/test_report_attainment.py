"""Attainment, the worst minute and what they cost, of runs made by hand."""

import msgspec
import pytest
from report_runs import outcome, run

from jedlik.core.facts import Planned
from jedlik.core.plans import Reason
from jedlik.sim.outcome import Action, Missed, Outcome, PlanningRecord, SimulationRun, Staff
from jedlik.sim.report.columns import Slo
from jedlik.sim.report.numbers import Summary, summarise, to_json
from jedlik.sim.report.page import page
from jedlik.sim.report.table import overview

SLO = Slo(2.0, 0.02)


def figures(of: SimulationRun, slo: Slo = SLO, cost: float | None = None) -> Summary:
    return summarise(of, slo, "jedlik", 0, cost)


def late(**given: object) -> Outcome:
    return outcome(ttft_s=3.0, ended_s=4.0, **given)


def shed(**given: object) -> Outcome:
    return outcome(outcome="overloaded", ttft_s=None, output_tokens=0, **given)


def test_attainment_is_of_what_can_be_attained_and_counts_what_was_missed() -> None:
    outcomes = [outcome(), outcome(), late(), shed(), shed()]
    attainable = [True, True, True, True, False]
    unended = [Missed(1.0, True), Missed(1.0, False)]
    found = figures(run(outcomes, attainable=attainable, unended=unended, offered=7))
    assert found.goodput == pytest.approx(2 / 7)
    assert found.slo_attainment == pytest.approx(2 / 5)
    assert found.attainable_share == pytest.approx(5 / 7)
    assert found.goodput_per_gpu_s == pytest.approx(2 / 40)


def test_what_was_answered_in_time_was_attainable_whatever_arithmetic_says() -> None:
    found = figures(run([outcome(), late()], attainable=[False, False]))
    assert (found.slo_attainment, found.attainable_share) == (1.0, 0.5)


def test_without_a_judgement_all_are_attainable() -> None:
    found = figures(run([outcome(), late()]))
    assert (found.slo_attainment, found.attainable_share) == (0.5, 1.0)


def test_without_slos_there_is_nothing_to_say() -> None:
    found = figures(run([outcome()]), Slo())
    assert found.slo_attainment is found.attainable_share is found.worst_minute_attainment is None
    assert found.goodput_per_gpu_s is None


def test_the_worst_minute_is_a_whole_one_with_ten_requests() -> None:
    first = [outcome(arrived_s=6.0 * n, ended_s=6.0 * n + 2.0) for n in range(10)]
    second = [outcome(arrived_s=61.0, ended_s=63.0)] * 8 + [shed(arrived_s=62.0)] * 2
    few = [shed(arrived_s=125.0)] * 9
    after = [shed(arrived_s=185.0)] * 20
    found = figures(run(first + second + few + after, duration_s=230.0))
    assert found.worst_minute_attainment == pytest.approx(0.8)
    assert figures(run(first, duration_s=59.0)).worst_minute_attainment is None


def test_those_that_had_not_ended_count_in_their_minute() -> None:
    outcomes = [outcome(arrived_s=1.0)] * 10
    found = figures(run(outcomes, unended=[Missed(30.0, True)] * 10, offered=20, duration_s=60.0))
    assert found.worst_minute_attainment == 0.5


DECISION = Planned(
    at=5.0,
    planner="hpa",
    serving={"both": 1},
    starting={},
    draining={},
    wanted={"both": 2},
    done=("start a/1 (both)",),
    why="busy",
    reasons=(Reason("load", 1.5, "requests"), Reason("room", None)),
)
PLANNING = PlanningRecord(
    planner="hpa", budget=3.0, actions=[Action(5.0, "start", "a/1", "both")], decisions=[DECISION]
)


def planned() -> SimulationRun:
    """Two minutes; a second worker from 10 s on."""
    outcomes = [outcome(arrived_s=n * 1.0, ended_s=n + 2.0) for n in range(118)]
    actions = [Action(5.0, "start", "a/1"), Action(10.0, "serve", "a/1"), Action(20.0, "crash", "a/0")]
    staff = [
        Staff(0.0, {"both": 1}, {}, {}),
        Staff(5.0, {"both": 1}, {"both": 1}, {}),
        Staff(10.0, {"both": 2}, {}, {}),
    ]
    return run(outcomes, planning=PLANNING, staff=staff, actions=actions, duration_s=120.0, up_s=[120.0, 115.0])


def test_what_a_planner_did_and_what_it_cost() -> None:
    found = figures(planned(), cost=3.0)
    assert (found.planner, found.planner_actions, found.gpus) == ("hpa", 1, 3.0)
    assert [action.kind for action in found.planner_action_list] == ["start"]
    assert found.actions == 3
    assert found.cost == pytest.approx(found.gpu_hours * 3.0)
    assert figures(planned()).cost is None
    told = msgspec.json.decode(to_json(found))["decisions"]
    assert told == [
        {
            "at_s": 5.0,
            "wanted": {"both": 2},
            "serving": {"both": 1},
            "starting": {},
            "draining": {},
            "done": ["start a/1 (both)"],
            "why": "busy",
            "reasons": {"load, requests": 1.5, "room": None},
        }
    ]


def test_tables_and_pages_tell_of_the_planner_where_there_was_one() -> None:
    rows = dict(overview(figures(planned(), cost=3.0)))
    assert rows["attainment"] == "100.0 %, 100.0 % in the worst minute"
    assert rows["planner"].startswith("hpa, 1 actions")
    html = page(planned(), figures(planned()), "t", [])
    assert "Workers over time" in html
    assert "Attainment by the minute" in html
    plain = msgspec.structs.replace(planned(), planning=None)
    assert "planner" not in dict(overview(figures(plain)))
    assert "Workers over time" not in page(plain, figures(plain), "t", [])


def test_marks_are_what_nobody_planned() -> None:
    html = page(planned(), figures(planned()), "t", [])
    assert "crash a/0" in html
    assert "start a/1</title>" not in html
