"""A run with leaps is the run step by step: same answers at the same times, whatever presses on the batch."""

from dataclasses import dataclass

import msgspec
import pytest

from jedlik.core.config import FaultConfig, GatewayConfig
from jedlik.sim.outcome import SimulationRun
from sim_world import WORKER, a_setup, drawn, run


@dataclass
class Case:
    """A workload that presses on something."""

    workers: int = 3
    kv_tokens: int = 64 * 2000
    rate: float = 10.0
    max_sequences: int = 64
    outputs: tuple[int, int] = (2, 200)


CASES = {
    "plain": Case(),
    "one worker, long answers": Case(workers=1, rate=2.0, outputs=(100, 600)),
    "few places": Case(rate=30.0, max_sequences=4),
    "little memory": Case(kv_tokens=64 * 150, rate=20.0, outputs=(50, 900)),
    "overload": Case(workers=2, rate=60.0),
    "one token": Case(outputs=(1, 2)),
}


def same(one: SimulationRun, other: SimulationRun) -> None:
    """Equal, but for the last bits of times: a leap adds up its steps in closed form."""
    firsts, seconds = (sorted(result.outcomes, key=lambda o: o.arrived_s) for result in (one, other))
    assert len(firsts) == len(seconds)
    for first, second in zip(firsts, seconds, strict=True):
        times = [(o.arrived_s, o.ttft_s or 0.0, o.ended_s) for o in (first, second)]
        assert times[0] == pytest.approx(times[1], abs=1e-8)
        rest = [(o.prompt_tokens, o.cached_tokens, o.output_tokens, o.outcome, o.worker) for o in (first, second)]
        assert rest[0] == rest[1]


@pytest.mark.parametrize("run_ahead", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_leaps_change_nothing(name: str, run_ahead: bool) -> None:
    case = CASES[name]
    worker = msgspec.structs.replace(WORKER, run_ahead=run_ahead, max_sequences=case.max_sequences)
    setup = a_setup(case.workers, case.kv_tokens, worker=worker, gateway=GatewayConfig(policy="round_robin"))
    for seed in range(2):
        workload = drawn(seed, 120, case.rate, outputs=case.outputs)
        leaping, stepping = (run(msgspec.structs.replace(setup, step_by_step=step), workload) for step in (False, True))
        same(leaping, stepping)
        assert leaping.events < stepping.events or case.outputs == (1, 2)


def test_the_same_seed_is_the_same_run() -> None:
    faults = [FaultConfig(at_s=3.0, kind="crash"), FaultConfig(at_s=5.0, kind="slow", for_s=4.0)]
    first, second = (run(a_setup(gateways=2, faults=faults, seed=7), drawn(3)) for _ in range(2))
    assert first.outcomes == second.outcomes
    assert first.actions == second.actions
    other = run(a_setup(gateways=2, faults=faults, seed=8), drawn(3))
    assert other.outcomes != first.outcomes
