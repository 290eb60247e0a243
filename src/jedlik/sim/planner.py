"""The planner of a simulation as a process: production's node, whose effects are done to simulated workers.

Every fleet has one. Without a budget its counts stay as they were at the beginning, and all it does is to start again
what has ended. What it hears of workers takes no time, what gateways report takes the network's.
"""

from collections import deque
from collections.abc import Mapping

import msgspec

from jedlik.core.config import Role
from jedlik.core.effects import ChangeRole, End, Launch, Note, PlannerEffect, Retire, Wake
from jedlik.core.events import Flip, PlannerEvent, Woken
from jedlik.core.facts import Planned
from jedlik.core.ids import GatewayId
from jedlik.nodes.planner.node import PlannerNode
from jedlik.nodes.planner.wish import limits_of
from jedlik.planning.planners import maker_of
from jedlik.planning.policy import Planner, Terms
from jedlik.sim.fleet import SimWorkers
from jedlik.sim.heap import Heap
from jedlik.sim.outcome import Action, PlanningRecord
from jedlik.sim.process import GatewayProcess, Process
from jedlik.sim.setup import Setup
from jedlik.sim.slots import Slot

DECISIONS = 2000
"""Kept, at most: the last ones."""


class PlannerProcess(Process[PlannerEvent, PlannerEffect]):
    """The process of a simulated fleet's planner."""

    def __init__(
        self, heap: Heap, node: PlannerNode, workers: SimWorkers, gateways: Mapping[GatewayId, GatewayProcess]
    ) -> None:
        super().__init__(heap, node.handle, Woken())
        self.node, self._workers, self._gateways = node, workers, gateways
        self._coming: deque[PlannerEvent] = deque()
        self._busy = False
        self.orders: list[Action] = []
        """What it changed of its own accord."""
        self.decisions: deque[Planned] = deque(maxlen=DECISIONS)

    def send(self, event: PlannerEvent) -> None:
        """Take an event. What the node's own effects cause waits until all of them are done."""
        self._coming.append(event)
        if self._busy:
            return
        self._busy = True
        while self._coming:
            super().send(self._coming.popleft())
        self._busy = False

    def _perform(self, effects: list[PlannerEffect]) -> None:
        for effect in effects:
            match effect:
                case Wake():
                    self._set_wake(effect.at)
                case Launch():
                    self._launch(effect)
                case Retire():
                    slot = self._workers.slot(effect.name)
                    self._ordered("retire", slot, not slot.no_start)
                    self._workers.retire(effect.name, effect.start)
                case End():
                    slot = self._workers.slot(effect.name)
                    self._ordered("end", slot, not slot.no_start and slot.state != "draining")
                    self._workers.end(effect.name, effect.start)
                case ChangeRole():
                    self._change_role(effect)
                case Note():
                    if isinstance(effect.fact, Planned):
                        self.decisions.append(effect.fact)

    def _launch(self, launch: Launch) -> None:
        slot = self._workers.slot(launch.name)
        self._ordered("start", slot, not slot.fell, launch.role)
        self._workers.launch(launch.name, launch.start, launch.role)

    def _change_role(self, change: ChangeRole) -> None:
        """By way of the first gateway; if it refuses, nothing happens."""
        gateway = next(iter(self._gateways.values()))
        if gateway.node.flip_refusal(change.worker, change.role) is None:
            self._ordered("role", self._workers.slots[self._workers.index(change.worker)], True, change.role)
            self._workers.change_role(change.worker, change.role)
            gateway.send(Flip(change.worker, change.role))

    def _ordered(self, kind: str, slot: Slot, counts: bool, detail: str = "") -> None:
        if counts:
            self.orders.append(Action(self._heap.now, kind, slot.name, detail))


def node_of(setup: Setup, workers: SimWorkers, planner: Planner | None) -> PlannerNode:
    """Return the planner node, made as `serve/` makes it. `planner`, where given, decides in place of the one that the
    settings name."""
    config = setup.planner
    if planner is not None:
        config = msgspec.structs.replace(config, mode="on")
    initial: dict[Role, int] = {}
    for pool in setup.pools:
        initial[pool.role] = initial.get(pool.role, 0) + pool.count
    places = [slot.place for slot in workers.slots]
    first = setup.pools[0]
    known = all(pool.model is first.model or pool.profile == first.profile for pool in setup.pools)
    terms = Terms(
        limits_of(config, places),
        config.attainment,
        config.tick_s,
        first.model if known else None,
        first.kv_tokens if known else None,
    )
    make = maker_of("static") if config.acts == "off" else setup.planner_maker
    slo = (setup.gateway.slo_ttft_s, setup.gateway.slo_itl_s)
    return PlannerNode(config, planner or make(initial, terms), places, initial, slo)


def planning(setup: Setup, process: PlannerProcess, planner: Planner | None) -> PlanningRecord | None:
    """Return what there is to report; None where nobody planned."""
    if planner is None and setup.planner.acts == "off":
        return None
    return PlanningRecord(
        planner=process.node.planner_name,
        budget=setup.budget_gpus,
        actions=process.orders,
        decisions=list(process.decisions),
    )
