"""Planners that jedlik's is compared with: what they wish for, by their published formulas, worked by hand."""

import pytest
from baseline import fitted
from capacity import (
    Asked,
    Engine,
    aggregated_capacity,
    decode_capacity,
    most_within,
    prefill_capacity,
)
from dynamo import Dynamo
from dynamo_load import Scales, Seen
from hpa import Hpa, recommended
from hypothesis import given
from hypothesis import strategies as st
from kpa import Kpa
from predictors import AutoRegressive, Constant

from jedlik.core.config import Role
from jedlik.core.ids import WorkerId
from jedlik.core.plans import ROLES, Demand, WorkerSeen
from jedlik.core.protocol import StepCosts
from jedlik.perf.model import LinearModel
from jedlik.planning.policy import Limits, Planner, Pool, Situation, Terms

MODEL = LinearModel(
    StepCosts(base_s=0.01, prefill_token_s=1e-5, prefill_pair_s=0.0, decode_sequence_s=1e-3, context_token_s=0.0)
)
"""A step takes 10 ms, and 10 us for each prefilled token, 1 ms for each decode."""
ENGINE = Engine(MODEL, max_step_tokens=4000, max_sequences=64, kv_tokens=100_000)
USUAL = Asked(1000.0, 100.0)
TERMS = Terms(Limits(100, 1, 1, 1), 0.95, 5.0, MODEL, 100_000)
NOTHING = Demand(
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


def asked_for(count: int, prompt: int = 1000, output: int = 100, cached: int = 0) -> Demand:
    return Demand(
        arrived=count,
        prompt_tokens=count * prompt,
        prompts={},
        answered=count,
        answered_prompt_tokens=count * prompt,
        cached_tokens=cached,
        output_tokens=count * output,
        outputs={},
        refused=0,
        failed=0,
        met=count,
        missed_alone=0,
        ttft_sum_s=0.0,
        itl_sum_s=0.0,
        itl_count=0,
    )


def worker(number: int, running: int = 0, waiting_tokens: int = 0, context: int = 0, role: Role = "both") -> WorkerSeen:
    return WorkerSeen(
        worker=WorkerId(f"w{number}@1"),
        name=f"w{number}",
        role=role,
        draining=False,
        trusted=True,
        age_s=0.0,
        running=running,
        waiting=0,
        waiting_tokens=waiting_tokens,
        context_tokens=context,
        held_blocks=0,
        total_blocks=6251,
        block_size=16,
        max_sequences=64,
        max_step_tokens=4000,
        step_s=None,
        costs=None,
        correction=1.0,
        hit_tokens=0,
    )


def at(
    now: float,
    *workers: WorkerSeen,
    demand: Demand = NOTHING,
    starting: int = 0,
    draining: int = 0,
    waiting: int = 0,
    split: bool = False,
    stale: bool = False,
) -> Situation:
    pools = {role: Pool(sum(seen.role == role for seen in workers)) for role in ROLES}
    first: Role = "prefill" if split else "both"
    pools[first] = pools[first]._replace(starting=(60.0,) * starting, draining=draining)
    return Situation(now, 5.0, demand, waiting, waiting * 1000, workers, pools, split, stale, 60.0, 0.5, 0.05)


# --- capacity -------------------------------------------------------------------------------------------------------


def test_prefill_capacity_is_the_best_rate_that_keeps_the_ttft() -> None:
    # b prompts of 1,000 tokens take 10 + 10 b ms: 1 -> 50/s, 2 -> 66.7/s, 3 -> 75/s, 4 -> 80/s; chunk holds four
    assert prefill_capacity(ENGINE, USUAL, 0.5) == pytest.approx((80.0, 4, True))
    assert prefill_capacity(ENGINE, USUAL, 0.035) == pytest.approx((2 / 0.03, 2, True))
    assert prefill_capacity(ENGINE, USUAL, 0.001) == pytest.approx((80.0, 4, False))
    # what is cached is not computed, but for 5 %
    assert prefill_capacity(ENGINE, Asked(1000, 100, 0.5), 0.5).rate == pytest.approx(8 / 0.05)
    assert Asked(1000, 100, 1.0).fresh_tokens == 50


def test_decode_capacity_is_littles_law() -> None:
    # b decodes take 10 + b ms: 40 keep 50 ms
    assert decode_capacity(ENGINE, USUAL, 0.05) == pytest.approx((40 / (100 * 0.05), 40, True))
    assert decode_capacity(ENGINE, USUAL, None).batch == 64
    assert decode_capacity(ENGINE._replace(kv_tokens=10_500), USUAL, 0.05).batch == 10


def test_aggregated_capacity_prefills_what_keeps_the_batch_full() -> None:
    # b decodes and 10 b tokens take 10 + 1.1 b ms: 36 keep 50 ms; the rate is b / (100 * step)
    assert aggregated_capacity(ENGINE, USUAL, 0.5, 0.05) == pytest.approx((36 / (100 * 0.0496), 36, True))
    # the first token of a prompt behind the share of a step: 10 + b + 10 (b / 100 + 1) ms
    assert aggregated_capacity(ENGINE, USUAL, 0.0499, 0.05).batch == 27


def test_prompts_that_a_prefill_worker_may_have() -> None:
    assert most_within(0.1, ENGINE, USUAL) == 8  # two chunks of 50 ms
    assert most_within(0.0, ENGINE, USUAL) == 1


# --- HPA ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needed", "ready", "current", "desired"),
    [
        (2.1, 2, 2, 2),  # 5 % over: tolerated
        (2.3, 2, 2, 3),
        (1.7, 2, 2, 2),
        (0.9, 2, 2, 1),
        (5.0, 2, 5, 5),  # three are starting and will do
        (4.0, 2, 5, 5),  # they would be too many, but that is no reason to end some now
        (8.0, 2, 5, 8),
        (1.0, 2, 5, 1),
    ],
)
def test_hpa_recommends(needed: float, ready: int, current: int, desired: int) -> None:
    assert recommended(needed, ready, current) == desired


