"""Faults strike leaping and stepping alike, overlap, spare what was said before, and cost GPU time as they should."""

from functools import partial
from typing import Literal

import msgspec
import pytest

from jedlik.core.config import FaultConfig, GatewayConfig, NetworkConfig
from jedlik.sim.outcome import SimulationRun
from jedlik.sim.world import Simulation
from sim_world import Listed, a_setup, drawn, play, run

ROUND_ROBIN = GatewayConfig(policy="round_robin")
A_STEP_OR_TWO_S = 0.02
p0 = partial(FaultConfig, worker="p/0")
FAULTS = {
    "crash": p0(at_s=4.0, kind="crash"),
    "hang": p0(at_s=4.0, kind="hang", for_s=2.03),
    "hang for good": p0(at_s=4.5, kind="hang"),
    "slow": p0(at_s=4.0, kind="slow", for_s=3.0),
    "partition": p0(at_s=4.0, kind="partition", for_s=3.0),
    "drain": p0(at_s=4.0, kind="drain", for_s=3.0),
    "lost facts": p0(at_s=1.0, kind="lose_facts", share=0.5),
}


def acts(result: SimulationRun) -> list[tuple[float, str]]:
    """What happened to p/0."""
    return [(round(action.at_s, 3), action.kind) for action in result.actions if action.worker == "p/0"]


@pytest.mark.parametrize("name", FAULTS)
def test_faults_strike_leaps_as_they_strike_steps(name: str) -> None:
    """Above all: tokens computed before a fault have been delivered before it."""
    setup = a_setup(faults=[FAULTS[name]], gateway=ROUND_ROBIN, start_s=3.0)
    for rate, requests in ((1.0, 15), (10.0, 100)):
        workload = drawn(1, requests, rate, outputs=(50, 600))
        runs = [run(msgspec.structs.replace(setup, step_by_step=step), workload) for step in (False, True)]
        assert runs[0].events < runs[1].events / 3
        for one, other in zip(*(sorted(r.outcomes, key=lambda o: o.arrived_s) for r in runs), strict=True):
            assert (one.ttft_s, one.ended_s) == pytest.approx((other.ttft_s, other.ended_s), abs=A_STEP_OR_TWO_S)
            assert (one.worker, one.attempts) == (other.worker, other.attempts)


def test_a_worker_that_drains_says_its_last_words() -> None:
    faults = [p0(at_s=4.0, kind="drain")]
    result = run(a_setup(2, faults=faults, gateway=ROUND_ROBIN), drawn(1, 100, outputs=(50, 600)))
    assert acts(result)[-1][1] == "end"
    assert [o for o in result.outcomes if o.attempts > 1] == []


def test_what_was_sent_before_a_crash_arrives() -> None:
    """Over a slow line: tokens of half a second are under way when it dies, and none of them is computed twice."""
    slow_line = NetworkConfig(latency_s=0.5)
    faults = [p0(at_s=2.0, kind="crash")]
    setup = a_setup(1, faults=faults, network=slow_line, start_s=1.0)
    alone = Listed([msgspec.structs.replace(o, at_s=0.0) for o in drawn(0, 1, outputs=(400, 400)).arrivals()])
    [outcome] = run(setup, alone).outcomes
    [unhurt] = run(msgspec.structs.replace(setup, faults=()), alone).outcomes
    assert outcome.attempts == 2
    back_s, way_s, prefill_s = 1.0, 0.5, (unhurt.ttft_s or 0.0) - 1.0
    assert outcome.ended_s - unhurt.ended_s == pytest.approx(back_s + way_s + prefill_s, abs=A_STEP_OR_TWO_S)


def test_a_frozen_worker_computes_and_says_nothing() -> None:
    """Its engine does not run ahead: a hang of two seconds costs two seconds."""
    alone = drawn(0, 1, outputs=(400, 400))
    setup = a_setup(1, gateway=ROUND_ROBIN)
    [unhurt] = run(setup, alone).outcomes
    for for_s in (0.001, 0.5, 2.0):
        faults = (p0(at_s=unhurt.arrived_s + 1.0, kind="hang", for_s=for_s),)
        [outcome] = run(msgspec.structs.replace(setup, faults=faults), alone).outcomes
        assert outcome.attempts == 1
        lost_s = outcome.ended_s - unhurt.ended_s
        assert for_s - 0.012 < lost_s <= for_s  # the step that was running ended meanwhile


