"""The planner node: given these events, expect these effects."""

import json

import pytest
from planner_given import G, Given, H, Told, demand, id_of, moved, places, planned, report, seen

from jedlik.core.config import PlannerConfig
from jedlik.core.effects import ChangeRole, End, Launch, Note, Retire, Wake
from jedlik.core.errors import Bug
from jedlik.core.events import Adopted, GatewayGone, Hold, MemberEnded, MemberReady, Scale, Woken
from jedlik.core.facts import MemberMoved, Planned
from jedlik.core.plans import Place, Wish
from jedlik.planning.policy import Pool, Situation


def test_a_fleet_begins() -> None:
    given = Given(Told(both=2), places(3), {"both": 2})
    first = [
        Launch("w0", 1, "both"),
        Note(MemberMoved(at=0.0, name="w0", start=1, state="starting", role="both", why="wanted")),
        Launch("w1", 1, "both"),
        Note(MemberMoved(at=0.0, name="w1", start=1, state="starting", role="both", why="wanted")),
        Note(
            Planned(
                at=0.0,
                planner="static",
                serving={"both": 0},
                starting={"both": 2},
                draining={"both": 0},
                wanted={"both": 2},
                done=("start w0 (both)", "start w1 (both)"),
                why="the counts at start",
                reasons=(),
            )
        ),
        Wake(5.0),
    ]
    assert given.on(Woken(), 0.0) == first
    assert given.on(Woken(), 0.0) == [Wake(5.0)]
    ready = Note(MemberMoved(at=60.0, name="w0", start=1, state="serving", role="both", why="ready"))
    assert given.on(MemberReady("w0", 1, id_of("w0")), 60.0)[0] == ready
    assert given.planner.seen[-1].pools == {"both": Pool(1, (0.0,))}


def test_more_are_started_and_fewer_drained() -> None:
    given = Given(Told(both=3), places(4), {"both": 1})
    given.begin("w0")
    assert given.tick() == [Launch("w1", 1, "both"), Launch("w2", 1, "both")]
    assert given.ready("w1") == given.ready("w2") == []
    given.planner.wish(both=1, why="less to do")
    effects = given.on(
        report(10.0, [seen(id_of("w1"), waiting_tokens=500), seen(id_of("w0")), seen(id_of("w2"))]), 10.0
    )
    assert effects[:-2] == [
        Retire("w2", 1, 120.0),
        Note(MemberMoved(at=10.0, name="w2", start=1, state="draining", role="both", why="too many")),
        Retire("w0", 1, 120.0),
        Note(MemberMoved(at=10.0, name="w0", start=1, state="draining", role="both", why="too many")),
    ]
    assert [fact.done for fact in planned(effects)] == [("drain w2", "drain w0")]
    assert [fact.why for fact in planned(effects)] == ["less to do"]
    assert effects[-1] == Wake(15.0)
    assert given.ended("w0", cause="asked") == []
    assert given.states() == {"w1": "serving", "w2": "draining"}


def test_who_does_not_drain_in_time_is_ended() -> None:
    given = Given(Told(both=1), places(2), {"both": 2}, PlannerConfig(mode="on", drain_s=7.0))
    given.begin("w0", "w1")
    assert given.tick() == [Retire("w1", 1, 7.0)]
    assert given.on(Woken(), 10.0)[-1] == Wake(12.0)
    assert given.acts(Woken(), 11.9) == []
    effects = given.on(Woken(), 12.0)
    assert effects[0] == End("w1", 1)
    assert planned(effects)[0].done == ("end w1 (its time to finish is over)",)
    assert given.states()["w1"] == "ending"
    assert given.ended("w1", cause="asked") == []
    assert given.states() == {"w0": "serving"}


def test_who_starts_is_cancelled_first() -> None:
    given = Given(Told(both=3), places(3), {"both": 2})
    given.begin("w0", "w1")
    assert given.tick() == [Launch("w2", 1, "both")]
    given.planner.wish(both=2)
    assert given.tick() == [End("w2", 1)]
    assert given.ready("w2") == []  # it was faster than the order
    assert given.states()["w2"] == "ending"
    given.planner.wish(both=3)
    assert given.tick() == []  # there is no other place
    assert given.ended("w2", cause="asked") == [Launch("w2", 2, "both")]