def test_hpa_holds_until_lengths_are_known_then_aims_at_the_batch() -> None:
    planner = Hpa({"both": 2}, TERMS)
    assert planner.decide(at(0.0, worker(0, 60), worker(1, 60))).counts == {"both": 2}
    # 120 requests, 36 a worker: 3.33
    wish = planner.decide(at(15.0, worker(0, 60), worker(1, 60), demand=asked_for(10)))
    assert wish.counts == {"both": 4}
    assert not wish.flips
    assert [(r.name, r.value) for r in wish.reasons] == [("both concurrency", 60.0), ("both target", 36.0)]


def test_hpa_grows_by_at_most_double_or_four_a_sync() -> None:
    planner = Hpa({"both": 2}, TERMS)
    crowd = at(0.0, worker(0), worker(1), demand=asked_for(10), waiting=3600)
    assert planner.decide(crowd).counts == {"both": 6}
    assert planner.decide(crowd._replace(now=5.0)).counts == {"both": 6}  # not yet
    assert planner.decide(crowd._replace(now=15.0)).counts == {"both": 12}


def test_hpa_shrinks_to_the_highest_recommendation_of_five_minutes() -> None:
    planner = Hpa({"both": 4}, TERMS)
    workers = [worker(n) for n in range(4)]
    assert planner.decide(at(0.0, *workers, demand=asked_for(10), waiting=72)).counts == {"both": 4}  # as at the start
    assert planner.decide(at(285.0, *workers, waiting=36)).counts == {"both": 4}
    assert planner.decide(at(301.0, *workers, waiting=36)).counts == {"both": 1}  # the 2 of t = 0 is too old
    assert planner.decide(at(316.0, worker(0), stale=True)).counts == {"both": 1}


