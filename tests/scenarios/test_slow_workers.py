"""A worker that is slower than its peers, or stands still for a while: it gets less, and is not taken for dead."""

from collections import Counter

import pytest

from jedlik.core.config import FaultConfig
from jedlik.sim.outcome import SimulationRun
from sim_world import Listed, a_setup, drawn, run


def served(result: SimulationRun, since_s: float = 0.0, until_s: float = 1e9) -> list[int]:
    """Requests that arrived in a time, by worker."""
    counted = Counter(o.worker for o in result.outcomes if since_s <= o.arrived_s < until_s)
    return [counted[index] for index in range(len(result.workers))]


def ends(result: SimulationRun) -> list[str]:
    """Why processes ended."""
    return [action.detail for action in result.actions if action.kind == "end"]


@pytest.mark.parametrize("rate", [8.0, 20.0])
@pytest.mark.parametrize("gateways", [1, 4])
def test_a_worker_three_times_slower_gets_a_third_at_most(rate: float, gateways: int) -> None:
    """Nobody told the gateways: they learn it from its load reports."""
    faults = [FaultConfig(at_s=0.0, kind="slow", worker="p/0", factor=3.0)]
    result = run(a_setup(4, gateways=gateways, faults=faults), drawn(1, 250, rate, outputs=(20, 200)))
    slow, *others = served(result)
    assert slow <= max(others) / 3
    assert slow > 0  # it would never be seen to have recovered
    assert ends(result) == []
    assert all(o.ok and o.attempts == 1 for o in result.outcomes)


def test_a_worker_that_becomes_fast_again_gets_its_share_again() -> None:
    faults = [FaultConfig(at_s=2.0, kind="slow", worker="p/0", for_s=6.0)]
    result = run(a_setup(4, faults=faults), drawn(2, 400, 20.0, outputs=(20, 120)))
    slow, *others = served(result, 3.0, 8.0)
    assert slow < min(others) / 2
    recovered, *others = served(result, 12.0)
    assert recovered > max(others) / 2


@pytest.mark.parametrize("factor", [3.0, 10.0])
def test_a_worker_that_becomes_slow_in_a_long_leap_is_not_taken_for_hung(factor: float) -> None:
    """Alone with a long answer it decodes for half a minute in one leap: its reports still tell of steps."""
    alone = Listed([next(drawn(3, 1, outputs=(2000, 2000)).arrivals())])
    at_s = next(alone.arrivals()).at_s + 1.0
    result = run(a_setup(1, faults=[FaultConfig(at_s=at_s, kind="slow", factor=factor)]), alone)
    assert ends(result) == []
    assert [(o.outcome, o.attempts) for o in result.outcomes] == [("length", 1)]
    assert result.duration_s > 40.0


def test_a_worker_that_becomes_slow_under_load_is_not_taken_for_hung() -> None:
    faults = [FaultConfig(at_s=3.0, kind="slow", worker=f"p/{n}", factor=5.0) for n in range(3)]
    result = run(a_setup(3, faults=faults), drawn(4, 150, 10.0, outputs=(100, 400)))
    assert ends(result) == []
    assert all(o.ok and o.attempts == 1 for o in result.outcomes)


@pytest.mark.parametrize("kind", ["hang", "partition"])
def test_who_stands_still_for_two_seconds_goes_on(kind: str) -> None:
    """Suspect after 1.5 s: nothing new goes there meanwhile, nothing there moves, and then it is trusted again."""
    script = [FaultConfig(at_s=5.0, kind=kind, worker="p/0", for_s=2.0)]  # type: ignore[arg-type]
    result = run(a_setup(3, gateways=2, faults=script), drawn(5, 200, 15.0, outputs=(20, 200)))
    assert ends(result) == []
    assert all(o.ok and o.attempts == 1 for o in result.outcomes)
    assert served(result, 6.6, 7.0)[0] == 0
    assert served(result, 7.2, 12.0)[0] > 5
    held = [o for o in result.outcomes if o.worker == 0 and o.arrived_s < 5.0 and o.ended_s > 5.0]
    assert held
    assert all(o.ended_s > 7.0 for o in held)


def test_pauses_again_and_again_fail_nobody() -> None:
    """Each worker in turn, for less than the fence, all the time."""
    faults = [FaultConfig(at_s=1.0 + n, kind="hang", worker=f"p/{n % 3}", for_s=0.9) for n in range(12)]
    result = run(a_setup(3, faults=faults), drawn(6, 150, 10.0))
    assert ends(result) == []
    assert all(o.ok and o.attempts == 1 for o in result.outcomes)
