"""One to eight gateways side by side, each with a share of the requests and its own beliefs about the same workers."""

from collections import Counter

import pytest

from jedlik.core.config import FaultConfig
from jedlik.sim.outcome import SimulationRun
from sim_world import Conversations, a_setup, drawn, run

GATEWAYS = [1, 2, 4, 8]


def mean_ttft_s(result: SimulationRun) -> float:
    return sum(o.ttft_s or 0.0 for o in result.outcomes) / len(result.outcomes)


def goodput(result: SimulationRun, ttft_s: float, itl_s: float) -> float:
    good = [o for o in result.outcomes if o.ok and (o.ttft_s or 0.0) <= ttft_s and (o.itl_s or 0.0) <= itl_s]
    return len(good) / len(result.outcomes)


def served(result: SimulationRun) -> list[int]:
    """Requests by worker."""
    counted = Counter(o.worker for o in result.outcomes)
    return [counted[index] for index in range(len(result.workers))]


@pytest.mark.parametrize("rate", [15.0, 40.0])
def test_more_gateways_route_nearly_as_well_as_one(rate: float) -> None:
    """Each knows of its own bookings only, and of the others' by load reports."""
    runs = {
        gateways: run(a_setup(4, gateways=gateways), drawn(1, 250, rate, prefix_pieces=60, own_pieces=10))
        for gateways in GATEWAYS
    }
    alone = runs[1]
    for result in runs.values():
        assert all(o.ok and o.attempts == 1 for o in result.outcomes)
        assert mean_ttft_s(result) < 1.4 * mean_ttft_s(alone)
        assert goodput(result, 0.15, 0.02) > goodput(alone, 0.15, 0.02) - 0.1
        assert max(served(result)) < 1.6 * 250 / 4  # nobody is run down by a herd
        assert min(served(result)) > 250 / 4 / 1.6


@pytest.mark.parametrize("gateways", GATEWAYS)
def test_a_burst_is_spread_however_many_gateways_see_it(gateways: int) -> None:
    """A hundred requests in less than a report's period: only bookings tell of them, an eighth at each gateway."""
    result = run(a_setup(8, gateways=gateways), drawn(5, 96, 2000.0, prefixes=200, outputs=(20, 60)))
    assert all(o.ok for o in result.outcomes)
    assert max(served(result)) <= 2.5 * 96 / 8
    assert min(served(result)) >= 96 / 8 / 4


@pytest.mark.parametrize("gateways", GATEWAYS)
def test_conversations_keep_their_cache_at_whichever_gateway_they_turn_up(gateways: int) -> None:
    result = run(a_setup(4, gateways=gateways), Conversations(2, talks=30, turns=6))
    hit_rate = sum(o.cached_tokens for o in result.outcomes) / sum(o.prompt_tokens for o in result.outcomes)
    assert hit_rate > 0.6


@pytest.mark.parametrize("gateways", GATEWAYS)
def test_all_gateways_get_over_a_crash(gateways: int) -> None:
    """Each has streams there, each moves its own."""
    faults = [FaultConfig(at_s=3.0, kind="crash", worker="p/1")]
    result = run(a_setup(3, gateways=gateways, faults=faults), drawn(6, 150, 15.0, outputs=(50, 300)))
    assert all(o.ok for o in result.outcomes)
    assert sum(o.attempts > 1 for o in result.outcomes) >= 2