def test_hpa_scales_roles_apart() -> None:
    planner = Hpa({"prefill": 1, "decode": 2}, TERMS)
    seen = [worker(0, 0, role="prefill"), worker(1, 60, role="decode"), worker(2, 60, role="decode")]
    # prefill: 100 wait, 45 (5 chunks of 4, 90 ms each... 500 ms) a worker; decode: 120, 40 a worker
    wish = planner.decide(at(0.0, *seen, demand=asked_for(10), waiting=100, split=True))
    assert most_within(0.5, ENGINE, USUAL) == 40
    assert wish.counts == {"prefill": 3, "decode": 3}


# --- KPA ------------------------------------------------------------------------------------------------------------


def test_kpa_averages_a_minute() -> None:
    planner = Kpa({"both": 4}, TERMS)
    workers = [worker(n, 20) for n in range(4)]
    for tick in range(32):  # 80 / (0.7 * 36) = 3.2
        assert planner.decide(at(2.0 * tick, *workers, demand=asked_for(1))).counts == {"both": 4}
    # then 120: the mean of the minute passes 4 * 25.2 when that has lasted 31.2 s
    later = [planner.decide(at(64.0 + 2 * tick, *workers, waiting=40)).counts["both"] for tick in range(20)]
    assert later == [4] * 15 + [5] * 5


def test_kpa_panics_at_twice_what_is_ready_and_does_not_shrink_until_a_minute_after() -> None:
    planner = Kpa({"both": 1}, TERMS)
    for tick in range(30):
        planner.decide(at(2.0 * tick, worker(0, 5), demand=asked_for(1)))
    burst = [planner.decide(at(60.0 + 2 * tick, worker(0, 126))).counts["both"] for tick in range(3)]
    assert burst == [2, 4, 5]  # means of 6 s: 45.3, 85.7, 126 over 25.2
    calm = [planner.decide(at(66.0 + 2 * tick, *[worker(n) for n in range(5)])).counts["both"] for tick in range(60)]
    assert calm[:31] == [5] * 30 + [2]
    assert min(calm) == 2
    assert calm == sorted(calm, reverse=True)


def test_kpa_shrinks_by_half_at_most() -> None:
    planner = Kpa({"both": 8}, TERMS)
    workers = [worker(n) for n in range(8)]
    wishes = [planner.decide(at(2.0 * tick, *workers, demand=asked_for(1))).counts["both"] for tick in range(40)]
    assert wishes == [8] * 31 + [4] * 9  # it starts in panic, for want of history


# --- Dynamo ---------------------------------------------------------------------------------------------------------


def test_dynamo_sizes_by_division_every_three_minutes_as_a_floor_of_load_scaling() -> None:
    planner = Dynamo({"both": 2}, TERMS, Constant)
    idle: tuple[WorkerSeen, ...] = (worker(0), worker(1))
    for tick in range(1, 36):
        wish = planner.decide(at(5.0 * tick, *idle, demand=asked_for(150)))
        assert wish.counts["both"] == (2 if tick < 3 else 1), tick  # five observations first, then one at a time
        idle = idle if tick < 3 else (worker(0),)
    # 30/s over 7.258/s an engine: 4.13; of one ready, at most 9
    assert planner.decide(at(180.0, worker(0), demand=asked_for(150))).counts == {"both": 5}
    assert planner.decide(at(185.0, worker(0), starting=4, demand=asked_for(150))).counts == {"both": 5}


def test_dynamo_moves_at_most_eight_for_one_observation() -> None:
    planner = Dynamo({"both": 2}, TERMS, Constant)
    wish = planner.decide(at(5.0, worker(0), worker(1), demand=asked_for(10)))
    wish = planner.decide(at(180.0, worker(0), worker(1), demand=asked_for(100_000)))
    assert wish.counts == {"both": 10}
    assert {reason.name for reason in wish.reasons} >= {"predicted rate", "both engine rate", "both floor"}


