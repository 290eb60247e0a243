"""Simulated moves of KV with everything checked: answers token by token, each read of memory, each block at the end.

In `HandOffs` whoever a gateway chooses to decode is told to have its prompts prefilled elsewhere: what a hand-off
survives is tested apart from when one pays. Something can be done at the n-th time that a stage of a move is reached.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec

from jedlik.core.config import FaultConfig, GatewayConfig, NetworkConfig, Role, WorkerConfig
from jedlik.core.effects import ToClient, ToWorkerEffect
from jedlik.core.events import Abandoned, FromClient
from jedlik.core.facts import Fact, HandedOff
from jedlik.core.ids import GatewayId, Handle, RequestId, WorkerId
from jedlik.core.moves import Move
from jedlik.core.protocol import AssumeRole, Granted, Pushed, Released, Remote, Reserve, Submit
from jedlik.perf.model import LinearModel
from jedlik.routing.policies.named import make
from jedlik.sim.outcome import SimulationRun
from jedlik.sim.process import GatewayProcess, WorkerProcess
from jedlik.sim.setup import Setup, SimPool
from jedlik.sim.workload.offered import Workload
from jedlik.sim.world import Simulation
from sim_memory import Memory
from sim_world import COSTS, Watch, check_nodes

WORKER = WorkerConfig(block_size=16, max_sequences=16, max_step_tokens=256, handoff_patience_s=0.5)
PATIENT = GatewayConfig(max_attempts=9, no_worker_wait_s=60.0, migration_wait_s=60.0)
NETWORK = NetworkConfig(latency_s=0.001, kv_bandwidth_bytes_s=2e9, local_bandwidth_bytes_s=8e9)
TOKEN_BYTES = 100_000
"""A block takes 0.8 ms to another host."""
REST_S = 30.0
"""After the last answer: moves end, quarantines are lifted, hung workers are found and started again."""


def a_pool(name: str, count: int, role: Role = "both", kv_tokens: int = 16 * 400, host: str | None = None) -> SimPool:
    return SimPool(
        name=name,
        count=count,
        profile="test",
        model=LinearModel(COSTS),
        gpus=1.0,
        kv_tokens=kv_tokens,
        start_s=1.0,
        role=role,
        host=host,
        kv_token_bytes=TOKEN_BYTES,
    )


def a_fleet(*pools: SimPool, worker: WorkerConfig = WORKER, seed: int = 0, step_by_step: bool = True) -> Setup:
    return Setup(
        model="m",
        pools=pools,
        worker=worker,
        gateway=PATIENT,
        policy=partial(make, "least_loaded"),
        network=NETWORK,
        seed=seed,
        step_by_step=step_by_step,
        handoffs=True,
    )


class Moment(NamedTuple):
    """One hand-off where it stands."""

    prefiller: str
    """Names, not ids: pool/number. Of a move within a worker both are its name."""
    decoder: str
    request_id: RequestId


class Stages(Memory):
    """Knows the memory of all workers, and what is to be done when a hand-off reaches a stage."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup.model, setup.worker.block_size)
        self.reached: Counter[str] = Counter()
        self._script: dict[tuple[str, int], Callable[[Moment], None]] = {}
        self._asked: dict[tuple[WorkerId, Handle], RequestId] = {}

    def on(self, stage: str, time: int, act: Callable[[Moment], None]) -> None:
        """When the stage is reached for that time, from 1."""
        self._script[stage, time] = act

    def ask(self, prefiller: WorkerId, decoder: WorkerId, submit: Submit) -> None:
        self._asked[decoder, submit.handle] = submit.request_id
        self.reach("asked", prefiller, decoder, submit.handle)

    def reach(self, stage: str, prefiller: WorkerId, decoder: WorkerId, handle: Handle) -> None:
        self.reached[stage] += 1
        act = self._script.pop((stage, self.reached[stage]), None)
        if act is not None:
            asked = self._asked.get((decoder, handle), RequestId(""))
            act(Moment(name_of(prefiller), name_of(decoder), asked))

    def begun(self, worker: WorkerId, move: Move) -> None:
        super().begun(worker, move)
        self._moves("begun", worker, move)

    def landed(self, worker: WorkerId, move: Move, blocks: int) -> None:
        super().landed(worker, move, blocks)
        self._moves("landed", worker, move)

    def _moves(self, stage: str, worker: WorkerId, move: Move) -> None:
        """Of a push: begun; of others: fetch begun, offload begun."""
        if move.target.worker is not None:
            self.reach(stage, worker, move.target.worker, move.ticket)
        else:
            self.reach(f"{'fetch' if move.target.tier == 'device' else 'offload'} {stage}", worker, worker, Handle(0))


