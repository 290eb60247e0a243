"""`jedlik plan --advise` and `--explain` on a running server: what they print, and their exit codes."""

import msgspec
import pytest
from top_given import DECISIONS, PLAN, lines, plan, serving

from jedlik.console.plan_live import advised, explained, show_plan
from jedlik.console.plan_seen import Decision, PlanAnswer, gap, read_plan
from jedlik.console.top_page import span
from jedlik.core.config import PlannerConfig
from jedlik.core.errors import ConfigError
from jedlik.core.events import MemberReady, Woken
from jedlik.core.ids import WorkerId
from jedlik.core.plans import Place, Reason, Wish
from jedlik.nodes.planner.node import PlannerNode
from jedlik.planning.policy import Situation


def test_what_is_done_now_and_why() -> None:
    assert lines(advised(plan())) == [
        "planner jedlik, mode on, budget 4, a start takes about 30s",
        "role  serving  starting  draining  wanted",
        "both        1         2         1       3",
        "now: as many as demand needs",
        "",
        "last done: start worker-2 (both)  10s ago",
        "demand at the time a start would be ready exceeds what is committed",
        "demand          12.5 requests/s",
        "predicted TTFT           310 ms",
        "hit rate                unknown",
    ]


def test_what_would_be_done_where_the_mode_is_to_advise() -> None:
    shown = lines(advised(plan(mode="advise", advice={"both": 4})))
    assert shown[1:3] == [
        "role  serving  starting  draining  wanted  advised",
        "both        1         2         1       3        4",
    ]
    assert "would do: start 3 both  1m00s ago" in shown


def test_off_says_how_to_turn_it_on() -> None:
    shown = " ".join(lines(advised(plan(mode="off", decisions=[]))))
    assert "--planner.budget" in shown
    assert "--planner.mode advise" in shown
    assert "serving" not in shown
    assert "--planner.budget" in " ".join(lines(explained(plan(mode="off", decisions=[]))))


def test_counts_by_hand_missing_reports_and_trouble_are_said() -> None:
    shown = " ".join(lines(advised(plan(by_hand={"both": 3}, stale=["gateway@1"], trouble="3 decode fit, 5 wanted"))))
    for said in ("set by hand", '{"auto": true}', "scales up only", "3 decode fit, 5 wanted", "would do: start 3 both"):
        assert said in shown


def test_before_the_first_decision() -> None:
    assert lines(advised(plan(decisions=[])))[-1].startswith("nothing has been decided yet")
    assert lines(explained(plan(decisions=[])))[-1] == "nothing has been decided yet"


def test_decisions_with_reasons_and_what_was_done_newest_first() -> None:
    assert lines(explained(plan()))[1:] == [
        "",
        "start worker-2 (both)  10s ago",
        "by jedlik: demand at the time a start would be ready exceeds what is committed",
        "  both: 1 serving, 1 draining -> 3 wanted",
        "  demand          12.5 requests/s",
        "  predicted TTFT           310 ms",
        "  hit rate                unknown",
        "",
        "would do: start 3 both  1m00s ago",
        "by jedlik: more of everything",
        "  both: 1 serving -> 4 wanted",
        "  the planner gave no numbers",
    ]


def test_every_key_may_be_missing() -> None:
    for page in (advised(PlanAnswer()), explained(PlanAnswer()), explained(PlanAnswer(decisions=(Decision(),)))):
        assert not any(character.isdigit() for line in lines(page) for character in line)
    assert lines(advised(PlanAnswer()))[0] == "planner –, mode –"
    with pytest.raises(ConfigError, match="this release"):
        read_plan(b'{"members": 3}')


class Wanting:
    """A planner of one mind."""

    name = "wanting"
    tick_s = 5.0

    def decide(self, situation: Situation) -> Wish:
        return Wish({"both": 2}, "two are right", (Reason("load", 0.5, "share"), Reason("hit rate", None)))


def test_what_a_planner_node_says_is_understood() -> None:
    places = [Place(name="w0"), Place(name="w1")]
    node = PlannerNode(PlannerConfig(mode="on", budget=2), Wanting(), places, {"both": 1}, (0.2, None))
    node.handle(Woken(), 1.0)
    node.handle(MemberReady("w0", 1, WorkerId("w0@1")), 2.0)
    seen = read_plan(msgspec.json.encode(node.plan(30.0)))
    assert (seen.mode, seen.budget, seen.now, seen.followed) == ("on", 2.0, 30.0, True)
    assert seen.counted("serving") == {"both": 1}
    assert seen.roles() == ["both"]
    assert seen.members[0].since_s == 28.0
    text = lines(explained(seen))
    assert text[0] == f"planner wanting, mode on, budget 2, a start takes about {span(seen.start_s)}"
    assert "start w0 (both)  29s ago" in text
    assert lines(advised(seen))[2] == "both        1         0         0       1"


def test_a_gap_in_words() -> None:
    one = Decision(
        serving={"prefill": 3, "decode": 1}, starting={"decode": 1}, wanted={"prefill": 1, "decode": 4, "both": 1}
    )
    assert gap(one) == "drain 2 prefill, start 2 decode, start 1 both"
    assert gap(Decision(serving={"both": 2}, wanted={"both": 2})) == "nothing"


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with serving({"/plan": (200, msgspec.json.encode(PLAN))}) as url:
        assert show_plan(url, None, explain=False) == 0
        assert "last done: start worker-2" in capsys.readouterr().out
        assert show_plan(url, None, explain=True) == 0
        assert str(DECISIONS[1]["why"]) in capsys.readouterr().out
    for answers, said in (
        ({}, "has no planner"),
        ({"/plan": (401, b'{"error": {"message": "No key."}}')}, "No key. (give the key with --api-key)"),
        ({"/plan": (503, b'{"error": {"message": "The supervisor is away."}}')}, "The supervisor is away."),
    ):
        with serving(answers) as url:
            assert show_plan(url, None, explain=False) == 2
            assert said in capsys.readouterr().err
    assert show_plan("http://127.0.0.1:9", None, explain=True) == 2
    assert "no server answers" in capsys.readouterr().err