def test_what_leaves_still_holds_its_gpus() -> None:
    config = PlannerConfig(mode="on", budget=4.0, min_prefill=0)
    given = Given(Told(), places(6, gpus=2.0), {"prefill": 1, "decode": 1}, config)
    given.begin("w0", "w1")
    given.planner.wish(decode=2, flips=False)
    assert given.tick([seen(id_of("w0"), "prefill"), seen(id_of("w1"), "decode")]) == [Retire("w0", 1, 120.0)]
    assert given.tick() == []
    assert given.ended("w0", cause="asked") == [Launch("w0", 2, "decode")]


# --- roles ----------------------------------------------------------------------------------------------------------


def split(prefill: int, decode: int) -> Given:
    """Four workers: w0 and w2 prefill, w1 and w3 decode."""
    given = Given(Told(prefill=prefill, decode=decode), places(5), {"prefill": 2, "decode": 2})
    given.begin("w0", "w1", "w2", "w3")
    assert given.roles() == {"w0": "prefill", "w1": "decode", "w2": "prefill", "w3": "decode"}
    return given


def test_a_role_is_changed_rather_than_started() -> None:
    given = split(prefill=1, decode=3)
    workers = [seen(id_of("w0"), "prefill"), seen(id_of("w2"), "prefill", waiting_tokens=900)]
    effects = given.on(report(5.0, workers), 5.0)
    assert effects[:2] == [
        ChangeRole(id_of("w0"), "decode"),
        Note(MemberMoved(at=5.0, name="w0", start=1, state="serving", role="decode", why="now decode")),
    ]
    assert [(fact.done, fact.serving) for fact in planned(effects)] == [
        (("w0: prefill to decode",), {"prefill": 1, "decode": 3})
    ]
    assert given.tick([seen(id_of("w0"), "prefill")]) == []  # not seen yet, it counts all the same
    for _ in range(8):
        assert given.tick([seen(id_of("w0"), "decode")]) == []
    assert given.roles()["w0"] == "decode"


def test_a_change_of_role_that_never_shows_is_taken_back_and_in_the_end_somebody_is_started() -> None:
    given = split(prefill=1, decode=3)
    workers = [seen(id_of("w0"), "prefill"), seen(id_of("w2"), "prefill")]
    acts = [act for _ in range(40) for act in given.tick(workers)]
    changes = [act.worker for act in acts if isinstance(act, ChangeRole)]
    assert changes == [id_of(name) for name in ("w2", "w0", "w2", "w0", "w2", "w0")]  # the other one, each time
    assert acts[-2:] == [Retire("w2", 1, 120.0), Launch("w4", 1, "decode")]
    assert given.roles() == {"w0": "prefill", "w1": "decode", "w2": "prefill", "w3": "decode", "w4": "decode"}


def test_who_is_still_starting_is_told_its_other_role_when_it_serves() -> None:
    given = Given(Told(prefill=1, decode=2), places(3), {"prefill": 1, "decode": 1})
    given.begin("w0", "w1")
    assert given.tick() == [Launch("w2", 1, "decode")]
    given.planner.wish(prefill=2, decode=1)
    assert given.tick() == []
    assert given.planner.seen[-1].pools["decode"].starting == (55.0,)
    assert given.roles()["w2"] == "prefill"
    assert given.ready("w2") == [ChangeRole(id_of("w2"), "prefill")]


def test_without_flips_one_is_drained_and_another_started() -> None:
    given = split(prefill=2, decode=2)
    given.planner.wish(prefill=1, decode=3, flips=False)
    assert given.tick() == [Retire("w2", 1, 120.0), Launch("w4", 1, "decode")]


def test_somebody_elses_change_of_role_is_seen() -> None:
    given = split(prefill=2, decode=2)
    given.planner.answer = lambda situation: Wish({role: pool.committed for role, pool in situation.pools.items()})
    for _ in range(8):
        given.tick([seen(id_of("w1"), "prefill")])
    assert given.roles()["w1"] == "prefill"


# --- ends -----------------------------------------------------------------------------------------------------------


def test_who_ends_by_itself_is_started_again_later_and_later() -> None:
    given = Given(Told(both=2), places(2), {"both": 2}, PlannerConfig(mode="off"))
    given.begin("w0", "w1")
    given.now = 100.0
    assert given.ended("w1", cause="killed") == [Launch("w1", 2, "both")]
    given.ready("w1", 2)
    assert given.ended("w1", 2) == [Launch("w1", 3, "both")]  # quick, the first time
    effects = given.on(MemberEnded("w1", 3, "crashed"))
    assert effects == [
        Note(
            MemberMoved(at=100.0, name="w1", start=3, state="waiting", role="both", why="crashed; next start in 0.5 s")
        ),
        Wake(100.5),
    ]
    assert given.acts(Woken(), 100.4) == []
    assert given.acts(Woken(), 100.5) == [Launch("w1", 4, "both")]
    assert given.ended("w1", 4) == []
    assert given.acts(Woken(), 101.5) == [Launch("w1", 5, "both")]
    effects = given.on(MemberEnded("w1", 5, "crashed"))
    assert given.why("w1") == "crashed; crash loop, next start in 2 s"
    assert "crash loop at w1" in planned(given.on(Woken(), 103.5))[0].why