@pytest.mark.parametrize("kind", ["hang", "partition"])
def test_of_faults_that_overlap_the_last_end_counts(kind: Literal["hang", "partition"]) -> None:
    faults = [p0(at_s=2.0, kind=kind, for_s=3.0), p0(at_s=2.5, kind=kind, for_s=0.5)]
    simulation = Simulation(a_setup(faults=faults), drawn(1, 60))
    heard: list[float] = []

    def look() -> None:
        [gateway] = simulation.network.gateways.values()
        peer = next(peer for worker, peer in gateway.node._peers.items() if worker == "p/0@1")
        heard.append(simulation.heap.now - peer.heard_at)

    for at in (1.9, 4.9, 5.1):
        simulation.heap.at(at, look)
    result = play(simulation)
    assert [o.attempts for o in result.outcomes] == [1] * 60
    assert [silent_s > 2.5 for silent_s in heard] == [False, True, False]


def test_slow_factors_multiply_and_pass() -> None:
    faults = [p0(at_s=0.0, kind="slow", factor=2.0, for_s=3.0), p0(at_s=1.0, kind="slow", factor=3.0, for_s=1.0)]
    simulation = Simulation(a_setup(faults=faults), drawn(1, 60))
    seen: list[float] = []

    def look() -> None:
        process = simulation.workers.slots[0].process
        assert process is not None
        seen.append(process.engine.factor)

    for at in (0.5, 1.5, 2.5, 3.5):
        simulation.heap.at(at, look)
    play(simulation)
    assert seen == [2.0, 6.0, 2.0, 1.0]


def test_a_fault_ends_with_the_process_that_suffers_it() -> None:
    """A partition outlives the fence: the worker that is started again is not cut off."""
    faults = [p0(at_s=2.0, kind="partition", for_s=60.0), p0(at_s=2.0, kind="slow", for_s=60.0)]
    simulation = Simulation(a_setup(faults=faults, start_s=1.0), drawn(1, 300))
    result = play(simulation)
    assert [kind for _, kind in acts(result)] == ["partition", "slow", "end", "start", "serve"]
    slot = simulation.workers.slots[0]
    assert slot.process is not None
    assert slot.process.engine.factor == 1.0
    assert any(o.worker == 0 and o.arrived_s > 8.2 for o in result.outcomes)


def test_gpus_cost_from_the_order_to_start_until_the_end() -> None:
    faults = [p0(at_s=2.0, kind="crash"), FaultConfig(at_s=5.0, kind="drain", worker="p/1", for_s=6.0)]
    result = run(a_setup(2, faults=faults, start_s=4.0), drawn(1, 200))
    at = {(action.worker, action.kind): action.at_s for action in result.actions}
    away_s = at["p/1", "start"] - at["p/1", "end"]
    assert at["p/0", "end"] == at["p/0", "start"] == 2.0
    assert at["p/0", "serve"] == 6.0
    assert at["p/1", "start"] == 11.0
    assert result.gpu_s == pytest.approx(2.0 * (2 * result.duration_s - away_s))


def test_a_run_ends_where_the_last_request_is_refused_at_once() -> None:
    result = run(a_setup(1, faults=[p0(at_s=0.3, kind="drain")]), drawn(1, 20, outputs=(2, 4)))
    assert len(result.outcomes) == 20
    assert result.outcomes[-1].outcome == "unavailable"


def test_a_run_without_requests_ends() -> None:
    assert run(a_setup(), Listed([])).offered == 0


def test_a_cut_run_counts_what_was_asked_and_has_not_ended() -> None:
    simulation = Simulation(msgspec.structs.replace(a_setup(1), duration_s=5.0), drawn(1, 100, outputs=(100, 200)))
    result = play(simulation)
    assert result.duration_s == 5.0
    asked = [offered for offered in drawn(1, 100).arrivals() if offered.at_s <= 5.0]
    assert result.offered == len(asked) > len(result.outcomes) > 0


def test_nothing_is_kept_of_what_has_passed() -> None:
    """Requests answered, processes ended: what a simulation holds is what is alive."""
    faults = [FaultConfig(at_s=1.0 + 1.5 * n, kind="crash", worker=f"p/{n % 2}") for n in range(10)]
    simulation = Simulation(a_setup(gateways=2, faults=faults, start_s=1.0), drawn(1, 200))
    play(simulation)
    network, clients = simulation.network, simulation.clients
    assert not clients._asked
    assert not clients._started
    alive = set(network.workers)
    assert set(network._links) <= alive | set(network.gateways)
    assert {worker for _, worker in network._facts_at} <= alive
    assert not network._cut
    assert len(simulation.heap._entries) < 200