def test_dynamo_adds_one_where_every_engine_would_miss() -> None:
    planner = Dynamo({"both": 2}, TERMS, Constant)
    usual = asked_for(10)
    late, quiet = worker(0, waiting_tokens=60_000), worker(1)
    for tick in range(1, 4):
        wish = planner.decide(at(5.0 * tick, late, late, demand=usual))
    assert wish.counts == {"both": 3}
    assert planner.decide(at(20.0, late, late, starting=1, demand=usual)).counts == {"both": 3}
    assert planner.decide(at(25.0, late, late, worker(2, waiting_tokens=60_000), draining=1)).counts == {"both": 3}
    assert planner.decide(at(30.0, late, late, quiet, demand=usual)).counts == {"both": 3}
    assert planner.decide(at(32.0, late, late, late, demand=usual)).counts == {"both": 3}  # between two ticks
    assert planner.decide(at(37.0, late, late, late, demand=usual)).counts == {"both": 4}


def test_dynamo_counts_what_gateways_hold_back_as_queued() -> None:
    planner = Dynamo({"both": 2}, TERMS, Constant)
    for tick in range(1, 4):
        wish = planner.decide(at(5.0 * tick, worker(0), worker(1), demand=asked_for(10), waiting=120))
    assert wish.counts == {"both": 3}


def test_dynamo_load_scaling_down_asks_what_the_survivors_would_bear() -> None:
    scales = Scales("both", ENGINE, USUAL, 0.5, 0.05)
    # ITL of r decodes and 10 r tokens: 10 + 1.1 r ms; of 20 on each of two, 40 on the survivor: 54 ms
    assert scales.itl_s(Seen(0, 20, 20_000)) == pytest.approx(0.032)
    assert scales.step([Seen(0, 20, 20_000)] * 2)[0] == 0
    assert scales.step([Seen(0, 13, 13_000)] * 2)[0] == -1  # 26: 38.6 ms of 40
    assert scales.step([Seen(0, 14, 14_000)] * 2)[0] == 0  # 28: 40.8 ms
    assert scales.step([Seen(0, 37, 37_000)] * 2)[0] == 1  # 50.7 ms
    assert scales.step([Seen(0, 37, 37_000), Seen(0, 0, 0)])[0] == 0
    assert scales.step([Seen(0, 13, 13_000)])[0] == 0  # the last one
    # the queue: own prefill 20 ms, so 384 ms of queue at most; 10 ms per chunk of 4,000 and 40 ms of its tokens
    prefill = Scales("prefill", ENGINE, USUAL, 0.5, None)
    assert prefill.ttft_s(Seen(7000, 0, 0)) == pytest.approx(0.1)
    assert prefill.step([Seen(15_000, 0, 0)] * 2)[0] == -1  # 31,000 tokens: 8 chunks, 390 ms, 370 of them queue
    assert prefill.step([Seen(16_000, 0, 0)] * 2)[0] == 0  # 33,000: 9 chunks, 420 ms, 400 of them queue
    # the cache must hold all
    decode = Scales("decode", ENGINE, USUAL, 0.5, 0.05)
    assert decode.step([Seen(0, 5, 49_999)] * 2)[0] == -1
    assert decode.step([Seen(0, 5, 50_000)] * 2)[0] == 0


def test_dynamo_scales_roles_apart_and_shares_the_budget() -> None:
    terms = TERMS._replace(limits=Limits(6, 2, 1, 1))
    planner = Dynamo({"prefill": 1, "decode": 2}, terms, Constant)
    seen = [worker(0, role="prefill"), worker(1, 30, role="decode"), worker(2, 30, role="decode")]
    planner.decide(at(5.0, *seen, split=True, demand=asked_for(10)))
    # 100/s: 80/s a prefill engine -> 2; 8/s a decode engine -> 13, at most 10: 12 in all, six allowed
    wish = planner.decide(at(180.0, *seen, split=True, demand=asked_for(17_990)))
    assert wish.counts == {"prefill": 1, "decode": 5}


