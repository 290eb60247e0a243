"""Mixed fleets: workers that report no step costs beside ones that do. Gateways fit what is not reported."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
from msgspec.structs import replace

from jedlik.core.config import GatewayConfig
from jedlik.core.effects import GatewayEffect
from jedlik.core.events import FromWorker, GatewayEvent, WorkerJoined, WorkerMessage
from jedlik.core.protocol import Load, StepCosts
from jedlik.nodes.gateway.node import GatewayNode
from jedlik.perf.step import decode_s, prefill_s
from jedlik.routing.view import WorkerView
from jedlik.sim.outcome import SimulationRun
from jedlik.sim.setup import Setup
from jedlik.sim.workload.offered import Workload
from jedlik.sim.world import Simulation
from sim_world import COSTS, a_setup, drawn, play

WITHIN = 0.05
"""The greatest relative error of a fitted prefill or decode step, against the true costs."""


class Muted(GatewayNode):
    """A gateway whose workers named in `silent` report nothing of what their steps cost."""

    silent: frozenset[str] = frozenset()

    def handle(self, event: GatewayEvent, now: float) -> list[GatewayEffect]:
        if isinstance(event, WorkerJoined) and event.card.name in self.silent:
            able = replace(event.card.capabilities, step_costs=False)
            event = replace(event, card=replace(event.card, capabilities=able))
        elif isinstance(event, FromWorker) and event.worker.partition("@")[0] in self.silent:
            event = replace(event, message=self._mute(event.message))
        return super().handle(event, now)

    def _mute(self, message: WorkerMessage) -> WorkerMessage:
        if not isinstance(message, Load):
            return message
        return replace(message, costs=None, step_shape=None, step_predicted_s=None)


@contextmanager
def muted(*names: str) -> Iterator[None]:
    with mock.patch("jedlik.sim.world.GatewayNode", Muted), mock.patch.object(Muted, "silent", frozenset(names)):
        yield


def simulated(setup: Setup, workload: Workload, *silent: str) -> tuple[SimulationRun, list[WorkerView]]:
    with muted(*silent):
        simulation = Simulation(setup, workload)
        result = play(simulation)
    (gateway,) = simulation.network.gateways.values()
    return result, list(gateway.node._fleet)


def errors(costs: StepCosts) -> list[float]:
    """Relative errors for prefills of several lengths and decode steps of several batches."""
    chunk = 2048
    prefills = [(prefill_s(costs, *case, chunk), prefill_s(COSTS, *case, chunk)) for case in ((500, 0), (2000, 1000))]
    decodes = [(decode_s(costs, *case), decode_s(COSTS, *case)) for case in ((1, 2000), (8, 16_000), (20, 40_000))]
    return [abs(fitted_s / true_s - 1) for fitted_s, true_s in prefills + decodes]


def named(views: list[WorkerView], name: str) -> WorkerView:
    return next(view for view in views if view.card.name == name)


@pytest.mark.parametrize("rate", [8.0, 30.0])
def test_fitted_costs_approach_the_true_ones_beside_workers_that_report_theirs(rate: float) -> None:
    result, views = simulated(a_setup(3), drawn(1, 400, rate, outputs=(20, 200)), "p/0")
    silent = named(views, "p/0")
    assert silent.load is not None
    assert silent.load.costs is None
    assert silent.alike.fitted is not None
    assert silent.alike.fitted.enough
    assert silent.costs == silent.alike.fitted.costs
    assert max(errors(silent.alike.fitted.costs)) < WITHIN
    assert all(view.alike.fitted is None and view.work is None for view in views if view is not silent)
    served = Counter(outcome.worker for outcome in result.outcomes)
    assert min(served.values()) > 0.85 * max(served.values())  # equal workers count as equal


def test_a_fleet_in_which_no_worker_reports_costs_is_fitted_too() -> None:
    _, views = simulated(a_setup(3), drawn(2, 400, 20.0, outputs=(20, 200)), "p/0", "p/1", "p/2")
    (fitted,) = {view.alike.fitted for view in views}  # one fit for the kind
    assert fitted is not None
    assert max(errors(fitted.costs)) < WITHIN


def test_admission_stays_on_in_a_mixed_fleet() -> None:
    gateway = GatewayConfig(slo_ttft_s=1.0, slo_itl_s=0.05)

    def refused(*silent: str) -> int:
        result, _ = simulated(a_setup(3, gateway=gateway), drawn(3, 900, 90.0, outputs=(20, 200)), *silent)
        return sum(outcome.outcome == "overloaded" for outcome in result.outcomes)

    mixed, reported = refused("p/0"), refused()
    assert reported > 20
    assert 0.7 * reported < mixed < 1.4 * reported
