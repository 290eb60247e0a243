"""The planner that wishes the same for ever."""

from jedlik.core.plans import Demand, Wish
from jedlik.planning.planners import maker_of
from jedlik.planning.policy import Limits, Situation, Terms

QUIET = Demand(
    arrived=0,
    prompt_tokens=0,
    prompts={},
    answered=0,
    answered_prompt_tokens=0,
    cached_tokens=0,
    output_tokens=0,
    outputs={},
    refused=0,
    failed=0,
    met=0,
    missed_alone=0,
    ttft_sum_s=0.0,
    itl_sum_s=0.0,
    itl_count=0,
)
BUSY = Demand(
    arrived=99,
    prompt_tokens=9900,
    prompts={20: 99},
    answered=9,
    answered_prompt_tokens=900,
    cached_tokens=0,
    output_tokens=90,
    outputs={10: 9},
    refused=50,
    failed=0,
    met=1,
    missed_alone=0,
    ttft_sum_s=9.0,
    itl_sum_s=0.9,
    itl_count=9,
)


def test_it_wishes_what_there_was_at_start() -> None:
    planner = maker_of("static")({"prefill": 1, "decode": 3}, Terms(Limits(4, 1, 1, 1), 0.95, 5.0, None, None))
    assert (planner.name, planner.tick_s) == ("static", 5.0)
    for demand in (QUIET, BUSY):
        situation = Situation(1.0, 5.0, demand, 0, 0, (), {}, True, False, 30.0, None, None)
        assert planner.decide(situation) == Wish({"prefill": 1, "decode": 3}, "the counts at start")
