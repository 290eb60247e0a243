"""The clairvoyant planner: its dynamic programming, its guesses, and all of it, against trying everything."""

from collections.abc import Iterator, Sequence
from itertools import product

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import MARGIN_S, Oracle, foresee, player
from oracle_curves import Curves, attainable, binned, missed, smooth
from oracle_load import Came, busy, rooms
from oracle_quick import Quick
from oracle_schedule import Counts, Rules, cheapest, committed, cost_s

from jedlik.core.config import GatewayConfig, PlannerConfig, Role, WorkerConfig
from jedlik.core.plans import Demand, Promise
from jedlik.core.protocol import StepCosts
from jedlik.perf.model import LinearModel
from jedlik.planning.policy import Situation
from jedlik.sim.setup import Setup, SimPool
from jedlik.sim.workload.offered import Offered, OfferedText
from jedlik.sim.world import simulate

MODEL = LinearModel(
    StepCosts(base_s=0.005, prefill_token_s=1e-4, prefill_pair_s=0.0, decode_sequence_s=1e-3, context_token_s=1e-7)
)
"""1,000 tokens are prefilled in 105 ms."""
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
NOW = Situation(0.0, 0.0, NOTHING, 0, 0, (), {}, False, False, 0.0, None, None)


class Listed:
    """A workload of given requests."""

    def __init__(self, times_s: Sequence[float], prompt: int = 1000, output: int = 20) -> None:
        self._times_s, self._prompt, self._output = times_s, prompt, output
        self.total: int | None = len(times_s)

    def arrivals(self) -> Iterator[Offered]:
        for number, at_s in enumerate(self._times_s):
            yield Offered(
                at_s=at_s, text=OfferedText(0, [number], self._prompt, self._prompt), output_tokens=self._output
            )

    def ended(self, offered: Offered, now_s: float) -> Sequence[Offered]:
        return ()


def setup(count: int, places: int, start_s: float, role: Role = "both") -> Setup:
    pool = SimPool(
        name="a",
        count=count,
        profile="p",
        model=MODEL,
        gpus=1.0,
        kv_tokens=100_000,
        start_s=start_s,
        role=role,
        places=places,
    )
    return Setup(
        model="m",
        pools=(pool,),
        worker=WorkerConfig(max_step_tokens=2048, block_size=64),
        gateway=GatewayConfig(slo_ttft_s=0.35, slo_itl_s=0.05),
        planner=PlannerConfig(budget=float(places), min_workers=1, start_s=start_s),
    )


# --- schedules ------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.integers(0, 20), min_size=4, max_size=4), min_size=1, max_size=4),
    st.sampled_from([0.0, 5.0, 12.0]),
    st.sampled_from([0.0, 2.0]),
    st.integers(1, 3),
    st.sampled_from([0.1, 1.0, 10.0]),
)
def test_the_cheapest_schedule_is_the_best_of_all(
    missed: list[list[int]], start_s: float, drain_s: float, initial: int, price: float
) -> None:
    rules = Rules(5.0, start_s, drain_s, initial, 1)
    curve = np.array(missed, np.float64)

    def total(chosen: Counts) -> float:
        return cost_s(chosen, rules) + price * float(curve[np.arange(len(chosen)), chosen].sum())

    def possible(chosen: tuple[int, ...]) -> bool:
        return all(n <= initial for at, n in enumerate(chosen) if at * 5.0 < start_s)

    every = [np.array(chosen) for chosen in product(range(1, 4), repeat=len(missed)) if possible(chosen)]
    found = cheapest(curve, price, rules)
    assert possible(tuple(found.tolist()))
    assert total(found) == pytest.approx(min(map(total, every)))


def test_a_worker_is_kept_over_a_gap_shorter_than_a_start() -> None:
    needs = np.array([2] * 4 + [1] * 4 + [2] * 4 + [1] * 20 + [2] * 4)
    missed = np.where(np.arange(4)[None, :] < needs[:, None], 1000.0, 0.0)
    chosen = cheapest(missed, 1.0, Rules(5.0, 40.0, 0.0, 2, 1))
    assert chosen.tolist() == [2] * 12 + [1] * 20 + [2] * 4
    assert cost_s(chosen, Rules(5.0, 40.0, 3.0, 2, 1, 8.0)) == 8 * (5.0 * 52 + 40 + 3)


def test_starts_are_ordered_ahead() -> None:
    chosen = np.array([1, 1, 1, 3, 3, 1])
    assert [committed(chosen, at_s, 0.0, 5.0) for at_s in (0, 14, 15, 24, 25, 99)] == [1, 1, 3, 3, 1, 1]
    assert [committed(chosen, at_s, 7.0, 5.0) for at_s in (7, 8, 20, 25)] == [1, 3, 3, 1]
    oracle = Oracle({"both": chosen}, 5.0, {"both": 7.0 - MARGIN_S})
    assert oracle.decide(NOW._replace(now=8.0)).counts == {"both": 3}
    assert oracle.tick_s == 1.0


