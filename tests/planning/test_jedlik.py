"""jedlik's planner as a whole: what it starts, keeps and releases of a fleet that is as its model says."""

import math
from collections.abc import Callable

import pytest
from fluid_world import (
    COSTS,
    ENGINE,
    LIMITS,
    MIX,
    NOTHING,
    PROMISE,
    TICK_S,
    World,
    asked,
    seen,
    situation,
    terms,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from jedlik.core.config import Role
from jedlik.core.plans import Wish
from jedlik.core.protocol import StepCosts
from jedlik.planning.engine import CREDIBLE, CROOKED
from jedlik.planning.forecast import FEW
from jedlik.planning.jedlik import WATCHED_BINS, JedlikPlanner, Need, decided, flip, of_need, sentence, shrink
from jedlik.planning.planners import maker_of
from jedlik.planning.policy import Limits, Pool, Situation
from jedlik.planning.requirement import both_curve

WATCHED_S = WATCHED_BINS * TICK_S
CURVE = both_curve(MIX, ENGINE, PROMISE, 0.035)
REASONS = {
    "arrivals",
    "prefill of a request",
    "answer",
    "cached",
    "waiting at gateways",
    "kept",
    "attainable",
    "planned to miss",
    "predicted to miss",
    "a worker takes, over the model",
    "one of them takes",
    "start-up",
    "prefill model off by",
    "decode model off by",
}
NEEDS = ("needed now", "needed when one could be ready", "needed until one could be back")


def fits(workers: float) -> float:
    """A rate in the middle of what so many workers take and one fewer does not."""
    return (CURVE.rate(math.ceil(workers)) + CURVE.rate(math.ceil(workers) - 1)) / 2


def constant(rate: float) -> Callable[[float], float]:
    return lambda at: rate


def counts(wishes: list[Wish], role: Role = "both") -> list[int]:
    return [wish.counts[role] for wish in wishes]


def number(wish: Wish, name: str) -> float:
    (value,) = [reason.value for reason in wish.reasons if reason.name == name]
    assert value is not None
    return value


def both(serving: int, *starting: float) -> dict[Role, Pool]:
    return {"both": Pool(serving, starting)}


def watched(demand: int = 100, ticks: int = FEW, serving: int = 2) -> JedlikPlanner:
    """A planner that has seen so many equal ticks."""
    planner = JedlikPlanner(terms(LIMITS))
    for tick in range(1, ticks + 1):
        planner.decide(situation(tick * TICK_S, asked(demand), both(serving)))
    return planner


# --- unknown is not zero --------------------------------------------------------------------------------------------


def test_without_reports_it_leaves_all_as_it_is() -> None:
    planner = JedlikPlanner(terms(LIMITS))
    for tick in range(2 * WATCHED_BINS):
        silent = situation(tick * TICK_S, NOTHING, both(3, 20.0))._replace(period_s=0.0)
        wish = planner.decide(silent)
        assert wish.counts == {"both": 4}
        assert wish.why


def test_without_workers_that_told_their_costs_it_leaves_all_as_it_is() -> None:
    planner = JedlikPlanner(terms(LIMITS))
    for tick in range(2 * FEW):
        assert planner.decide(situation(tick * TICK_S, asked(900), both(2), costs=None)).counts == {"both": 2}


def test_what_workers_told_once_is_remembered_while_none_is_there() -> None:
    planner = watched(ticks=2 * FEW)
    wish = planner.decide(situation(500.0, asked(900), {"both": Pool(0, (30.0,))}))
    assert wish.reasons
    assert wish.counts["both"] > 1


def test_the_first_ticks_leave_all_as_it_is() -> None:
    planner = JedlikPlanner(terms(LIMITS))
    for tick in range(1, FEW):
        assert planner.decide(situation(tick * TICK_S, asked(900), both(1))).counts == {"both": 1}
    assert planner.decide(situation(FEW * TICK_S, asked(900), both(1))).counts["both"] > 1


def test_promises_that_nobody_can_keep_leave_all_as_it_is() -> None:
    planner = JedlikPlanner(terms(LIMITS))
    for tick in range(2 * FEW):
        wish = planner.decide(situation(tick * TICK_S, asked(300), both(2))._replace(slo_ttft_s=0.001))
        assert wish.counts == {"both": 2}
    assert "no request could keep" in wish.why


def test_a_gap_in_reports_is_spread_over_its_time() -> None:
    """A minute that is told at once is as six ticks that were told one by one."""
    gap = situation(260.0, asked(600), both(2))._replace(period_s=6 * TICK_S)
    late = watched(ticks=14)
    late.decide(gap)
    one, other = (planner.decide(situation(270.0, asked(100), both(2))) for planner in (watched(ticks=20), late))
    for name in NEEDS:
        assert number(one, name) == number(other, name)
    assert number(one, "arrivals") == number(other, "arrivals") == pytest.approx(10.0)


# --- starts ---------------------------------------------------------------------------------------------------------


def test_it_starts_what_will_be_lacking_when_it_could_be_ready() -> None:
    """The longer a start takes, the earlier it is ordered, while the load still fits."""
    first = {}
    for start_s in (20.0, 200.0):
        world = World(lambda at: 8 + 0.03 * at, {"both": 3}, start_s=start_s, seed=4)
        wishes = world.run(900.0)
        first[start_s] = next(tick for tick, wish in enumerate(wishes, 1) if wish.counts["both"] > 3) * TICK_S
    full_s = (CURVE.rate(3) - 8) / 0.03
    assert first[200.0] < first[20.0] < full_s + 60
    assert first[200.0] < full_s - 60  # what serves then still suffices


def test_a_step_up_is_followed() -> None:
    world = World(lambda at: fits(2) if at < 300 else fits(6), {"both": 2})
    assert max(counts(world.run(300.0))) <= 4
    after = counts(world.run(300.0 + 120.0))
    assert after[-1] >= 6
    world.run(500.0)
    assert world.serving["both"] >= 6


def test_what_waits_is_worked_off() -> None:
    calm, crowded = watched(), watched()
    at = situation(500.0, asked(100), both(2))
    few = calm.decide(at)
    many = crowded.decide(at._replace(waiting=2000, waiting_tokens=3_000_000))
    assert many.counts["both"] > few.counts["both"]
    assert number(many, "waiting at gateways") == 2000


def test_what_is_already_on_its_way_is_not_ordered_again() -> None:
    world = World(constant(fits(5)), {"both": 2})
    world.run(FEW * TICK_S + 20)
    wanted = world.committed["both"]
    assert wanted >= 5
    assert world.serving["both"] == 2
    found = counts(world.run(FEW * TICK_S + 50))
    assert min(found) >= wanted
    assert max(found) <= wanted + 2  # not three more each time


# --- releases -------------------------------------------------------------------------------------------------------


def test_it_watches_before_it_releases_and_then_does() -> None:
    world = World(constant(fits(2)), {"both": 8})
    before = world.run(WATCHED_S - TICK_S)
    assert counts(before) == [8] * (WATCHED_BINS - 1)
    world.run(WATCHED_S + 300)
    assert world.committed["both"] <= 4
    assert world.committed["both"] >= 2


def settled(costs: StepCosts = COSTS) -> World:
    """Eight workers for a load of two, a tick before anything may be released."""
    world = World(constant(fits(2)), {"both": 8}, costs=costs)
    world.run(WATCHED_S - TICK_S)
    return world


def test_nothing_is_released_while_reports_are_missing_but_more_is_started() -> None:
    world = settled()
    for _ in range(20):
        wish = world.planner.decide(world.look()._replace(stale=True))
        assert wish.counts == {"both": 8}
        assert "reports are missing" in wish.why
    world.rate = constant(fits(11))
    for _ in range(12):
        wish = world.planner.decide(world.look()._replace(stale=True))
        world.obey(wish)
    assert wish.counts["both"] > 8


def test_nothing_is_released_where_the_model_is_not_to_be_believed() -> None:
    factor = 1.2 * CREDIBLE[1] * CROOKED
    quick = COSTS.scaled(1 / factor)
    world = settled(quick)
    wishes = world.run(WATCHED_S + 200)
    assert set(counts(wishes)) == {8}
    assert number(wishes[-1], "prefill model off by") < CREDIBLE[0]
    assert number(wishes[-1], NEEDS[2]) < 8


def test_a_load_that_ends_goes_down_to_the_least() -> None:
    for least in (1, 3):
        world = World(
            lambda at: fits(3) if at < WATCHED_S else 0.0, {"both": 4}, limits=Limits(12, least, 1, 1), start_s=30.0
        )
        world.run(WATCHED_S + 600)
        assert world.committed == {"both": least}


def test_a_steady_load_moves_nothing() -> None:
    """An hour of random arrivals."""
    world = World(constant(fits(3)), {"both": 3}, seed=1)
    wishes = world.run(3600.0)
    assert sum(at > 600 for at in world.actions) <= 4
    assert set(counts(wishes[80:])) <= {2, 3, 4}


def test_a_step_up_and_down_is_followed_within_limits() -> None:
    limits = Limits(7, 2, 1, 1)
    world = World(lambda at: fits(6) if 700 < at <= 1100 else fits(2), {"both": 2}, limits=limits, start_s=30.0)
    found = counts(world.run(1560.0))
    assert all(2 <= count <= 7 for count in found)
    assert max(found[:68]) <= 4
    assert min(found[80:110]) >= 6
    assert max(found[150:]) <= 5


def test_after_a_burst_a_slow_start_is_held_longer_than_a_quick_one() -> None:
    held = {}
    for start_s in (10.0, 300.0):
        limits = Limits(6, 1, 1, 1)
        burst = World(lambda at: fits(6) if 640 < at <= 720 else fits(2), {"both": 6}, start_s=start_s, limits=limits)
        after = counts(burst.run(1500.0))[72:]
        held[start_s] = next((tick for tick, count in enumerate(after) if count <= 4), len(after))
    assert held[10.0] < held[300.0]  # and if that is for ever, this is not


# --- prefill and decode apart ---------------------------------------------------------------------------------------

SPLIT = Limits(8, 2, 1, 1)


def test_a_split_fleet_scales_the_role_that_lacks() -> None:
    """Forty a second: three that prefill, and one that decodes is plenty."""
    world = World(constant(40.0), {"prefill": 1, "decode": 1}, limits=SPLIT)
    wishes = world.run(400.0)
    assert wishes[-1].counts["prefill"] >= 3
    assert wishes[-1].counts["decode"] <= 2
    for role in ("prefill", "decode"):
        assert {f"{role} {name}" for name in NEEDS} <= {reason.name for reason in wishes[-1].reasons}
        assert f"{role}: " in wishes[-1].why
    assert all(sum(wish.counts.values()) <= SPLIT.most for wish in wishes)


def test_a_spare_decode_worker_becomes_the_prefill_worker_that_is_lacking() -> None:
    world = World(constant(40.0), {"prefill": 1, "decode": 6}, limits=SPLIT)
    wishes = world.run(min(400.0, WATCHED_S - TICK_S))
    first = next(wish for wish in wishes if wish.counts["prefill"] > 1)
    assert sum(first.counts.values()) == 7  # counts move together, though nothing would be released yet
    assert first.counts["decode"] < 6
    assert world.serving["prefill"] >= 3
    assert world.actions == []
    assert first.flips


def test_a_split_fleet_keeps_its_limits_in_sum_and_by_role() -> None:
    limits = Limits(5, 3, 2, 1)
    world = World(lambda at: 200.0 if 300 < at < 500 else 1.0, {"prefill": 2, "decode": 2}, limits=limits)
    for wish in world.run(900.0):
        assert sum(wish.counts.values()) <= 5
        assert wish.counts["prefill"] >= 2
        assert wish.counts["decode"] >= 1


def need(now: int, soon: int, keep: int) -> Need:
    return Need(soon, max(keep, soon, now), None, now)


@pytest.mark.parametrize(
    ("counts", "have", "expected"),
    [
        ((3, 4), (1, 4), (3, 2)),  # decode needs two now
        ((3, 4), (1, 3), (3, 4)),  # it is growing itself: nothing to take
        ((6, 4), (1, 4), (6, 2)),  # as many as are spare
        ((2, 2), (1, 2), (2, 2)),  # none is spare
        ((1, 4), (1, 4), (1, 4)),  # nothing is lacking
    ],
)
def test_flips(counts: tuple[int, int], have: tuple[int, int], expected: tuple[int, int]) -> None:
    wanted: dict[Role, int] = {"prefill": counts[0], "decode": counts[1]}
    there: dict[Role, int] = {"prefill": have[0], "decode": have[1]}
    needs: dict[Role, Need] = {"prefill": need(1, counts[0], counts[0]), "decode": need(2, 2, counts[1])}
    flip(wanted, there, needs, {"prefill": 1, "decode": 1})
    assert wanted == {"prefill": expected[0], "decode": expected[1]}


@given(*[st.integers(0, 20)] * 4, st.integers(1, 30))
def test_what_there_may_be_is_kept_and_no_role_falls_below_its_least(
    prefill: int, decode: int, least_prefill: int, least_decode: int, most: int
) -> None:
    least: dict[Role, int] = {"prefill": least_prefill, "decode": least_decode}
    wanted: dict[Role, int] = {"prefill": prefill + least_prefill, "decode": decode + least_decode}
    before = dict(wanted)
    shrink(wanted, least, most)
    assert all(least[role] <= wanted[role] <= before[role] for role in wanted)
    assert sum(wanted.values()) == max(min(sum(before.values()), most), min(sum(least.values()), sum(before.values())))
    above = {role: wanted[role] - least[role] for role in wanted}
    if sum(before.values()) > most and min(above.values()) > 0:
        shrunk = [above[role] for role in wanted if wanted[role] < before[role]]
        assert min(shrunk) >= max(above.values()) - 1  # the larger share went first


# --- decisions and what is said of them -----------------------------------------------------------------------------


@given(*[st.integers(0, 30)] * 4, st.booleans())
def test_started_is_what_lacks_and_released_what_nothing_needs(
    committed: int, now: int, soon: int, keep: int, cautious: bool
) -> None:
    found = decided(committed, need(now, soon, keep), cautious)
    if soon > committed:
        assert found == soon
    elif max(now, soon, keep) < committed and not cautious:
        assert found == max(now, soon, keep)
    else:
        assert found == committed


def test_every_wish_says_why_with_numbers() -> None:
    world = World(constant(fits(3)), {"both": 2})
    for tick, wish in enumerate(world.run(300.0), 1):
        assert wish.why
        names = [reason.name for reason in wish.reasons]
        assert len(names) == len(set(names))
        if tick >= FEW + 1:
            assert REASONS | set(NEEDS) <= set(names)
            assert sum(name.startswith("load provided for (") for name in names) == 1
            assert "load expected at start-up" in names
    assert number(wish, "arrivals") == pytest.approx(fits(3), rel=0.3)
    assert number(wish, "prefill of a request") == pytest.approx(MIX.prefill_s, rel=1e-3)
    assert number(wish, "answer") == pytest.approx(MIX.answer_tokens)
    assert number(wish, "start-up") == 60.0
    assert number(wish, "prefill model off by") == number(wish, "decode model off by") == 1.0
    assert number(wish, "attainable") == pytest.approx(1.0)


def test_what_is_unknown_is_said_to_be() -> None:
    planner = watched()
    wish = planner.decide(situation(500.0, NOTHING, both(2))._replace(period_s=0.0))
    told = {reason.name: reason.value for reason in wish.reasons}
    assert told["arrivals"] is None
    assert told["kept"] is None
    assert wish.counts == {"both": 2}


def test_sentences() -> None:
    at = situation(0.0, NOTHING, both(3), start_s=45.0)
    stale = at._replace(stale=True)
    assert sentence("both", 3, 5, need(3, 5, 6), at) == "5 will be needed in 45 s, 3 are there or on their way"
    assert sentence("decode", 3, 2, need(1, 1, 2), at).startswith("decode: no more than 2 will be needed")
    assert sentence("both", 3, 3, need(1, 1, 2), stale) == "reports are missing: nothing is released"
    assert sentence("both", 3, 3, need(1, 1, 2), at).startswith("3 are kept")
    assert sentence("both", 3, 3, need(2, 3, 3), at).startswith("3 are right")
    assert [reason.name for reason in of_need("decode ", need(1, 2, 3))] == [f"decode {name}" for name in NEEDS]
    assert [reason.value for reason in of_need("", need(1, 2, 3))] == [1.0, 2.0, 3.0]


# --- properties -----------------------------------------------------------------------------------------------------


def test_two_planners_that_see_the_same_wish_the_same() -> None:
    world = World(lambda at: 20 + 10 * math.sin(at / 90), {"both": 3}, seed=9)
    other = maker_of("jedlik")({"both": 3}, terms(LIMITS))
    for _ in range(90):
        at = world.look()
        wish = world.planner.decide(at)
        assert other.decide(at) == wish
        world.obey(wish)


TICKS = st.lists(
    st.tuples(
        st.integers(0, 2000),  # arrived
        st.integers(0, 3000),  # waiting
        st.booleans(),  # stale
        st.booleans(),  # reported
        st.floats(0, 400),  # start-up
    ),
    min_size=1,
    max_size=14,
)


def ticks_of(parts: list[tuple[int, int, bool, bool, float]], pools: dict[Role, int]) -> list[Situation]:
    found = []
    for tick, (arrived, waiting, stale, reported, start_s) in enumerate(parts, 1):
        at = situation(tick * TICK_S, asked(arrived), {role: Pool(count) for role, count in pools.items()}, start_s)
        found.append(at._replace(waiting=waiting, stale=stale, period_s=TICK_S if reported else 0.0))
    return found


@settings(max_examples=25)
@given(TICKS, st.integers(0, 9))
def test_whatever_is_seen_limits_hold_and_nothing_is_released_early(
    parts: list[tuple[int, int, bool, bool, float]], serving: int
) -> None:
    planner = JedlikPlanner(terms(Limits(9, 1, 1, 1)))
    told = tuple(seen(at) for at in range(2))
    for at in ticks_of(parts, {"both": serving}):
        wish = planner.decide(at._replace(workers=told))
        planner.check()
        assert serving <= wish.counts["both"] <= 9
        assert wish.why


@settings(max_examples=15)
@given(TICKS, st.integers(1, 5), st.integers(1, 4))
def test_whatever_is_seen_a_split_fleet_stays_within_its_limits(
    parts: list[tuple[int, int, bool, bool, float]], prefill: int, decode: int
) -> None:
    planner = JedlikPlanner(terms(Limits(9, 2, 1, 1)))
    for at in ticks_of(parts, {"prefill": prefill, "decode": decode}):
        wish = planner.decide(at)
        planner.check()
        assert set(wish.counts) == {"prefill", "decode"}
        assert min(wish.counts.values()) >= 1
        assert prefill + decode <= sum(wish.counts.values()) <= 9