def name_of(worker: str) -> str:
    return worker.partition("@")[0]


class Watched:
    """A simulation with a memory, and a hand in it."""

    def __init__(self, setup: Setup, workload: Workload) -> None:
        self.stages = Stages(setup)
        self.simulation = Simulation(setup, workload, witness=self.stages if setup.step_by_step else None)

    @property
    def now(self) -> float:
        return self.simulation.heap.now

    def process(self, name: str) -> WorkerProcess | None:
        return self.simulation.workers.slot(name).process

    def suffer(self, kind: str, worker: str, **given: object) -> None:
        """A fault begins now."""
        fault = {"at_s": self.now, "kind": kind, "worker": worker} | given
        self.simulation._faults._begin(msgspec.convert(fault, FaultConfig))

    def say(self, worker: str, message: AssumeRole) -> None:
        """A gateway says something to a worker that is up."""
        process = self.process(worker)
        if process is not None:
            self.simulation.heap.after(0.0, process.send, FromClient(self.gateway.node.gateway, message))

    @property
    def gateway(self) -> GatewayProcess:
        return next(iter(self.simulation.network.gateways.values()))

    def abandon(self, request_id: RequestId) -> None:
        """Its client goes away."""
        self.simulation.heap.after(0.0, self.gateway.send, Abandoned(request_id))

    def abandon_all(self) -> None:
        """All clients go away."""
        for request_id in self.simulation.clients._asked:
            self.abandon(request_id)

    def run(self) -> SimulationRun:
        """To the last answer and on until all rest; then nothing may be held by anybody."""
        clients = Watch()
        for gateway in self.simulation.network.gateways.values():
            clients.watch(gateway)
        result = self.result = self.simulation.run()
        heap = self.simulation.heap
        heap.run(heap.now + REST_S)
        check_nodes(self.simulation)
        clients.check()
        self.nothing_is_held()
        assert len(result.outcomes) == result.offered
        return result

    def nothing_is_held(self) -> None:
        for worker, process in self.simulation.network.workers.items():
            load = process.node.load(self.now)
            held = (load.running, load.waiting, load.arriving, load.held_blocks, load.reserved_blocks)
            assert held == (0, 0, 0, 0, 0), (worker, held)


class HandOffs(Watched):
    """A simulation in which every prompt is to be prefilled by one of `prefillers` (names), in turn."""

    def __init__(self, setup: Setup, workload: Workload, prefillers: list[str], compute: bool = True) -> None:
        super().__init__(setup, workload)
        self._prefillers, self._compute, self._turn = prefillers, compute, 0
        self.ended: list[HandedOff] = []
        self._spy()

    def _spy(self) -> None:
        network = self.simulation.network
        to_worker, ask, to_gateway, noted = network.to_worker, network.ask, network.to_client, self.simulation.noted

        def dispatched(gateway: GatewayId, sent: ToWorkerEffect) -> None:
            to_worker(gateway, self._remote(sent))

        def asked(process: WorkerProcess, sent: ToWorkerEffect) -> None:
            ask(process, sent)
            decoder, message = process.card.worker, sent.message
            if isinstance(message, Submit):
                self.stages.ask(sent.worker, decoder, message)
            elif isinstance(message, Reserve):
                self.stages.reach("reserved", sent.worker, decoder, message.handle)

        def answered(worker: WorkerId, sent: ToClient) -> None:
            to_gateway(worker, sent)
            decoder, message = WorkerId(sent.client), sent.message
            if isinstance(message, Granted):
                self.stages.reach("granted", worker, decoder, message.handle)
            elif isinstance(message, Pushed):
                self.stages.reach("pushed", worker, decoder, message.handle)
            elif isinstance(message, Released):
                self.stages.reach("released", worker, decoder, message.handles[0])

        def heard(fact: Fact, worker: WorkerId | None = None) -> None:
            noted(fact, worker)
            if isinstance(fact, HandedOff):
                self.ended.append(fact)

        network.to_worker, network.ask, network.to_client = dispatched, asked, answered  # type: ignore[method-assign]
        self.simulation.noted = heard  # type: ignore[method-assign]

    def _remote(self, sent: ToWorkerEffect) -> ToWorkerEffect:
        """Its submit, with another worker to prefill, if one is up."""
        up = [p.card.worker for p in map(self.process, self._prefillers) if p is not None]
        others = [worker for worker in up if worker != sent.worker]
        if not isinstance(sent.message, Submit) or not others:
            return sent
        self._turn += 1
        remote = Remote(others[self._turn % len(others)], self._compute, 0.1)
        return ToWorkerEffect(sent.worker, msgspec.structs.replace(sent.message, remote=remote))
