"""What a planner orders is done to simulated workers: starts take time and GPUs, drains lose nothing, roles change."""

from collections.abc import Callable
from functools import partial

import msgspec
import pytest

from jedlik.core.config import FaultConfig, GatewayConfig, PlannerConfig, Role
from jedlik.core.errors import Bug
from jedlik.core.plans import Counts, Wish
from jedlik.nodes.planner.node import PlannerNode
from jedlik.planning.policy import Situation
from jedlik.sim.outcome import SimulationRun
from jedlik.sim.setup import Setup
from jedlik.sim.workload.offered import Workload
from jedlik.sim.world import Simulation, simulate
from sim_world import Listed, a_setup, drawn, play

Wanted = Callable[[float], Counts]
PATIENT = GatewayConfig(no_worker_wait_s=60.0)


class Scripted:
    """Wants what a function of the time says."""

    name = "scripted"
    tick_s = 1.0

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self.seen: list[Situation] = []

    def decide(self, situation: Situation) -> Wish:
        self.seen.append(situation)
        return Wish(dict(self._wanted(situation.now)), "as scripted")


def stairs(*steps: tuple[float, Counts]) -> Wanted:
    """From each time on, those counts."""

    def wanted(now: float) -> Counts:
        return [counts for at_s, counts in steps if at_s <= now][-1]

    return wanted


def planned_setup(
    count: int = 1,
    places: int = 4,
    start_s: float = 3.0,
    faults: tuple[FaultConfig, ...] = (),
    gateway: GatewayConfig = PATIENT,
    **planner: float,
) -> Setup:
    """Workers of two GPUs each."""
    setup = a_setup(count, start_s=start_s, faults=faults, gateway=gateway)
    pools = tuple(msgspec.structs.replace(pool, places=places) for pool in setup.pools)
    config = PlannerConfig(budget=2.0 * places, mode="on", **planner)  # type: ignore[arg-type]
    return msgspec.structs.replace(setup, pools=pools, planner=config)


def played(setup: Setup, wanted: Wanted, workload: Workload) -> tuple[Simulation, SimulationRun]:
    simulation = Simulation(setup, workload, planner=Scripted(wanted))
    result = play(simulation)
    simulation.planner.node.check()
    return simulation, result


def acts(result: SimulationRun) -> list[tuple[float, str, str]]:
    return [(round(action.at_s, 2), action.kind, action.worker) for action in result.actions]


def test_both_worlds_run_the_same_node() -> None:
    assert type(Simulation(planned_setup(), Listed([])).planner.node) is PlannerNode


def test_a_start_takes_its_time_and_its_gpus_count_from_the_order() -> None:
    _, result = played(planned_setup(), stairs((0.0, {"both": 1}), (4.0, {"both": 3})), drawn(1, 200))
    assert acts(result) == [
        (4.0, "start", "p/1"),
        (4.0, "start", "p/2"),
        (7.0, "serve", "p/1"),
        (7.0, "serve", "p/2"),
    ]
    assert result.gpu_s == pytest.approx(2.0 * (result.duration_s + 2 * (result.duration_s - 4.0)))
    assert {o.worker for o in result.outcomes if o.arrived_s < 6.9} == {0}
    assert {o.worker for o in result.outcomes if o.arrived_s > 7.5} == {0, 1, 2}
    assert result.workers == ["p/0", "p/1", "p/2", "p/3"]
    assert result.planning is not None
    assert [(a.kind, a.worker) for a in result.planning.actions] == [("start", "p/1"), ("start", "p/2")]


def test_staff_tells_who_was_in_which_state() -> None:
    wanted = stairs((0.0, {"both": 1}), (4.0, {"both": 2}), (9.0, {"both": 1}))
    _, result = played(planned_setup(), wanted, drawn(1, 200, outputs=(50, 100)))
    states = [(round(s.at_s), s.serving, s.starting, s.draining) for s in result.staff]
    assert states[:4] == [
        (0, {"both": 1}, {}, {}),
        (4, {"both": 1}, {"both": 1}, {}),
        (7, {"both": 2}, {}, {}),
        (9, {"both": 1}, {}, {"both": 1}),
    ]
    assert states[4][1:] == ({"both": 1}, {}, {})


def test_a_worker_that_is_retired_finishes_what_it_has() -> None:
    wanted = stairs((0.0, {"both": 3}), (5.0, {"both": 1}), (9.0, {"both": 3}), (14.0, {"both": 1}))
    _, result = played(planned_setup(3, start_s=1.0), wanted, drawn(1, 250, 15.0, outputs=(20, 300)))
    assert [o for o in result.outcomes if not o.ok or o.attempts > 1] == []
    ends = [action for action in result.actions if action.kind == "end"]
    assert [action.detail for action in ends] == ["drained"] * 4
    assert all(action.at_s > 5.0 for action in ends)


def test_one_that_does_not_finish_in_time_is_ended_and_its_streams_go_on_elsewhere() -> None:
    wanted = stairs((0.0, {"both": 2}), (5.0, {"both": 1}))
    setup = planned_setup(2, drain_s=0.5)
    _, result = played(setup, wanted, drawn(1, 100, outputs=(300, 600)))
    [end] = [action for action in result.actions if action.kind == "end"]
    assert (round(end.at_s, 2), end.detail) == (5.5, "ended")
    assert all(o.ok for o in result.outcomes)
    assert any(o.attempts == 2 for o in result.outcomes)
    assert result.planning is not None
    assert len(result.planning.actions) == 1  # that it was ended is part of retiring it


