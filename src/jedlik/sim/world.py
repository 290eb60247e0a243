"""A simulation: gateways, workers, network, clients and faults on one heap, from the first arrival to the last answer.

The nodes are production's (`nodes/`), made as `cli/` makes them; only what performs their effects is ours. Same setup,
workload and seed: same run, bit by bit.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import msgspec

from jedlik.core.effects import Deliver
from jedlik.core.events import Woken
from jedlik.core.facts import Answered, Fact, Routed
from jedlik.core.ids import GatewayId, WorkerId
from jedlik.core.plans import Cause
from jedlik.nodes.gateway.node import GatewayNode
from jedlik.planning.policy import Planner
from jedlik.sim.attainable import Alone
from jedlik.sim.carrier import Witness
from jedlik.sim.choices import Choices
from jedlik.sim.clients import Clients
from jedlik.sim.engine import VOCABULARY
from jedlik.sim.faults import Faults
from jedlik.sim.fleet import SimWorkers
from jedlik.sim.heap import Heap
from jedlik.sim.movement import MovementCounts
from jedlik.sim.names import SharedNaming
from jedlik.sim.network import Network
from jedlik.sim.outcome import FleetSample, SimulationRun
from jedlik.sim.planner import PlannerProcess, node_of, planning
from jedlik.sim.process import GatewayProcess
from jedlik.sim.setup import Setup
from jedlik.sim.slots import KEY
from jedlik.sim.workload.offered import Workload
from jedlik.sim.workload.text import Prompts

SAMPLES = 500
"""Samples of a run, at most: beyond it every other one goes and the period doubles."""
SAMPLE_S = 1.0
TELL_EVERY_S = 0.1
Progress = Callable[[int, float], None]


class Simulation:
    """The simulation of one setup and workload. Fulfils `process.World`."""

    def __init__(
        self,
        setup: Setup,
        workload: Workload,
        progress: Progress | None = None,
        witness: Witness | None = None,
        planner: Planner | None = None,
    ) -> None:
        self._setup, self._progress, self.witness, self._by = setup, progress, witness, planner
        self.heap = heap = Heap()
        rng = Random(setup.seed)
        self.network = Network(heap, setup.network, Random(rng.getrandbits(64)))
        naming = SharedNaming(KEY, setup.model, setup.worker.block_size)
        self.workers = SimWorkers(heap, self, setup, self.network, naming.names)
        self.clients = Clients(heap, workload, setup.model, Random(rng.getrandbits(64)), Prompts(VOCABULARY))
        self._faults = Faults(heap, self.workers, self.network, Random(rng.getrandbits(64)))
        gateway = setup.gateway
        if not self._plans:
            gateway = msgspec.structs.replace(gateway, report_s=0.0)  # nobody would read them
        if gateway.slo_ttft_s is not None:
            models = [pool.model for pool in setup.pools]
            self.clients.judge(Alone(models, setup.worker.max_step_tokens, gateway.slo_ttft_s))
        for number in range(setup.gateways):
            name = GatewayId(f"g{number}@1")
            shadow = setup.shadow() if setup.shadow else None
            node = GatewayNode(gateway, name, naming, setup.worker, setup.policy(), shadow)
            self.network.gateways[name] = GatewayProcess(heap, self, node)
        self.planner = PlannerProcess(heap, node_of(setup, self.workers, planner), self.workers, self.network.gateways)
        self.workers.tell = self.planner.send
        if self._plans:
            self.network.planner = self.planner.send
        self._samples: list[FleetSample] = []
        self._moves = MovementCounts()
        self._choices = Choices()
        self._sample_s = SAMPLE_S
        self._told_s = 0.0

    @property
    def _plans(self) -> bool:
        """Somebody decides how many workers there are."""
        return self._by is not None or self._setup.planner.acts != "off"

    def run(self) -> SimulationRun:
        """Run the whole simulation and return its results."""
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        self.workers.boot()
        self.planner.send(Woken())
        self._faults.script(self._setup.faults)
        self.clients.begin(list(self.network.gateways.values()))
        self.heap.at(0.0, self._sample)
        with _calm_collector():
            if self._setup.duration_s is None:
                self.heap.run()
            else:
                self.heap.run(self._setup.duration_s)
        handled = sum(process.handled for process in self.network.gateways.values())
        handled += sum(process.handled for process in self.network.workers.values()) + self.workers.handled
        handled += self.planner.handled
        return SimulationRun(
            outcomes=self.clients.outcomes,
            samples=self._samples,
            actions=self.workers.actions,
            workers=[slot.name for slot in self.workers.slots],
            gpus=[slot.pool.gpus for slot in self.workers.slots],
            gpu_s=self.workers.gpu_s(),
            duration_s=self.heap.now,
            cpu_s=time.process_time() - cpu_s,
            wall_s=time.perf_counter() - wall_s,
            events=handled,
            offered=self.clients.offered,
            roles=[slot.pool.role for slot in self.workers.slots],
            busy_s=self.workers.busy_s(),
            up_s=self.workers.up_s(),
            block_size=self._setup.worker.block_size,
            movement=self._moves,
            choices=self._choices,
            attainable=self.clients.attainable,
            unended=self.clients.unended(),
            staff=self.workers.staff,
            planning=planning(self._setup, self.planner, self._by),
        )

    # --- what processes need of the world ---

    def delivered(self, deliver: Deliver) -> None:
        for started in deliver.started:
            self.clients.started(started.stream, self.workers.index(started.worker))

    def noted(self, fact: Fact, worker: WorkerId | None = None) -> None:
        if isinstance(fact, Answered):
            self.clients.answered(fact)
        elif isinstance(fact, Routed):
            self._choices.note(fact)
        elif worker is not None:
            self._moves.note(fact)

    def worker_left(self, worker: WorkerId, reason: str, cause: Cause) -> None:
        self.workers.worker_left(worker, reason, cause)

    # --- what is looked at, without changing anything ---

    def _sample(self) -> None:
        now = self.heap.now
        loads = [slot.process.node.load(now) if slot.process else None for slot in self.workers.slots]
        self._samples.append(
            FleetSample(
                at_s=now,
                running=[load.running if load else 0 for load in loads],
                waiting=[load.waiting if load else 0 for load in loads],
                context_tokens=[load.context_tokens if load else 0 for load in loads],
                cached_blocks=[load.cached_blocks if load else 0 for load in loads],
            )
        )
        if len(self._samples) >= SAMPLES:
            del self._samples[1::2]
            self._sample_s *= 2
        self.heap.after(self._sample_s, self._sample)
        wall_s = time.perf_counter()
        if self._progress is not None and wall_s - self._told_s > TELL_EVERY_S:
            self._told_s = wall_s
            self._progress(len(self.clients.outcomes), now)


def simulate(
    setup: Setup, workload: Workload, progress: Progress | None = None, planner: Planner | None = None
) -> SimulationRun:
    """Run a workload against a fleet. `progress` is told (requests ended, simulated seconds) now and then; `planner`
    decides in place of the one that the setup names."""
    return Simulation(setup, workload, progress, planner=planner).run()


@contextmanager
def _calm_collector() -> Iterator[None]:
    """Events make few cycles and much garbage that counting frees: look for cycles seldom."""
    thresholds = gc.get_threshold()
    gc.set_threshold(200_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
