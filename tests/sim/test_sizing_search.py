"""Sizing: fleets and their counts, what a workload asks for, estimates, and the search given what simulations say."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.config import FaultConfig, PoolConfig, ServeConfig, SimulationConfig
from jedlik.core.errors import ConfigError
from jedlik.perf.linear import PhaseCosts
from jedlik.perf.profile import Profile
from jedlik.sim import sizing_trial
from jedlik.sim.report import pareto
from jedlik.sim.report.columns import Slo
from jedlik.sim.setup import build
from jedlik.sim.sizing import Figures, Shape, SizedEngine, SizedFleet, Trial, settings
from jedlik.sim.sizing_estimate import Sizer
from jedlik.sim.sizing_load import WARM_SHARE, OfferedLoad, Pieces, Stretch, judged, pieces, read
from jedlik.sim.sizing_points import Judge, best, front
from jedlik.sim.sizing_search import Choice, Results, SearchPlan, search
from jedlik.sim.workload.load import load
from jedlik.sim.workload.offered import Offered, OfferedText, Workload
from jedlik.sim.workload.options import WorkloadOptions

COSTS = PhaseCosts(
    prefill_base_s=0.005,
    prefill_token_s=5e-5,
    prefill_pair_s=1e-9,
    decode_base_s=0.01,
    decode_sequence_s=3e-5,
    context_token_s=2e-8,
)
SLO = Slo(1.0, 0.03)


def engine(label: str = "a tp1", gpus: int = 1, usd: float = 1.0, faster: float = 1.0) -> SizedEngine:
    costs = PhaseCosts(**{name: value / faster for name, value in msgspec.structs.asdict(COSTS).items()})
    profile = Profile(
        name=label,
        model="m",
        device=label,
        backend="fake",
        gpus=gpus,
        costs=costs,
        kv_tokens=200_000,
        kv_bytes_per_token=1000,
    )
    return SizedEngine(
        label=label, profile=profile, pool=PoolConfig(name="p", count=1, profile=label), gpu_hour_usd=usd
    )


def work(spec: str = "poisson:rate=4,input=1000,output=50,duration=60", limit: int | None = None) -> Workload:
    return load(spec, WorkloadOptions(limit=limit), 0)


def figures(good: int, requests: int = 1000, itl_s: float = 0.01) -> Figures:
    return Figures(
        requests=requests,
        good=good,
        slo_attainment=good / requests,
        ttft_p50_s=0.1,
        ttft_p99_s=0.5,
        itl_p50_s=itl_s,
        itl_p99_s=2 * itl_s,
        hit_rate=0.0,
        output_tokens=50.0 * requests,
        duration_s=100.0,
    )


# --- fleets ---


def test_a_fleet_apart_always_has_both_roles() -> None:
    shape = Shape(engine(gpus=2), 2048, 0.7)
    assert [shape.prefill(n) for n in (2, 3, 4, 10)] == [1, 2, 3, 7]
    assert (shape.most(3), shape.most(4), shape.most(64)) == (0, 2, 32)
    assert SizedFleet(shape, 10).name == "7 + 3 × a tp1, chunk 2048"
    assert SizedFleet(shape, 10).gpus == 20


def test_what_is_simulated_is_the_base_with_the_fleet_in_it() -> None:
    base = SimulationConfig(
        gateways=2,
        faults=(FaultConfig(at_s=1.0, kind="crash", worker="x/0"),),
    )
    config, around = settings((ServeConfig(model=""), base), SizedFleet(Shape(engine(), 1024, 0.5), 4))
    assert [(pool.name, pool.count, pool.role) for pool in config.pools] == [
        ("a-tp1-prefill", 2, "prefill"),
        ("a-tp1-decode", 2, "decode"),
    ]
    assert (around.gateways, around.faults) == (2, ())
    assert (config.model, config.worker.max_step_tokens, config.planner.acts) == ("a tp1", 1024, "off")


# --- what a workload asks for ---


class Listed:
    """Requests at given times, each a prompt of given blocks."""

    def __init__(self, rows: Sequence[tuple[float, Sequence[int]]]) -> None:
        self.rows = rows
        self.total: int | None = len(rows)

    def arrivals(self) -> Iterator[Offered]:
        for at_s, ids in self.rows:
            yield Offered(at_s=at_s, text=OfferedText(0, ids, 100, 100 * len(ids)), output_tokens=10)

    def ended(self, offered: Offered, now_s: float) -> Sequence[Offered]:
        return ()


def test_reuse_is_of_leading_blocks_seen_before() -> None:
    found = read(Listed([(0.0, [1, 2, 3]), (1.0, [1, 2, 4]), (2.0, [9, 2, 3]), (3.0, [1, 2, 3])]))
    assert found.cached_tokens.tolist() == [0, 200, 0, 299]
    assert found.reuse == pytest.approx(499 / 1200)
    assert not found.closed
    assert found.rate == pytest.approx(1.0)


def test_conversations_are_read_to_their_end_though_nobody_answers() -> None:
    found = read(work("multi_turn:concurrency=2,turns=3,think=1,input=200,output=10,duration=200"))
    assert found.closed
    assert found.requests > 6
    assert np.all(np.diff(found.at_s) >= 0)
    assert found.reuse > 0


def test_nothing_to_do_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no requests"):
        read(Listed([]))


def test_pieces_are_of_every_load() -> None:
    gaps = [0.1] * 100 + [1.0] * 100 + [10.0] * 100
    found = read(Listed([(float(at), [n]) for n, at in enumerate(np.cumsum(gaps))]))
    chosen = pieces(found, 90, 3)
    assert [stretch.start // 100 for stretch in chosen] == [0, 1, 2]
    assert all(stop - start == 30 for start, stop in chosen)
    assert judged(chosen, 300).sum() == 3 * (30 - int(WARM_SHARE * 30))


def test_pieces_follow_each_other_and_their_beginnings_are_not_judged() -> None:
    made = Pieces(Listed([(float(n), [n]) for n in range(100)]), [Stretch(10, 20), Stretch(80, 90)])
    rows = list(made.arrivals())
    assert [row.text.ids[0] for row in rows] == [*range(10, 20), *range(80, 90)]
    assert [row.at_s for row in rows] == [*range(10), *range(14, 24)]
    assert made.judged_s == [(3.0, 9.0), (17.0, 23.0)]
    assert list(made.arrivals()) == rows


# --- estimates ---


@given(st.integers(1, 30), st.floats(1.0, 30.0))
def test_more_workers_are_never_estimated_worse(workers: int, rate: float) -> None:
    found = read(work())
    faster = found._replace(at_s=found.at_s * found.rate / rate)
    sizer = Sizer(faster, SLO)
    for shape in (Shape(engine(), 2048), Shape(engine(), 2048, 0.5)):
        fewer, more = (sizer.estimate(shape, n).attainment for n in (workers * 2, workers * 2 + 2))
        assert 0 <= fewer <= more + 1e-9 <= 1 + 1e-9


def test_the_fewest_that_do_are_found() -> None:
    sizer = Sizer(read(work("poisson:rate=30,input=1000,output=50,duration=60")), SLO)
    shape = Shape(engine(), 2048)
    count = sizer.needed(shape, 0.9, 64)
    assert count is not None
    assert count > 1
    assert sizer.estimate(shape, count).attainment >= 0.9 > sizer.estimate(shape, count - 1).attainment
    assert sizer.needed(shape, 0.9, count - 1) is None


def test_decoding_that_cannot_keep_pace_is_never_enough() -> None:
    sizer = Sizer(read(work()), Slo(1.0, 0.005))
    assert sizer.needed(Shape(engine(), 2048), 0.5, 1000) is None


def test_bursts_need_more_and_so_do_small_batches() -> None:
    even, bursty = (Sizer(read(work(f"gamma:rate=30,cv={cv},input=1000,output=50,duration=60")), SLO) for cv in (1, 4))
    few = Sizer(even.load, SLO, max_sequences=2)
    for shape in (Shape(engine(), 2048), Shape(engine(), 2048, 0.5)):
        counts = [sizer.needed(shape, 0.95, 1000) or 1000 for sizer in (even, bursty, few)]
        assert counts[0] < counts[1] < 1000
        assert counts[0] < counts[2] < 1000


def test_what_is_too_long_alone_is_not_attainable() -> None:
    sizer = Sizer(read(work("poisson:rate=4,input=30000,input_cv=1,output=5,duration=60")), SLO)
    slow, fast = Shape(engine("slow"), 8192), Shape(engine("fast", faster=4.0), 8192)
    assert 0 < sizer.attainable([slow]).mean() < sizer.attainable([slow, fast]).mean()


# --- the search ---


def shapes(count: int) -> list[Shape]:
    return [Shape(engine(f"e{n} tp1", gpus=1 + n % 2, usd=1.0 + 0.1 * n), 2048) for n in range(count)]


def plan(choices: Sequence[Choice], sampled: bool = False, trials: int = 10_000) -> SearchPlan:
    return SearchPlan(
        choices=tuple(choices),
        budget=40,
        attainment=0.95,
        judge=lambda trial, got: got.good / got.requests,
        sample_trials=trials,
        trace_trials=trials,
        sampled=sampled,
    )


def searched(task: SearchPlan, needs: dict[str, int]) -> tuple[dict[Trial, Figures], list[list[Trial]]]:
    """What comes of it where so many workers of an engine do, and fewer do worse the fewer they are."""
    found: dict[Trial, Figures] = {}
    rounds: list[list[Trial]] = []
    search_ = search(task)
    answers: Results = {}
    while True:
        try:
            trials = search_.send(answers) if rounds else next(search_)
        except StopIteration:
            return found, rounds
        rounds.append(trials)
        answers = {trial: simulated(trial.fleet, needs) for trial in trials}
        found |= answers


def simulated(fleet: SizedFleet, needs: dict[str, int]) -> Figures:
    enough = fleet.workers / needs[fleet.shape.engine.label]
    return figures(int(1000 * min(1.0, 0.95 * enough)) if enough < 1 else 960)


def cheapest(found: dict[Trial, Figures]) -> float:
    return min(trial.fleet.hour_usd for trial, got in found.items() if got.good >= 950 and trial.part == "trace")


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.data())
def test_the_cheapest_fleet_is_found_from_any_fair_estimate(needed: list[int], data: st.DataObject) -> None:
    made = shapes(len(needed))
    needs = {shape.engine.label: count for shape, count in zip(made, needed, strict=True)}
    starts = [data.draw(st.integers(max(1, count // 2), count + 3)) for count in needed]
    choices = [Choice(shape, min(start, shape.most(40))) for shape, start in zip(made, starts, strict=True)]
    found, _ = searched(plan(choices), needs)
    best_usd = min(needs[shape.engine.label] * shape.engine.hour_usd for shape in made)
    # one that was estimated to need half as much again as the money there is may be left out
    assert cheapest(found) <= best_usd * 1.5 + 1e-9
    exact = [Choice(shape, needs[shape.engine.label]) for shape in made]
    assert cheapest(searched(plan(exact), needs)[0]) == pytest.approx(best_usd)


def test_the_same_answers_lead_to_the_same_rounds() -> None:
    made = shapes(5)
    needs = {shape.engine.label: 5 + n for n, shape in enumerate(made)}
    task = plan([Choice(shape, 7) for shape in made], sampled=True)
    assert searched(task, needs)[1] == searched(task, needs)[1]


def test_a_sample_comes_first_and_only_what_is_near_the_best_goes_on() -> None:
    made = shapes(4)
    needs = {"e0 tp1": 4, "e1 tp1": 20, "e2 tp1": 4, "e3 tp1": 20}
    _, rounds = searched(plan([Choice(shape, 6) for shape in made], sampled=True), needs)
    parts = [trials[0].part for trials in rounds]
    assert parts[0] == "sample"
    traced = {trial.fleet.shape.engine.label for trials in rounds for trial in trials if trial.part == "trace"}
    assert traced <= {"e0 tp1", "e2 tp1"}


def test_no_more_is_simulated_than_allowed() -> None:
    made = shapes(6)
    needs = {shape.engine.label: 15 for shape in made}
    _, rounds = searched(plan([Choice(shape, 1) for shape in made], trials=5), needs)
    races = [trial for trials in rounds for trial in trials]
    assert len(races) <= 10


def test_out_of_time_it_ends() -> None:
    for sampled in (False, True):
        search_ = search(plan([Choice(shape, 3) for shape in shapes(3)], sampled))
        next(search_)
        asked = 0
        with suppress(StopIteration):
            while asked < 10:
                search_.send({})
                asked += 1
        assert asked < 5


def test_where_nothing_holds_the_whole_budget_is_tried() -> None:
    made = shapes(2)
    found, _ = searched(plan([Choice(shape, 10) for shape in made]), {"e0 tp1": 100, "e1 tp1": 100})
    assert {trial.fleet.gpus for trial in found} >= {40}


# --- points ---


def judge(wanted: float = 0.95, attainable: float = 1.0) -> Judge:
    found = read(Listed([(float(n), [n]) for n in range(1000)]))
    able = np.arange(found.requests) < attainable * found.requests
    return Judge(found, able, {}, wanted)


def test_attainment_is_of_what_somebody_could_serve() -> None:
    trial = Trial(SizedFleet(Shape(engine(), 2048), 2), "trace")
    point = judge(attainable=0.8).point(trial, figures(780))
    assert point.attainment == pytest.approx(0.975)
    assert (point.goodput, point.holds) == (0.78, True)
    assert point.tokens_per_s_gpu == pytest.approx(250)
    assert point.tokens_per_s_user == pytest.approx(100)
    assert point.million_tokens_usd == pytest.approx(2 / (500 * 3600) * 1e6)


def test_the_front_has_what_holds_and_is_not_beaten() -> None:
    made = Shape(engine(), 2048)
    results = {
        Trial(SizedFleet(made, 1), "trace"): figures(900, itl_s=0.02),  # misses
        Trial(SizedFleet(made, 2), "trace"): figures(960, itl_s=0.015),
        Trial(SizedFleet(made, 3), "trace"): figures(990, itl_s=0.016),  # slower, and less per GPU
        Trial(SizedFleet(made, 4), "trace"): figures(1000, itl_s=0.010),
    }
    points = judge().points(results)
    assert [point.fleet.workers for point in front(points)] == [2, 4]
    chosen = best(points)
    assert chosen is not None
    assert chosen.fleet.workers == 2
    assert [point.fleet.workers for point in front([p for p in points if not p.holds])] == [1]


def test_the_trace_counts_more_than_a_sample_of_it() -> None:
    made = Shape(engine(), 2048)
    results = {
        Trial(SizedFleet(made, 2), "sample"): figures(990),
        Trial(SizedFleet(made, 3), "sample"): figures(990),
        Trial(SizedFleet(made, 2), "trace"): figures(900),
        Trial(SizedFleet(made, 4), "trace"): figures(990),
    }
    points = judge().points(results)
    assert [(point.fleet.workers, point.part) for point in points] == [(2, "trace"), (3, "sample"), (4, "trace")]
    chosen = best(points)
    assert chosen is not None
    assert chosen.fleet.workers == 4


def test_the_plots_show_every_fleet() -> None:
    made, apart = Shape(engine(), 2048), Shape(engine(), 2048, 0.5)
    results = {
        Trial(SizedFleet(made, 1), "trace"): figures(900, itl_s=0.02),
        Trial(SizedFleet(made, 2), "trace"): figures(960, itl_s=0.015),
        Trial(SizedFleet(apart, 4), "sample"): figures(1000, itl_s=0.010),
    }
    points = judge().points(results)
    chosen = best(points)
    svg = pareto.plot(points, front(points), chosen)
    assert svg.count("<circle") == 3  # two that hold, and the ring of the best
    assert svg.count('class="dot miss"') == 1
    assert "2 + 2 × a tp1" in svg
    lines = pareto.terminal(points, front(points), chosen)
    assert [sum(line.count(mark) for line in lines) for mark in "★●○×"] == [1, 1, 0, 1]
    assert pareto.terminal(points[:1], [], None)


# --- a simulation ---


def test_a_simulation_says_what_was_good() -> None:
    made = SizedFleet(Shape(engine(), 2048), 2)
    config = ServeConfig(model="m", gateway=msgspec.structs.replace(ServeConfig(model="m").gateway, slo_ttft_s=1.0))
    setup = build(*settings((config, SimulationConfig()), made), {"a tp1": made.shape.engine.profile})
    got = sizing_trial.whole(setup, work(limit=40))
    assert (got.requests, got.good) == (40, 40)
    assert got.output_tokens == 40 * 50
    part = sizing_trial.sample(setup, Pieces(work(limit=40), [Stretch(0, 10), Stretch(20, 30)]))
    assert part.requests == 2 * (10 - int(WARM_SHARE * 10))
    assert part.ttft_p50_s is not None


def test_a_load_is_a_value() -> None:
    one, two = (read(work()) for _ in range(2))
    assert isinstance(one, OfferedLoad)
    assert all(np.array_equal(one[place], two[place]) for place in range(4))