def test_another_place_takes_over_from_a_crash_loop() -> None:
    given = Given(Told(both=2), places(3), {"both": 2}, PlannerConfig(mode="off"))
    given.begin("w0")
    starts = []
    for start in range(1, 5):
        given.now += 10.0
        given.on(Woken())
        starts += given.ended("w1", start)
    assert starts == [Launch("w1", 2, "both"), Launch("w2", 1, "both")]
    assert given.states() == {"w0": "serving", "w2": "starting"}
    given.ready("w2")
    given.now += 10.0
    assert given.ended("w0", cause="hopeless") == [Launch("w1", 5, "both")]  # nobody else is left
    given.now += 10.0
    assert given.ended("w1", 5) == []
    assert given.states() == {"w1": "waiting", "w2": "serving"}


def test_what_is_hopeless_is_not_started_again() -> None:
    given = Given(Told(both=1), places(1), {"both": 1})
    given.begin()
    assert given.ended("w0", cause="hopeless") == []
    assert given.why("w0") == "hopeless: another start can't help"
    assert given.tick() == []
    assert given.acts(Hold("w0", False)) == [Launch("w0", 2, "both")]


def test_a_start_that_never_ends_is_ended() -> None:
    given = Given(Told(both=1), places(1), {"both": 1}, PlannerConfig(mode="on", start_s=45.0))
    given.begin()
    assert given.acts(Woken(), 449.0) == []
    assert given.acts(Woken(), 450.0) == [End("w0", 1)]
    assert given.ended("w0", cause="asked") == [Launch("w0", 2, "both")]
    assert given.acts(Woken(), 900.0) == [End("w0", 2)]
    assert given.ended("w0", 2, cause="killed") == []  # it counts as a quick end
    assert given.why("w0") == "late; next start in 0.5 s"


def test_what_is_said_of_earlier_starts_is_ignored() -> None:
    given = Given(Told(both=1), places(1), {"both": 1})
    given.begin("w0")
    assert given.ended("w0") == [Launch("w0", 2, "both")]
    assert given.on(MemberEnded("w0", 1, "crashed")) == given.on(MemberReady("w0", 1, id_of("w0"))) == []
    given.ready("w0", 2)
    assert given.ready("w0", 2) == []
    assert given.states() == {"w0": "serving"}


def test_a_place_that_is_not_there_is_a_bug() -> None:
    with pytest.raises(Bug, match="no place 'w7'"):
        Given(Told(both=1), places(1), {"both": 1}).on(Hold("w7", True))


def test_a_gang_serves_and_ends_as_a_whole() -> None:
    given = Given(Told(both=1), places(1, gpus=2.0, processes=3), {"both": 1})
    given.begin()
    for rank in (2, 0):
        given.ready("w0", rank=rank)
        assert given.states() == {"w0": "starting"}
    given.ready("w0", rank=1)
    assert given.states() == {"w0": "serving"}
    assert given.ended("w0", rank=1) == [End("w0", 1)]
    assert given.ended("w0", rank=1) == given.ended("w0", rank=0, cause="asked") == []
    assert given.states() == {"w0": "ending"}
    assert given.ended("w0", rank=2, cause="asked") == [Launch("w0", 2, "both")]
    assert given.why("w0") == "again"


def test_a_gang_that_drains_is_not_started_again() -> None:
    given = Given(Told(both=1), places(2, processes=2), {"both": 2})
    given.begin()
    for name in ("w0", "w1"):
        for rank in (0, 1):
            given.ready(name, rank=rank)
    assert given.tick() == [Retire("w1", 1, 120.0)]
    assert given.ended("w1", rank=0, cause="asked") == [End("w1", 1)]
    assert given.ended("w1", rank=1, cause="asked") == []
    assert given.states() == {"w0": "serving"}