def test_both_roles_shrink_in_proportion() -> None:
    assert fitted({"prefill": 4, "decode": 8}, Limits(6, 2, 1, 1)) == {"prefill": 2, "decode": 4}
    assert fitted({"prefill": 9, "decode": 1}, Limits(6, 2, 1, 2)) == {"prefill": 4, "decode": 2}
    assert fitted({"prefill": 0, "decode": 0}, Limits(6, 4, 1, 2)) == {"prefill": 1, "decode": 3}
    assert fitted({"both": 9}, Limits(6, 2, 1, 1)) == {"both": 6}


# --- predictors -----------------------------------------------------------------------------------------------------


def test_predictors_skip_the_idle_start() -> None:
    for predictor in (Constant(), AutoRegressive()):
        predictor.add(0.0)
        assert predictor.next() == 0.0
        predictor.add(7.0)
        assert predictor.next() == pytest.approx(7.0)


def test_autoregression_needs_five_points_and_then_follows_level_trend_and_swing() -> None:
    predictor = AutoRegressive()
    for value in (10.0, 20.0, 30.0, 40.0):
        predictor.add(value)
        assert predictor.next() == value
    predictor.add(50.0)
    assert predictor.next() > 50.0  # differences are constant
    swinging = AutoRegressive()
    for value in (100.0, 20.0, 90.0, 30.0, 95.0, 24.0, 93.0, 28.0, 96.0, 25.0):
        swinging.add(value)
    assert swinging.next() > 80.0
    steady = AutoRegressive()
    for _ in range(9):
        steady.add(40.0)
    assert steady.next() == 40.0


# --- properties -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 400), st.integers(0, 400), st.integers(1, 12))
def test_more_requests_never_mean_fewer_workers(fewer: int, more: int, count: int) -> None:
    fewer, more = sorted((fewer, more))
    workers = [worker(n) for n in range(count)]
    pairs: list[list[Planner]] = [[Hpa({"both": count}, TERMS), Hpa({"both": count}, TERMS)]]
    pairs += [[Kpa({"both": count}, TERMS), Kpa({"both": count}, TERMS)]]
    for first, second in pairs:
        wished = first.decide(at(0.0, *workers, demand=asked_for(1), waiting=fewer)).counts["both"]
        assert wished <= second.decide(at(0.0, *workers, demand=asked_for(1), waiting=more)).counts["both"]


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 2000)), min_size=1, max_size=60), st.integers(1, 9))
def test_everybody_keeps_limits_and_dynamo_its_steps(load: list[tuple[int, int]], count: int) -> None:
    terms = TERMS._replace(limits=Limits(20, 1, 1, 1))
    planners: list[Planner] = [Hpa({"both": count}, terms), Kpa({"both": count}, terms), Dynamo({"both": count}, terms)]
    counts = [count] * 3
    for tick, (waiting, arrived) in enumerate(load, 1):
        for which, planner in enumerate(planners):
            before = counts[which]
            situation = at(15.0 * tick, *[worker(n) for n in range(before)], demand=asked_for(arrived), waiting=waiting)
            counts[which] = planner.decide(situation).counts["both"]
            assert 1 <= counts[which] <= 20
            assert counts[which] <= max(2 * before, before + (9 if which == 2 else 4)) or which == 1
            assert counts[which] >= (before - 1 if which == 2 else before // 2 if which == 1 else 1)


@given(st.lists(st.floats(0, 1e6), max_size=30))
def test_predictions_are_finite_and_not_below_zero(values: list[float]) -> None:
    for predictor in (Constant(), AutoRegressive()):
        for value in values:
            predictor.add(value)
        assert 0.0 <= predictor.next() < float("inf")
