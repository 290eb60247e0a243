"""A simulation: gateways, workers, network, clients and faults on one heap, from the first arrival to the last answer.

The nodes are production's (`nodes/`), made as `cli/` makes them; only what performs their effects is ours. Same setup,
workload and seed: same run, bit by bit.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

from jedlik.core.effects import Deliver
from jedlik.core.facts import Answered, Fact
from jedlik.core.ids import GatewayId, WorkerId
from jedlik.nodes.gateway import GatewayNode
from jedlik.sim.carrier import Witness
from jedlik.sim.clients import Clients
from jedlik.sim.engine import VOCABULARY
from jedlik.sim.faults import Faults
from jedlik.sim.fleet import KEY, Workers
from jedlik.sim.heap import Heap
from jedlik.sim.movement import Movement
from jedlik.sim.names import SharedNaming
from jedlik.sim.network import Network
from jedlik.sim.outcome import Run, Sample
from jedlik.sim.process import GatewayProcess
from jedlik.sim.setup import Setup
from jedlik.sim.workload.offered import Workload
from jedlik.sim.workload.text import Prompts

SAMPLES = 500
"""At most, per run: then every other one goes and the period doubles."""
SAMPLE_S = 1.0
TELL_EVERY_S = 0.1
Progress = Callable[[int, float], None]


class Simulation:
    """See the module. Fulfils `process.World`."""

    def __init__(
        self,
        setup: Setup,
        workload: Workload,
        progress: Progress | None = None,
        witness: Witness | None = None,
    ) -> None:
        self._setup, self._progress, self.witness = setup, progress, witness
        self.heap = heap = Heap()
        rng = Random(setup.seed)
        self.network = Network(heap, setup.network, Random(rng.getrandbits(64)))
        naming = SharedNaming(KEY, setup.model, setup.worker.block_size)
        self.workers = Workers(heap, self, setup, self.network, naming.names)
        self.clients = Clients(heap, workload, setup.model, Random(rng.getrandbits(64)), Prompts(VOCABULARY))
        self._faults = Faults(heap, self.workers, self.network, Random(rng.getrandbits(64)))
        for number in range(setup.gateways):
            name = GatewayId(f"g{number}@1")
            shadow = setup.shadow() if setup.shadow else None
            node = GatewayNode(setup.gateway, name, naming, setup.worker, setup.policy(), shadow)
            self.network.gateways[name] = GatewayProcess(heap, self, node)
        self._samples: list[Sample] = []
        self._moves = Movement()
        self._sample_s = SAMPLE_S
        self._told_s = 0.0

    def run(self) -> Run:
        """All of it."""
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        self.workers.boot()
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
        return Run(
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
            block_size=self._setup.worker.block_size,
            movement=self._moves,
        )

    # --- what processes need of the world ---

    def delivered(self, deliver: Deliver) -> None:
        for started in deliver.started:
            self.clients.started(started.stream, self.workers.index(started.worker))

    def noted(self, fact: Fact, worker: WorkerId | None = None) -> None:
        if isinstance(fact, Answered):
            self.clients.answered(fact)
        elif worker is not None:
            self._moves.note(fact)

    def left(self, worker: WorkerId, reason: str) -> None:
        self.workers.left(worker, reason)

    # --- what is looked at, without changing anything ---

    def _sample(self) -> None:
        now = self.heap.now
        loads = [slot.process.node.load(now) if slot.process else None for slot in self.workers.slots]
        self._samples.append(
            Sample(
                now,
                [load.running if load else 0 for load in loads],
                [load.waiting if load else 0 for load in loads],
                [load.context_tokens if load else 0 for load in loads],
                [load.cached_blocks if load else 0 for load in loads],
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


def simulate(setup: Setup, workload: Workload, progress: Progress | None = None) -> Run:
    """Run a workload against a fleet. `progress` is told (requests ended, simulated seconds) now and then."""
    return Simulation(setup, workload, progress).run()


@contextmanager
def _calm_collector() -> Iterator[None]:
    """Events make few cycles and much garbage that counting frees: look for cycles seldom."""
    thresholds = gc.get_threshold()
    gc.set_threshold(200_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