def test_who_no_gateway_hears_of_is_ended_and_started_again() -> None:
    given = Given(Told(both=2), places(2), {"both": 2})
    given.begin("w0", "w1")
    both = [seen(id_of("w0")), seen(id_of("w1"))]
    for _ in range(3):
        assert given.tick(both) == []
    acts = [(given.now, act) for _ in range(20) for act in given.tick([seen(id_of("w0"))])]
    assert acts == [(75.0, End("w1", 1))]
    assert given.ended("w1", cause="asked") == [Launch("w1", 2, "both")]


def test_gateways_that_hear_of_nobody_prove_nothing() -> None:
    given = Given(Told(both=2), places(2), {"both": 2})
    given.begin("w0", "w1")
    given.tick([seen(id_of("w0")), seen(id_of("w1"))])
    assert [act for _ in range(30) for act in given.tick()] == []


# --- after a restart ------------------------------------------------------------------------------------------------


def test_what_runs_is_adopted_and_kept() -> None:
    given = Given(Told(both=1), places(4), {"both": 2})
    assert given.on(Adopted("w1", 7, "both")) == [
        Note(MemberMoved(at=0.0, name="w1", start=7, state="starting", role="both", why="found running")),
    ]
    given.ready("w1", 7)
    given.on(Adopted("w3", 2, "both"))
    given.ready("w3", 2)
    given.on(Adopted("w0", 1, "both"))
    assert given.acts(Woken()) == []  # three where two are wanted: nobody has reported, so nobody is ended
    assert given.acts(Woken(), 5.0) == []
    assert given.planner.seen[-1].stale
    assert given.ended("w1", 7) == [Launch("w1", 8, "both")]
    assert given.tick([seen(id_of("w3", 2))]) == [End("w1", 8), End("w0", 1)]


def test_what_lacks_after_adoption_is_started() -> None:
    given = Given(Told(both=2), places(3), {"both": 2}, PlannerConfig(mode="off"))
    given.on(Adopted("w1", 7, "both"))
    given.ready("w1", 7)
    assert given.acts(Woken()) == [Launch("w0", 1, "both")]


# --- what is seen ---------------------------------------------------------------------------------------------------


def test_while_a_gateway_is_silent_nothing_is_taken_away() -> None:
    given = Given(Told(both=3), places(4), {"both": 3})
    given.begin("w0", "w1", "w2")
    given.on(report(4.0), 4.0)
    given.on(report(4.5, gateway=H), 4.5)
    assert given.acts(Woken(), 5.0) == []
    given.planner.wish(both=1)
    effects = given.on(report(10.0), 10.0)  # the other one has been silent for 5.5 s
    assert given.planner.seen[-1].stale
    assert given.node.plan(10.0)["stale"] == [H]
    assert effects == [Wake(15.0)]
    given.planner.wish(both=4)
    assert given.tick() == [Launch("w3", 1, "both")]
    given.planner.wish(both=1)
    assert given.tick() == []
    given.on(GatewayGone(H))
    assert given.tick() == [End("w3", 1), Retire("w2", 1, 120.0), Retire("w1", 1, 120.0)]


def test_a_newer_incarnation_takes_a_silent_gateways_place() -> None:
    given = Given(Told(both=1), places(2), {"both": 2})
    given.begin("w0", "w1")
    given.on(report(1.0), 1.0)
    newer = report(5.0, gateway=type(G)("gateway@2"))
    assert given.acts(newer, 5.0) == [Retire("w1", 1, 120.0)]
    assert not given.planner.seen[-1].stale


def test_demand_is_summed_until_it_is_asked_for() -> None:
    given = Given(Told(both=1), places(2), {"both": 1})
    given.begin("w0")
    for second in (1.0, 2.0, 3.0, 4.0):
        given.on(report(second, asked=demand(10, 5, 100)), second)
        given.on(report(second, asked=demand(2), gateway=H), second)
    given.on(report(4.0, asked=demand(99)), 4.0)  # twice
    given.on(Woken(), 5.0)
    situation = given.planner.seen[-1]
    assert (situation.period_s, situation.demand) == (4.0, demand(48, 20, 400))
    given.on(report(9.0, asked=demand(1)), 9.0)
    given.on(Woken(), 10.0)
    assert given.planner.seen[-1].period_s == 1.0  # the other gateway is silent: not waited for
    given.on(report(14.0, gateway=H), 14.0)
    given.on(report(14.5, asked=demand(3)), 14.5)
    given.on(Woken(), 15.0)
    assert (given.planner.seen[-1].period_s, given.planner.seen[-1].demand) == (1.0, demand(3))
    given.on(Woken(), 20.0)
    assert (given.planner.seen[-1].period_s, given.planner.seen[-1].demand) == (0.0, demand())