# --- curves and guesses ---------------------------------------------------------------------------------------------


def test_curves_never_rise_and_learn_from_what_was_tried() -> None:
    curves = Curves({1: np.array([4.0, 0.0]), 3: np.array([0.0, 1.0])}, np.array([10.0, 2.0]))
    assert curves.missed.tolist() == [[10.0, 4.0, 2.0, 0.0], [2.0, 1.0, 1.0, 1.0]]
    curves.correct(np.array([2, 1]), np.array([4.0, 0.0]))
    assert curves.expected(np.array([2, 1])).tolist() == [4.0, 0.0]
    assert curves.missed.tolist() == [[10.5, 5.0, 4.0, 1.0], [1.5, 0.0, 0.0, 0.0]]


def test_spreading_keeps_the_sum() -> None:
    late = np.array([0.0, 0.0, 6.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert smooth(late, 5.0, 15.0).tolist() == pytest.approx([1.2, 1.2, 1.2, 1.2, 1.2, 0.0, 0.0, 0.0])
    assert binned([0.0, 4.9, 5.0, 99.0], 5.0, 3).tolist() == [2.0, 1.0, 1.0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_guess_misses_about_what_the_nodes_miss(count: int) -> None:
    times_s = [0.07 * number for number in range(200)]
    fixed = setup(count, count, 0.0)
    fixed = msgspec.structs.replace(fixed, planner=PlannerConfig())
    run = simulate(fixed, Listed(times_s))
    promise = Promise(0.35, 0.05)
    guess = Quick(fixed, [Came(at_s, 1000, 0, 20) for at_s in times_s]).late({"both": np.array([count])}, 1e9)
    assert len(guess) == pytest.approx(len(missed(run, promise)), abs=15)
    assert attainable(run) == 200


def test_guesses_of_two_roles_count_the_hand_off() -> None:
    fleet = setup(1, 1, 0.0, "prefill")
    decode = msgspec.structs.replace(fleet.pools[0], name="d", role="decode")
    fleet = msgspec.structs.replace(fleet, pools=(*fleet.pools, decode))
    quick = Quick(fleet, [Came(0.0, 1000, 0, 20), Came(1.0, 1000, 0, 1), Came(1.0, 9000, 0, 2, counts=False)])
    one = np.array([1])
    assert quick.late({"prefill": one, "decode": one}, 1e9) == []
    assert quick.late({"prefill": 0 * one, "decode": one}, 1e9) == [0.0, 1.0]


def test_how_many_are_busy() -> None:
    fleet = setup(1, 9, 0.0)
    steady = busy(fleet, "both", [Came(0.1 * number, 1000, 0, 20) for number in range(600)])
    assert len(steady) == 2
    assert steady[0] == pytest.approx(steady[1])
    assert 1.0 < steady[0] < 2.5  # 1.1 s of prefill a second, and the decodes
    assert rooms(fleet, "both") == 9


# --- all of it ------------------------------------------------------------------------------------------------------


def test_the_oracle_finds_what_trying_every_schedule_finds() -> None:
    times_s = [0.5 * n for n in range(10)] + [5 + 0.05 * n for n in range(100)] + [10 + 0.5 * n for n in range(10)]
    fleet, promise, goal = setup(1, 3, 0.0), Promise(0.35, 0.05), 0.9
    tried = {}
    for chosen in product((1, 2, 3), repeat=3):
        run = simulate(fleet, Listed(times_s), planner=player(fleet, {"both": np.array(chosen)}, 5.0))
        tried[chosen] = (len(missed(run, promise)) <= (1 - goal) * attainable(run), run.gpu_s)
    best = min(gpu_s for kept, gpu_s in tried.values() if kept)
    found = foresee(fleet, lambda: Listed(times_s), goal)
    run = simulate(fleet, Listed(times_s), planner=found)
    assert found.name == "oracle"
    assert len(missed(run, promise)) <= (1 - goal) * attainable(run)
    assert run.gpu_s == pytest.approx(best)


def test_where_nobody_reaches_the_goal_the_largest_fleet_sets_it() -> None:
    times_s = [0.01 * number for number in range(400)]
    fleet = setup(2, 2, 0.0)
    found = foresee(fleet, lambda: Listed(times_s), 0.99, simulations=3)
    promise = Promise(0.35, 0.05)
    late = len(missed(simulate(fleet, Listed(times_s), planner=found), promise))
    widest = player(fleet, {"both": np.array([2])}, 5.0)
    assert late <= len(missed(simulate(fleet, Listed(times_s), planner=widest), promise))
