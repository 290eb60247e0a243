"""The workers of a simulation as processes: started, connected, ended, started again; and their GPU time."""

from jedlik.core.events import GatewayJoined, WorkerJoined
from jedlik.core.ids import WorkerId
from jedlik.core.moves import Tier
from jedlik.core.protocol import SCHEMA_VERSION, Capabilities, Card, Layout, TierSize
from jedlik.kv.hashing import hash_check
from jedlik.nodes.worker import WorkerNode
from jedlik.scheduling.leap import LIVE, Leaps
from jedlik.sim.carrier import Carriers
from jedlik.sim.engine import VOCABULARY
from jedlik.sim.heap import Heap
from jedlik.sim.names import SharedNames
from jedlik.sim.network import Network
from jedlik.sim.outcome import Action
from jedlik.sim.process import WorkerProcess, World
from jedlik.sim.setup import Pool, Setup

HANDOFF = "slots"
KEY = b"a simulated cluster's"
LONGEST_LEAP = 4096
LEAPS = Leaps(LONGEST_LEAP, 1 << 40)
STEPPING = Leaps(LIVE.longest, 1 << 40)


class Slot:
    """A place in the fleet: one worker after the other, an incarnation each."""

    __slots__ = ("busy_s", "gpu_s", "host", "index", "name", "pool", "process", "since_s", "starts", "wanted")

    def __init__(self, index: int, name: str, pool: Pool, host: str) -> None:
        self.index, self.name, self.pool, self.host = index, name, pool, host
        self.process: WorkerProcess | None = None
        self.starts = 0
        self.wanted = True
        """It is started again when it ends."""
        self.gpu_s = self.busy_s = 0.0
        """Of processes that ended: from start to end, and in steps."""
        self.since_s: float | None = None
        """Since when its GPUs have been busy or starting; None: they are free."""


class Workers:
    """All places."""

    def __init__(self, heap: Heap, world: World, setup: Setup, network: Network, names: SharedNames) -> None:
        self._heap, self._world, self._setup, self._network, self._names = heap, world, setup, network, names
        places = zip(setup.workers, setup.pool_of, setup.hosts, strict=True)
        self.slots = [Slot(index, *place) for index, place in enumerate(places)]
        self.carriers = Carriers(heap, setup.network, network.reaches, world.witness)
        self._by_id: dict[WorkerId, Slot] = {}
        self.actions: list[Action] = []
        self.handled = 0
        """Events of processes that ended."""

    def boot(self) -> None:
        """All are up and connected when the simulation begins."""
        for slot in self.slots:
            slot.since_s = self._heap.now
            self._serve(slot)

    def index(self, worker: WorkerId) -> int:
        return self._by_id[worker].index

    def slot(self, name: str) -> Slot:
        return next(slot for slot in self.slots if slot.name == name)

    def act(self, kind: str, slot: Slot, detail: str = "") -> None:
        self.actions.append(Action(self._heap.now, kind, slot.name, detail))

    def start(self, slot: Slot) -> None:
        """Start a process at a free place; it serves after the pool's start-up time."""
        slot.wanted = True
        if slot.process is None and slot.since_s is None:
            slot.since_s = self._heap.now
            self.act("start", slot)
            self._heap.after(slot.pool.start_s, self._serve, slot)

    def left(self, worker: WorkerId, reason: str) -> None:
        """A process is gone: it drained, was kicked or killed. Its connections close behind what it sent."""
        slot = self._by_id.get(worker)
        if slot is None or slot.process is None or slot.process.card.worker != worker:
            return
        process, slot.process = slot.process, None
        process.end()
        self.carriers.remove(worker)
        self.handled += process.handled
        slot.busy_s += process.engine.busy_s
        self.act("end", slot, reason)
        self._network.close(worker, reason)
        if slot.since_s is not None:
            slot.gpu_s += self._heap.now - slot.since_s
            slot.since_s = None
        if slot.wanted:
            self.start(slot)

    def gpu_s(self) -> float:
        """GPU time used by all so far."""
        running = sum((self._heap.now - s.since_s) * s.pool.gpus for s in self.slots if s.since_s is not None)
        return running + sum(slot.gpu_s * slot.pool.gpus for slot in self.slots)

    def busy_s(self) -> list[float]:
        """How long each worker's engine has worked on steps that ended."""
        return [slot.busy_s + (slot.process.engine.busy_s if slot.process else 0.0) for slot in self.slots]

    def _serve(self, slot: Slot) -> None:
        slot.starts += 1
        card = _card(self._setup, slot)
        leaps = STEPPING if self._setup.step_by_step else LEAPS
        node = WorkerNode(card, self._setup.worker, self._names, leaps, slot.pool.model.costs, slot.pool.role)
        process = WorkerProcess(self._heap, self._world, card, node, slot.pool.model, self.carriers)
        slot.process = process
        self._by_id[card.worker] = slot
        self._network.workers[card.worker] = process
        if slot.starts > 1:
            self.act("serve", slot)
        for word in self.carriers.first_words(card):
            process.send(word)
        for name, gateway in self._network.gateways.items():
            gateway.send(WorkerJoined(card))
            process.send(GatewayJoined(name))


def _card(setup: Setup, slot: Slot) -> Card:
    size = setup.worker.block_size
    return Card(
        schema=SCHEMA_VERSION,
        worker=WorkerId(f"{slot.name}@{slot.starts}"),
        name=slot.name,
        model=setup.model,
        revision=setup.model,
        layout=Layout("float8", 1, 1, -(-slot.pool.kv_token_bytes // 2), size),  # as many bytes as there are
        total_blocks=slot.pool.kv_tokens // size + 1,
        max_model_len=setup.max_model_len or slot.pool.kv_tokens,
        max_sequences=setup.worker.max_sequences,
        max_step_tokens=setup.worker.max_step_tokens,
        vocab_size=VOCABULARY,
        eos_token_ids=(),
        hash_check=hash_check(KEY),
        capabilities=Capabilities(),
        handoffs=(HANDOFF,) if setup.handoffs else (),
        engine="simulated",
        host=slot.host if setup.handoffs else "",
        tiers=_tiers(slot.pool, size),
    )


def _tiers(pool: Pool, block_size: int) -> tuple[TierSize, ...]:
    """Block 0 of each is not used."""
    sizes: list[tuple[Tier, int]] = [
        ("host", pool.kv_host_tokens),
        ("disk", pool.kv_disk_tokens),
        ("object", pool.kv_object_tokens),
    ]
    return tuple(TierSize(tier, tokens // block_size + 1) for tier, tokens in sizes if tokens)
