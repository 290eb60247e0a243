"""The planner that wishes the same for ever."""

from jedlik.core.plans import Demand, Wish
from jedlik.planning.named import make
from jedlik.planning.policy import Limits, Situation, Terms

QUIET = Demand(0, 0, {}, 0, 0, 0, 0, {}, 0, 0, 0, 0, 0.0, 0.0, 0)
BUSY = Demand(99, 9900, {20: 99}, 9, 900, 0, 90, {10: 9}, 50, 0, 1, 0, 9.0, 0.9, 9)


def test_it_wishes_what_there_was_at_start() -> None:
    planner = make("static", {"prefill": 1, "decode": 3}, Terms(Limits(4, 1, 1, 1), 0.95, 5.0, None, None))
    assert (planner.name, planner.tick_s) == ("static", 5.0)
    for demand in (QUIET, BUSY):
        situation = Situation(1.0, 5.0, demand, 0, 0, (), {}, True, False, 30.0, None, None)
        assert planner.decide(situation) == Wish({"prefill": 1, "decode": 3}, "the counts at start")
