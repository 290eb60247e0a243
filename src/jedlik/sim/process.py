"""Simulated processes: a node, what performs its effects, and the way its messages take. What `live/` is to asyncio.

A process is up or not, and it may be frozen: then events queue, as they do for a stopped process, and its engine's
answers with them.
"""

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from jedlik.core.config import FaultConfig
from jedlik.core.effects import (
    Deliver,
    Drained,
    EndLeap,
    GatewayEffect,
    Kick,
    Note,
    RunStep,
    ToClient,
    ToPlanner,
    ToWorkerEffect,
    Wake,
    WorkerEffect,
)
from jedlik.core.events import GatewayEvent, StepEnded, Woken, WorkerEvent
from jedlik.core.facts import Fact, StepRan
from jedlik.core.ids import GatewayId, WorkerId
from jedlik.core.moves import Order
from jedlik.core.plans import Cause
from jedlik.core.protocol import Card
from jedlik.core.step import StepDone
from jedlik.nodes.gateway.node import GatewayNode
from jedlik.nodes.worker.node import WorkerNode
from jedlik.perf.model import StepModel
from jedlik.sim.carrier import Carriers, Witness
from jedlik.sim.engine import SimEngine
from jedlik.sim.heap import Heap

Event = TypeVar("Event")
Effect = TypeVar("Effect")


class World(Protocol):
    """The surroundings that processes need."""

    @property
    def witness(self) -> Witness | None: ...

    @property
    def network(self) -> "Messages": ...

    def delivered(self, deliver: Deliver) -> None: ...

    def noted(self, fact: Fact, worker: WorkerId | None = None) -> None:
        """Note a fact of a gateway, or of this worker."""

    def worker_left(self, worker: WorkerId, reason: str, cause: Cause) -> None: ...


class Messages(Protocol):
    """The carrier of messages from one process to another."""

    def to_worker(self, gateway: GatewayId, sent: ToWorkerEffect) -> None: ...

    def ask(self, process: "WorkerProcess", sent: ToWorkerEffect) -> None: ...

    def to_client(self, worker: WorkerId, sent: ToClient) -> None: ...

    def to_planner(self, sent: ToPlanner) -> None: ...


class Process(Generic[Event, Effect]):
    """One node and its wake."""

    def __init__(self, heap: Heap, handle: Callable[[Event, float], list[Effect]], woken: Event) -> None:
        self._heap, self._handle, self._woken = heap, handle, woken
        self._wake_at: float | None = None
        self._queue: deque[Event] | None = None
        """What came while it was frozen; None: it runs."""
        self.up = True
        self.handled = 0

    def send(self, event: Event) -> None:
        """An event reaches the process."""
        if self._queue is not None:
            self._queue.append(event)
        elif self.up:
            self.handled += 1
            self._perform(self._handle(event, self._heap.now))

    def freeze(self) -> None:
        if self._queue is None:
            self._queue = deque()

    def thaw(self) -> None:
        """Take the messages that came meanwhile, in order."""
        queue, self._queue = self._queue, None
        for event in queue or ():
            self.send(event)

    def end(self) -> None:
        """Whatever comes now is lost."""
        self.up, self._queue = False, None

    def _perform(self, effects: list[Effect]) -> None:
        raise NotImplementedError

    def _set_wake(self, at: float) -> None:
        self._wake_at = at
        self._heap.at(at, self._wake, at)

    def _wake(self, at: float) -> None:
        if at == self._wake_at:
            self._wake_at = None
            self.send(self._woken)


class WorkerProcess(Process[WorkerEvent, WorkerEffect]):
    """A worker: its node, engine and carrier, which freeze together; a step or move that is running then ends all the
    same."""

    def __init__(
        self, heap: Heap, world: World, card: Card, node: WorkerNode, model: StepModel, carriers: Carriers
    ) -> None:
        super().__init__(heap, node.handle, Woken())
        self.card, self.node, self._world = card, node, world
        self.carrier = carriers.add(card, self.send)
        self.engine = SimEngine(heap, model, self._stepped, carriers.stepped(card.worker))
        self.suffers: list[FaultConfig] = []
        """Faults that are not over."""

    def freeze(self) -> None:
        self.engine.settle()
        self.engine.freeze()
        self.carrier.freeze()
        super().freeze()

    def thaw(self) -> None:
        self.engine.thaw()
        self.carrier.thaw()
        super().thaw()

    def end(self) -> None:
        super().end()
        self.engine.close()

    def _stepped(self, done: StepDone) -> None:
        self.send(StepEnded(done))

    def _perform(self, effects: list[WorkerEffect]) -> None:
        drained = False
        for effect in effects:
            if isinstance(effect, ToClient):
                self._world.network.to_client(self.card.worker, effect)
            elif isinstance(effect, Wake):
                self._set_wake(effect.at)
            elif isinstance(effect, RunStep):
                self.engine.submit(effect.step)
            elif isinstance(effect, EndLeap):
                self.engine.end_leap(effect.step_id)
            elif isinstance(effect, Note):
                if not isinstance(effect.fact, StepRan):  # one a step, and nobody asks
                    self._world.noted(effect.fact, self.card.worker)
            elif isinstance(effect, Order):
                self.carrier.perform(effect)
            elif isinstance(effect, ToWorkerEffect):
                self._world.network.ask(self, effect)
            elif isinstance(effect, Drained):
                drained = True
        if drained:
            self._world.worker_left(self.card.worker, "drained", "asked")


class GatewayProcess(Process[GatewayEvent, GatewayEffect]):
    """A gateway's process in a simulation."""

    def __init__(self, heap: Heap, world: World, node: GatewayNode) -> None:
        super().__init__(heap, node.handle, Woken())
        self.node, self._world = node, world

    def _perform(self, effects: list[GatewayEffect]) -> None:
        for effect in effects:
            if isinstance(effect, ToWorkerEffect):
                self._world.network.to_worker(self.node.gateway, effect)
            elif isinstance(effect, Deliver):
                if effect.started:
                    self._world.delivered(effect)
            elif isinstance(effect, Note):
                self._world.noted(effect.fact)
            elif isinstance(effect, Wake):
                self._set_wake(effect.at)
            elif isinstance(effect, Kick):
                self._world.worker_left(effect.worker, effect.reason, "killed")
            elif isinstance(effect, ToPlanner):
                self._world.network.to_planner(effect)
