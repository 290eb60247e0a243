"""What gateways know of caches: late, lost or told twice. No answer depends on it, and what was lost is made good."""

import msgspec
import pytest

from jedlik.core.config import FaultConfig, NetworkConfig
from jedlik.core.effects import ToWorkerEffect
from jedlik.core.ids import GatewayId, WorkerId
from jedlik.core.protocol import Facts, Resync
from jedlik.sim.outcome import SimulationRun
from jedlik.sim.world import Simulation
from sim_world import Conversations, a_setup, drawn, index_differs, play, run

SMALL_CACHE = 64 * 600
"""Tokens: blocks are evicted all the time."""


def everywhere(kind: str, workers: int, **what: float) -> list[FaultConfig]:
    """The same fault at every worker."""
    script = [{"kind": kind, "worker": f"p/{n}", **what} for n in range(workers)]
    return msgspec.convert(script, list[FaultConfig])


def hit_rate(result: SimulationRun) -> float:
    return sum(o.cached_tokens for o in result.outcomes) / sum(o.prompt_tokens for o in result.outcomes)


def all_ended_well_at_once(result: SimulationRun) -> bool:
    return all(o.ok and o.attempts == 1 for o in result.outcomes)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_after_a_storm_of_losses_every_gateway_knows_every_cache_again(share: float) -> None:
    begin_s, end_s, repaired_s = 2.0, 7.0, 2.0
    faults = everywhere("lose_facts", 3, at_s=begin_s, for_s=end_s - begin_s, share=share)
    simulation = Simulation(a_setup(3, SMALL_CACHE, gateways=2, faults=faults), drawn(1, 200, 15.0))
    seen: list[tuple[float, set[tuple[GatewayId, WorkerId]]]] = []

    def look() -> None:
        seen.append((simulation.heap.now, index_differs(simulation)))
        for later_s in (0.001, 0.003):
            simulation.heap.after(later_s, look_again)
        simulation.heap.after(0.23, look)

    def look_again() -> None:
        """What is right a moment later was under way."""
        seen[-1][1].intersection_update(index_differs(simulation))

    simulation.heap.at(0.5, look)
    result = play(simulation)
    assert all_ended_well_at_once(result)
    assert all(not wrong for at_s, wrong in seen if at_s < begin_s)
    assert any(wrong for at_s, wrong in seen if begin_s < at_s < end_s)
    after = [wrong for at_s, wrong in seen if at_s > end_s + repaired_s]
    assert len(after) > 10
    assert not any(after)


def test_where_all_facts_are_lost_for_good_requests_are_served_all_the_same() -> None:
    faults = everywhere("lose_facts", 3, at_s=0.0)
    result = run(a_setup(3, SMALL_CACHE, gateways=2, faults=faults), drawn(2, 200, 15.0))
    assert all_ended_well_at_once(result)


def test_facts_told_twice_change_nothing() -> None:
    """Where a link has all the bandwidth one could wish: else what is told twice takes longer."""
    setup = a_setup(3, SMALL_CACHE, gateways=2, network=NetworkConfig(bandwidth_bytes_s=float("inf")))
    once = run(setup, drawn(3, 200, 15.0))
    faults = tuple(everywhere("duplicate_facts", 3, at_s=1.0))
    twice = Simulation(msgspec.structs.replace(setup, faults=faults), drawn(3, 200, 15.0))
    asked: list[ToWorkerEffect] = []
    to_worker = twice.network.to_worker

    def noted(gateway: GatewayId, sent: ToWorkerEffect) -> None:
        if isinstance(sent.message, Resync):
            asked.append(sent)
        to_worker(gateway, sent)

    twice.network.to_worker = noted  # type: ignore[method-assign]
    assert play(twice).outcomes == once.outcomes
    assert not index_differs(twice)
    assert not asked


@pytest.mark.parametrize("delay_s", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("think_s", [0.05, 0.3])
def test_late_facts_cost_little_of_the_hit_rate(delay_s: float, think_s: float) -> None:
    """Even where the next turn comes before the facts of the last: bookings and load reports keep things in place."""
    talks = Conversations(1, talks=30, turns=6, think_s=think_s)
    in_time = run(a_setup(4), talks)
    late = run(a_setup(4, network=NetworkConfig(facts_delay_s=delay_s)), talks)
    assert all_ended_well_at_once(late)
    assert hit_rate(in_time) > 0.6
    assert hit_rate(late) > hit_rate(in_time) - 0.08


def test_facts_that_become_late_under_way_stay_in_order() -> None:
    """A delay that begins and ends must not let later facts overtake earlier ones: that would look like a loss."""
    faults = everywhere("delay_facts", 3, at_s=2.0, for_s=2.0, delay_s=0.5)
    faults += everywhere("delay_facts", 3, at_s=2.5, for_s=0.2, delay_s=2.0)
    simulation = Simulation(a_setup(3, SMALL_CACHE, faults=faults), drawn(4, 150, 15.0))
    numbers: dict[str, list[int]] = {}
    [gateway] = simulation.network.gateways.values()
    apply = gateway.node._index.apply

    def noted(worker: str, facts: Facts) -> bool:
        numbers.setdefault(worker, []).append(facts.number)
        return apply(worker, facts)  # type: ignore[arg-type]

    gateway.node._index.apply = noted  # type: ignore[method-assign]
    play(simulation)
    assert len(numbers) == 3
    for heard in numbers.values():
        assert heard == list(range(heard[0], heard[0] + len(heard)))
    assert not index_differs(simulation)