def test_of_two_views_of_a_worker_the_fresher_counts() -> None:
    given = Given(Told(both=1), places(1), {"both": 1})
    given.begin("w0")
    given.on(report(4.0, [seen(id_of("w0"), waiting_tokens=1, age_s=0.5)]), 4.0)
    given.on(report(4.5, [seen(id_of("w0"), waiting_tokens=2, age_s=2.0)], gateway=H), 4.5)
    given.on(Woken(), 5.0)
    assert [worker.waiting_tokens for worker in given.planner.seen[-1].workers] == [1]


def test_a_backlog_is_answered_within_a_second() -> None:
    given = Given(Told(both=2), places(3), {"both": 1})
    given.begin("w0")
    given.on(report(5.0), 5.0)
    assert given.on(report(5.4, waiting=3), 5.4)[-1] == Wake(6.0)
    given.planner.wish(both=3)
    assert given.acts(Woken(), 6.0) == [Launch("w2", 1, "both")]
    assert given.on(report(6.5), 6.5) == []
    assert given.on(Woken(), 6.5) == [Wake(11.0)]


def test_a_backlog_at_a_worker_is_urgent_beyond_the_promise() -> None:
    given = Given(Told(both=1), places(1), {"both": 1})
    given.begin("w0")
    given.on(report(1.0, [seen(id_of("w0"), waiting_tokens=600)]), 1.0)  # nothing is promised
    given.on(report(2.0, [seen(id_of("w0"), waiting_tokens=400)], slo_ttft_s=0.5), 2.0)
    assert given.planner.seen == []
    given.on(report(3.0, [seen(id_of("w0"), waiting_tokens=600)], slo_ttft_s=0.5), 3.0)
    assert [situation.slo_ttft_s for situation in given.planner.seen] == [0.5]


# --- who decides ----------------------------------------------------------------------------------------------------


def test_counts_set_by_hand_hold_until_the_planner_may_again() -> None:
    given = Given(Told(both=1), places(4), {"both": 1}, PlannerConfig(mode="on", budget=3.0))
    given.begin("w0")
    effects = given.on(Scale({"both": 9}), 1.0)
    assert [one for one in effects if isinstance(one, Launch)] == [Launch("w1", 1, "both"), Launch("w2", 1, "both")]
    assert [(fact.planner, fact.wanted, fact.why) for fact in planned(effects)] == [
        ("hand", {"both": 3}, "set by hand; kept between floor and ceiling: 9 both wished")
    ]
    effects = given.on(report(5.0), 5.0)
    assert [(fact.planner, fact.advice, fact.wanted) for fact in planned(effects)] == [("told", True, {"both": 1})]
    assert given.tick() == []
    assert given.node.plan(10.0)["by_hand"] == {"prefill": 0, "decode": 0, "both": 3}
    assert given.acts(Scale(None)) == [End("w2", 1), End("w1", 1)]


def test_counts_by_hand_that_can_not_be_are_ignored() -> None:
    given = Given(Told(both=1), places(2), {"both": 1}, PlannerConfig(mode="off"))
    given.begin("w0")
    effects = given.on(Scale({"both": -1}))
    assert [fact.why for fact in planned(effects)] == [
        "the counts at start; somebody wants -1 workers for both: ignored"
    ]
    assert given.node.plan(0.0)["by_hand"] is None


def test_advice_changes_nothing() -> None:
    given = Given(Told(both=3), places(4), {"both": 1}, PlannerConfig(mode="advise"))
    given.begin("w0")
    effects = given.on(report(5.0), 5.0)
    assert [(fact.planner, fact.advice, fact.wanted, fact.done) for fact in planned(effects)] == [
        ("told", True, {"both": 3}, ())
    ]
    assert len(effects) == 2
    assert given.tick() == []
    assert given.ended("w0") == [Launch("w0", 2, "both")]


