"""The same seed is the same run, bit by bit, in every process."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jedlik.core.config import FaultConfig, GatewayConfig
from jedlik.sim.outcome import SimulationRun
from sim_world import Conversations, a_setup, drawn, run

FAULTS = (
    FaultConfig(at_s=1.0, kind="lose_facts", share=0.5, for_s=3.0),
    FaultConfig(at_s=1.5, kind="duplicate_facts", share=0.5),
    FaultConfig(at_s=2.0, kind="crash"),
    FaultConfig(at_s=3.0, kind="hang"),
    FaultConfig(at_s=4.0, kind="partition", for_s=2.0),
    FaultConfig(at_s=5.0, kind="slow"),
    FaultConfig(at_s=6.0, kind="drain", for_s=1.0),
)
"""Victims are drawn."""


def hurt(policy: str, seed: int) -> SimulationRun:
    """Everything that is drawn or ordered is in it: gateways, victims, losses, conversations, policies."""
    gateway = GatewayConfig(policy=policy, no_worker_wait_s=10.0)
    setup = a_setup(4, 64 * 400, gateways=3, faults=FAULTS, gateway=gateway, seed=seed, start_s=2.0)
    return run(setup, Conversations(seed, talks=20, turns=5))


def digest(result: SimulationRun) -> str:
    """Of every float's every bit."""
    told = repr((result.outcomes, result.actions, result.samples, result.events, result.gpu_s, result.duration_s))
    return hashlib.sha256(told.encode()).hexdigest()


@pytest.mark.parametrize("policy", ["jedlik", "random", "session"])
def test_hashing_of_strings_and_addresses_change_nothing(policy: str) -> None:
    """A process with another PYTHONHASHSEED iterates over sets of strings in another order."""
    code = f"import test_reproducible as t; print(t.digest(t.hurt({policy!r}, 7)))"
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), *sys.path])
    told = []
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": paths}
        command = [sys.executable, "-c", code]
        told.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip())
    assert told == [digest(hurt(policy, 7))] * 2


def test_another_seed_is_another_run() -> None:
    assert digest(hurt("jedlik", 7)) != digest(hurt("jedlik", 8))


def test_a_fault_more_changes_nothing_before_it() -> None:
    """Arrivals, gateways and victims are drawn by generators of their own."""
    setup = a_setup(4, gateways=3, seed=3)
    calm = run(setup, drawn(3, 200, 15.0))
    storm = FaultConfig(at_s=8.0, kind="lose_facts", share=0.5)
    hurt_late = run(a_setup(4, gateways=3, seed=3, faults=[storm]), drawn(3, 200, 15.0))
    before = [o for o in calm.outcomes if o.ended_s < 8.0]
    assert len(before) > 50
    assert hurt_late.outcomes[: len(before)] == before
    assert sorted(o.arrived_s for o in calm.outcomes) == pytest.approx(sorted(o.arrived_s for o in hurt_late.outcomes))
