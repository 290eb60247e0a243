"""Planners at work under changing load and faults: nobody's answer is lost, and the same seed is the same run."""

import hashlib
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from random import Random

import msgspec
import pytest

from jedlik.core.config import FaultConfig, GatewayConfig, PlannerConfig
from jedlik.planning.planners import OWN
from jedlik.planning.policy import PlannerMaker
from jedlik.serve.plugins import load_planner
from jedlik.sim.outcome import SimulationRun
from jedlik.sim.workload.offered import Offered, OfferedText
from sim_world import Conversations, Listed, a_setup, drawn, run

FAULTS = (
    FaultConfig(at_s=6.0, kind="crash"),
    FaultConfig(at_s=9.0, kind="hang"),
    FaultConfig(at_s=12.0, kind="drain", for_s=5.0),
    FaultConfig(at_s=15.0, kind="slow", for_s=10.0),
    FaultConfig(at_s=20.0, kind="crash"),
)
PATIENT = GatewayConfig(no_worker_wait_s=60.0, slo_ttft_s=1.0, slo_itl_s=0.03, shed=False)
POLICIES: tuple[str, ...] = ("static", "hpa", "kpa", "dynamo", "jedlik")
FILES = Path(__file__).parents[2] / "bench" / "planners"
limited = partial(PlannerConfig, budget=16.0, mode="on", tick_s=2.0)


def swelling(seed: int, over_s: float = 60.0) -> Listed:
    """Few requests, then many, then few."""
    rng = Random(seed)
    at_s = 0.0
    offered: list[Offered] = []
    while at_s < over_s:
        at_s += rng.expovariate(20.0 if 15.0 < at_s < 35.0 else 3.0)
        ids = [len(offered) * 100 + piece for piece in range(rng.randint(5, 40))]
        offered.append(
            Offered(at_s=at_s, text=OfferedText(0, ids, 64, 64 * len(ids)), output_tokens=rng.randint(10, 150))
        )
    return Listed(offered)


def hurt(policy: str, seed: int, faults: tuple[FaultConfig, ...] = FAULTS, gateways: int = 2) -> SimulationRun:
    setup = a_setup(2, gateways=gateways, faults=faults, gateway=PATIENT, seed=seed, start_s=4.0)
    pools = tuple(msgspec.structs.replace(pool, places=8) for pool in setup.pools)
    planned = msgspec.structs.replace(setup, pools=pools, planner=limited(), planner_maker=maker(policy))
    return run(planned, swelling(seed))


def maker(policy: str) -> PlannerMaker:
    return load_planner(policy if policy in OWN else str(FILES / f"{policy}.py")).make


def digest(result: SimulationRun) -> str:
    """Of every float's every bit, decisions and their reasons included."""
    told = (result.outcomes, result.actions, result.samples, result.events, result.gpu_s, result.staff, result.planning)
    return hashlib.sha256(repr(told).encode()).hexdigest()


@pytest.mark.parametrize("policy", POLICIES)
def test_whatever_planners_do_under_faults_nobody_loses_an_answer(policy: str) -> None:
    result = hurt(policy, 3)
    assert all(o.ok for o in result.outcomes)
    assert result.planning is not None
    assert result.planning.planner == policy
    for staff in result.staff:
        assert sum(staff.serving.values()) + sum(staff.starting.values()) + sum(staff.draining.values()) <= 8
    told = {action.kind for action in result.planning.actions}
    assert ("start" in told) or policy == "static"


@pytest.mark.parametrize("policy", ["dynamo", "jedlik"])
def test_hashing_of_strings_changes_no_decision(policy: str) -> None:
    code = f"import test_planner_runs as t; print(t.digest(t.hurt({policy!r}, 7)))"
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), *sys.path])
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    assert told == digest(hurt(policy, 7))
    assert told != digest(hurt(policy, 8))


@pytest.mark.parametrize("kind", ["crash", "hang", "drain", "partition"])
def test_a_static_planner_is_no_planner(kind: str) -> None:
    """Same counts, same answers at the same times, faults and restarts included."""
    faults = (FaultConfig(at_s=3.0, kind=kind, worker="p/1", for_s=2.0),)  # type: ignore[arg-type]
    setup = a_setup(3, gateways=2, faults=faults, start_s=2.0, gateway=GatewayConfig(no_worker_wait_s=30.0))
    planned = msgspec.structs.replace(setup, planner=limited(budget=6.0), planner_maker=maker("static"))
    for workload in (drawn(1, 200, 15.0), Conversations(2, talks=20, turns=4)):
        one, other = run(setup, workload), run(planned, workload)
        assert one.outcomes == other.outcomes
        assert one.actions == other.actions
        assert one.gpu_s == other.gpu_s
        assert other.planning is not None
        assert other.planning.actions == []


def test_a_planner_that_advises_changes_nothing() -> None:
    setup = a_setup(2, gateway=PATIENT)
    pools = tuple(msgspec.structs.replace(pool, places=4) for pool in setup.pools)
    planner = limited(mode="advise", budget=8.0)
    advised = msgspec.structs.replace(setup, pools=pools, planner=planner, planner_maker=maker("kpa"))
    one, other = run(setup, swelling(1)), run(advised, swelling(1))
    assert one.outcomes == other.outcomes
    assert other.planning is not None
    assert other.planning.actions == []
    assert any(decision.advice and decision.wanted["both"] > 2 for decision in other.planning.decisions)