def test_off_never_asks() -> None:
    given = Given(Told(both=3), places(4), {"both": 1}, PlannerConfig(mode="off"))
    given.begin("w0")
    assert given.on(report(5.0, waiting=9), 5.0) == [Wake(10.0)]
    assert given.planner.seen == []


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ({"both": -1}, "planner told wishes -1 workers for both: its last wish stays"),
        ({"both": 1, "prefill": 1}, "planner told wishes workers for prefill where all do both: its last wish stays"),
        ({"drafting": 1}, "planner told wishes workers of a role 'drafting', which there is not: its last wish stays"),
        (None, "planner told failed (TypeError: 'NoneType' object is not a mapping): its last wish stays"),
    ],
)
def test_a_planner_that_fails_is_kept_out(counts: dict[str, int] | None, why: str) -> None:
    given = Given(Told(both=2), places(4), {"both": 1})
    given.begin("w0")
    given.tick()

    def answer(situation: Situation) -> Wish:
        return Wish({**counts})  # type: ignore[dict-item]

    good = given.planner.answer
    given.planner.answer = answer
    effects = given.on(report(10.0), 10.0)
    assert [(fact.why, fact.wanted) for fact in planned(effects)] == [(f"as told; {why}", {"both": 2})]
    assert given.on(report(15.0), 15.0) == [Wake(20.0)]
    given.planner.answer = good
    given.tick()
    assert given.node.plan(20.0)["trouble"] == ""


def test_floors_and_ceiling_hold() -> None:
    config = PlannerConfig(mode="on", budget=6.0, min_workers=4, min_prefill=1, min_decode=2)
    given = Given(Told(prefill=0, decode=0), places(9), {"prefill": 1, "decode": 1, "both": 1}, config)
    given.begin()
    wanted = given.node.plan(0.0)["wanted"]
    assert wanted == {"prefill": 1, "decode": 2, "both": 1}
    given.planner.wish(prefill=30, decode=10)
    given.tick()
    assert given.node.plan(5.0)["wanted"] == {"prefill": 3, "decode": 2, "both": 1}
    assert given.node.plan(5.0)["gpus"] == 6.0


def test_who_is_held_leaves_and_another_place_takes_over() -> None:
    given = Given(Told(both=1), places(2), {"both": 1}, PlannerConfig(mode="off"))
    given.begin("w0")
    assert given.acts(Hold("w0", True)) == [Retire("w0", 1, 120.0), Launch("w1", 1, "both")]
    assert given.acts(Hold("w0", True)) == []
    assert given.ended("w0", cause="asked") == []
    assert given.states() == {"w0": "held", "w1": "starting"}
    assert given.acts(Hold("w1", True)) == [End("w1", 1)]
    assert given.ended("w1", cause="asked") == []
    assert moved(given.on(Hold("w0", False))) == [("w0", 1, "ended"), ("w0", 2, "starting")]


def test_start_up_time_is_learnt() -> None:
    given = Given(Told(both=1), places(1), {"both": 1}, PlannerConfig(mode="on"))
    assert given.node.plan(0.0)["start_s"] == 30.0
    given.begin()
    given.on(MemberReady("w0", 1, id_of("w0")), 12.0)
    assert given.node.plan(12.0)["start_s"] == 12.0


def test_what_is_wanted_is_said_every_minute() -> None:
    given = Given(Told(both=1), places(1), {"both": 1})
    given.begin("w0")
    said = [fact.at for second in range(5, 130, 5) for fact in planned(given.on(report(second), second))]
    assert said == [60.0, 120.0]
    decisions = given.node.plan(130.0)["decisions"]
    assert isinstance(decisions, list)
    assert [decision["at"] for decision in decisions] == [120.0, 0.0]  # a mere repetition takes the last one's place


def test_the_plan_is_json() -> None:
    given = Given(Told(both=2), [Place(name="w0", path=("host", "0")), Place(name="w1")], {"both": 1})
    given.begin("w0")
    given.on(report(5.0, asked=demand(10, 5, 100)), 5.0)
    plan = json.loads(json.dumps(given.node.plan(7.0)))
    assert (plan["mode"], plan["planner"], plan["split"], plan["budget"]) == ("on", "told", False, None)
    assert plan["members"][0] == {
        "name": "w0",
        "start": 1,
        "role": "both",
        "state": "serving",
        "since_s": 7.0,
        "why": "ready",
        "worker": "w0@1",
        "quick_ends": 0,
        "hopeless": False,
        "place": {"name": "w0", "gpus": 0.0, "path": ["host", "0"], "processes": 1, "role": None},
    }
    assert plan["pools"] == {"both": {"serving": 1, "starting": 1, "ready_in_s": [58.0], "draining": 0}}
    assert [decision["done"] for decision in plan["decisions"]] == [["start w1 (both)"], ["start w0 (both)"]]
    assert plan["demand"]["arrived_per_s"] == 10.0
    assert plan["demand"]["hit_share"] == 0.5
