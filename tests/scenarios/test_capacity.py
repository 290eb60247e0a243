"""Capacity changes under load: workers crash, hang, drain, are cut off, come back. Nobody's answer is lost or wrong."""

import pytest

from jedlik.core.config import FaultConfig, GatewayConfig
from jedlik.sim.outcome import SimulationRun
from sim_world import Conversations, Listed, a_setup, drawn, run

PATIENT = GatewayConfig(no_worker_wait_s=20.0)
"""Where everybody may be away at once: requests wait for a worker."""


def load() -> Listed:
    return drawn(1, 250, 15.0, outputs=(20, 300))


def all_ended_well(result: SimulationRun) -> bool:
    """`run` has looked at every token."""
    return all(o.ok for o in result.outcomes)


def kinds(result: SimulationRun) -> list[tuple[str, str]]:
    return [(action.kind, action.worker) for action in result.actions]


def used_since(result: SimulationRun, at_s: float) -> set[int]:
    return {o.worker for o in result.outcomes if o.arrived_s > at_s}


@pytest.mark.parametrize("gateways", [1, 3])
@pytest.mark.parametrize("kind", ["crash", "hang", "drain"])
def test_a_worker_that_goes_loses_nothing_and_is_used_again(kind: str, gateways: int) -> None:
    lasting = 3.0 if kind == "drain" else None
    fault = FaultConfig(at_s=3.0, kind=kind, worker="p/1", for_s=lasting)  # type: ignore[arg-type]
    result = run(a_setup(3, gateways=gateways, faults=[fault], start_s=2.0), load())
    assert all_ended_well(result)
    assert kinds(result) == [(kind, "p/1"), ("end", "p/1"), ("start", "p/1"), ("serve", "p/1")]
    [served] = [action.at_s for action in result.actions if action.kind == "serve"]
    assert used_since(result, served + 0.5) == {0, 1, 2}
    moved = [o for o in result.outcomes if o.attempts > 1]
    assert all(o.attempts == 2 for o in moved)
    assert bool(moved) == (kind != "drain")


def test_workers_restarted_one_after_the_other_lose_nothing() -> None:
    """A rolling update: each drains and comes back before the next."""
    faults = [FaultConfig(at_s=2.0 + 4.0 * n, kind="drain", worker=f"p/{n}", for_s=2.0) for n in range(3)]
    result = run(a_setup(3, gateways=2, faults=faults, start_s=1.0), load())
    assert all_ended_well(result)
    assert [kind for kind, _ in kinds(result)].count("serve") == 3
    assert used_since(result, 13.0) == {0, 1, 2}


def test_a_crash_of_everybody_is_waited_out() -> None:
    faults = [FaultConfig(at_s=3.0, kind="crash", worker=f"p/{n}") for n in range(3)]
    result = run(a_setup(3, gateways=2, faults=faults, start_s=4.0, gateway=PATIENT), load())
    assert all_ended_well(result)
    assert max(o.ttft_s or 0.0 for o in result.outcomes) < 4.0 + 2.0


def test_a_crash_of_everybody_refuses_at_once_what_may_not_wait() -> None:
    """And what had begun is finished all the same."""
    faults = [FaultConfig(at_s=3.0, kind="crash", worker=f"p/{n}") for n in range(3)]
    result = run(a_setup(3, faults=faults, start_s=4.0), load())
    for outcome in result.outcomes:
        away = 3.001 < outcome.arrived_s < 7.0
        assert outcome.outcome == ("unavailable" if away else "length")
        assert not away or outcome.ended_s - outcome.arrived_s < 1e-9


@pytest.mark.parametrize(("for_s", "kicked"), [(4.5, False), (7.0, True)])
def test_who_is_cut_off_is_given_up_after_five_seconds_and_not_before(for_s: float, kicked: bool) -> None:
    fault = FaultConfig(at_s=3.0, kind="partition", worker="p/0", for_s=for_s)
    result = run(a_setup(3, gateways=2, faults=[fault], start_s=2.0), load())
    assert all_ended_well(result)
    assert (("end", "p/0") in kinds(result)) == kicked
    assert any(o.attempts > 1 for o in result.outcomes) == kicked
    assert used_since(result, 11.0) == {0, 1, 2}


def test_a_hung_worker_s_streams_end_elsewhere_soon_after_the_fence() -> None:
    fault = FaultConfig(at_s=3.0, kind="hang", worker="p/0")
    result = run(a_setup(3, faults=[fault]), load())
    moved = [o for o in result.outcomes if o.attempts > 1]
    assert len(moved) > 3
    assert all_ended_well(result)
    fenced_s = next(action.at_s for action in result.actions if action.kind == "end")
    assert fenced_s == pytest.approx(8.0, abs=0.05)
    assert all(fenced_s < o.ended_s < fenced_s + 5.0 for o in moved)


def test_losing_half_the_fleet_costs_time_not_answers() -> None:
    faults = [FaultConfig(at_s=2.0, kind="drain", worker=f"p/{n}") for n in range(4)]
    faults += [FaultConfig(at_s=5.0, kind="crash", worker=f"p/{n}") for n in (4, 5)]
    result = run(a_setup(8, gateways=2, faults=faults, start_s=3.0), drawn(2, 300, 25.0))
    assert all_ended_well(result)
    assert used_since(result, 9.0) == {4, 5, 6, 7}


def test_conversations_survive_crashes_one_after_the_other() -> None:
    faults = [FaultConfig(at_s=1.5 + 2.5 * n, kind="crash") for n in range(4)]
    workload = Conversations(3, talks=25, turns=6)
    result = run(a_setup(3, gateways=2, faults=faults, start_s=1.0), workload)
    assert all_ended_well(result)
    assert result.offered == workload.total  # nobody's conversation broke off


def test_little_memory_and_a_crash_lose_nothing() -> None:
    """What moves has to be preempted for, and computed again."""
    fault = FaultConfig(at_s=4.0, kind="crash", worker="p/0")
    result = run(a_setup(2, kv_tokens=64 * 200, faults=[fault]), drawn(3, 120, 10.0, outputs=(50, 600)))
    assert all_ended_well(result)