def test_a_start_that_is_not_wanted_any_more_is_ended_and_costs_what_it_took() -> None:
    wanted = stairs((0.0, {"both": 1}), (4.0, {"both": 2}), (6.0, {"both": 1}))
    simulation, result = played(planned_setup(start_s=5.0), wanted, drawn(1, 150))
    assert acts(result) == [(4.0, "start", "p/1"), (6.0, "end", "p/1")]
    assert result.gpu_s == pytest.approx(2.0 * (result.duration_s + 2.0))
    assert len(simulation.network.workers) == 1


def test_a_crash_during_a_start_begins_it_anew() -> None:
    faults = (FaultConfig(at_s=5.0, kind="crash", worker="p/1"),)
    wanted = stairs((0.0, {"both": 1}), (4.0, {"both": 2}))
    _, result = played(planned_setup(faults=faults), wanted, drawn(1, 200))
    kinds = [(round(at_s), kind) for at_s, kind, worker in acts(result) if worker == "p/1"]
    assert kinds[:3] == [(4, "start"), (5, "crash"), (5, "end")]
    [served] = [at_s for at_s, kind in kinds if kind == "serve"]
    [_, again] = [at_s for at_s, kind in kinds if kind == "start"]
    assert again >= 5
    assert served == again + 3
    assert result.planning is not None
    assert [a.kind for a in result.planning.actions] == ["start"]  # starting again is nobody's decision


def test_never_more_than_the_budget() -> None:
    simulation, result = played(planned_setup(), lambda now: {"both": 99}, drawn(1, 100))
    assert sum(slot.since_s is not None for slot in simulation.workers.slots) == 4
    assert max(sum(s.serving.values()) + sum(s.starting.values()) for s in result.staff) == 4


def split(counts: Counts, **given: float) -> Setup:
    """Prefill and decode apart, hands off."""
    setup = planned_setup(**given)  # type: ignore[arg-type]
    [pool] = setup.pools
    roles: tuple[Role, ...] = ("prefill", "decode")
    pools = tuple(msgspec.structs.replace(pool, name=role, role=role, count=counts[role], host="a") for role in roles)
    return msgspec.structs.replace(setup, pools=pools, handoffs=True)


def test_roles_change_at_a_gateway() -> None:
    setup = split({"prefill": 3, "decode": 1})
    wanted = stairs((0.0, {"prefill": 3, "decode": 1}), (5.0, {"prefill": 1, "decode": 3}))
    simulation, result = played(setup, wanted, drawn(1, 200, 8.0))
    assert all(o.ok for o in result.outcomes)
    flips = [action for action in result.actions if action.kind == "role"]
    assert [action.detail for action in flips] == ["decode"] * 2
    assert result.planning is not None
    assert [action.kind for action in result.planning.actions] == ["role", "role"]
    assert "start" not in {action.kind for action in result.actions}
    assert result.staff[-1].serving == {"prefill": 1, "decode": 3}
    [gateway] = simulation.network.gateways.values()
    roles = sorted(str(row["role"]) for row in gateway.node.roles())
    assert roles == ["decode", "decode", "decode", "prefill"]


def test_a_worker_takes_the_role_it_is_started_in() -> None:
    setup = split({"prefill": 1, "decode": 1}, places=2)
    wanted = stairs((0.0, {"prefill": 1, "decode": 1}), (2.0, {"prefill": 1, "decode": 3}))
    setup = msgspec.structs.replace(setup, planner=msgspec.structs.replace(setup.planner, budget=8.0))
    simulation, _ = played(setup, wanted, drawn(1, 200, 8.0))
    [gateway] = simulation.network.gateways.values()
    told = {str(row["name"]): row["role"] for row in gateway.node.roles()}
    assert sorted(told.items()) == [
        ("decode/0", "decode"),
        ("decode/1", "decode"),
        ("prefill/0", "prefill"),
        ("prefill/1", "decode"),
    ]


def test_planners_see_what_gateways_report() -> None:
    planner = Scripted(lambda now: {"both": 2})
    result = simulate(planned_setup(2), drawn(1, 200), planner=planner)
    assert sum(s.demand.arrived for s in planner.seen) >= 0.8 * result.offered
    last = planner.seen[-1]
    assert [seen.name for seen in last.workers] == ["p/0", "p/1"]
    assert last.pools["both"].serving == 2
    assert not any(s.stale for s in planner.seen if s.now >= 3.0)
    told = result.planning
    assert told is not None
    assert (told.planner, told.budget) == ("scripted", 8.0)
    assert told.decisions[0].wanted == {"both": 2}


def test_a_place_is_started_once_at_a_time() -> None:
    simulation = Simulation(planned_setup(2), Listed([]))
    simulation.workers.boot()
    for start in (1, 2):
        with pytest.raises(Bug, match="p/0"):
            simulation.workers.launch("p/0", start, "both")
    simulation.workers.end("p/2", 1)  # nobody is there
    simulation.workers.retire("p/0", 7)  # another start
    assert [slot.state for slot in simulation.workers.slots] == ["serving", "serving", "", ""]


def test_nobody_plans_where_nobody_asked_for_it() -> None:
    simulation = Simulation(a_setup(2), drawn(1, 50))
    result = play(simulation)
    assert result.planning is None
    assert simulation.network.planner is None
    assert [s.serving for s in result.staff] == [{"both": 2}]


static = partial(stairs, (0.0, {"both": 3}))


def test_counts_that_stay_are_a_fleet_without_a_planner() -> None:
    """The same answers at the same times: planning costs nothing but decisions."""
    alone = a_setup(3, start_s=3.0, gateway=PATIENT)
    workload = drawn(3, 200, 15.0)
    _, planned = played(planned_setup(3, places=5), static(), workload)
    assert planned.outcomes == play(Simulation(alone, workload)).outcomes
