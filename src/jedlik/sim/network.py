"""The network of a simulation: who is connected to whom, and what happens to messages on the way.

Messages from one process to another arrive in the order in which they were sent; block facts may be later than the
rest, but not out of order among themselves. A partition holds what is sent until it heals, as TCP does; what was
under way arrives. A connection closes behind what was sent before; what a partition holds then is lost. Workers that
ask others for something are clients of theirs, from the first message on, as gateways are.
"""

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from jedlik.core.config import NetworkConfig
from jedlik.core.effects import ToClient, ToPlanner, ToWorkerEffect
from jedlik.core.events import ClientJoined, ClientLost, FromClient, FromWorker, PlannerEvent, Reported, WorkerLost
from jedlik.core.ids import ClientId, GatewayId, WorkerId
from jedlik.core.protocol import SCHEMA_VERSION, Facts, Hello
from jedlik.sim.heap import Heap
from jedlik.sim.link import SimLink, size_bytes
from jedlik.sim.process import GatewayProcess, WorkerProcess

Pair = tuple[ClientId, WorkerId]


class FactsFault(NamedTuple):
    """The fault that a worker's block facts suffer."""

    lost: float
    """Share of the messages."""
    duplicated: float
    delay_s: float


class Network:
    """Connections between the processes that are up."""

    def __init__(self, heap: Heap, config: NetworkConfig, rng: Random) -> None:
        self._heap, self._config, self._rng = heap, config, rng
        self.gateways: dict[GatewayId, GatewayProcess] = {}
        self.workers: dict[WorkerId, WorkerProcess] = {}
        self.planner: Callable[[PlannerEvent], None] | None = None
        """What takes gateways' reports."""
        self._askers: dict[ClientId, tuple[WorkerProcess, set[WorkerId]]] = {}
        """Workers that ask others, and whom."""
        self._parted: Counter[Pair] = Counter()
        """Links between workers that are cut, as often as they are."""
        self._links: dict[str, SimLink] = {}
        self._facts_at: dict[Pair, float] = {}
        self._cut: dict[Pair, list[tuple[object, bool]]] = {}
        """Partitioned pairs, with what waits: (message, to the worker)."""
        self.faults: dict[WorkerId, FactsFault] = {}

    def to_worker(self, gateway: GatewayId, sent: ToWorkerEffect) -> None:
        """Send a gateway's message to a worker."""
        self._send(gateway, (gateway, sent.worker), sent.message, True)

    def ask(self, process: WorkerProcess, sent: ToWorkerEffect) -> None:
        """Send a message from a worker to another one, whose client it is."""
        worker, asked = process.card.worker, sent.worker
        name = worker
        if asked not in self.workers:
            at = self._link(worker).arrival_s(0)
            self._heap.at(at, process.send, WorkerLost(asked, "this worker is gone"))
            return
        _, known = self._askers.setdefault(name, (process, set()))
        if asked not in known:
            known.add(asked)
            self._send(worker, (name, asked), Hello(SCHEMA_VERSION, name, follows=False), True)
        self._send(worker, (name, asked), sent.message, True)

    def to_client(self, worker: WorkerId, sent: ToClient) -> None:
        """Send a worker's message to its client."""
        pair = (sent.client, worker)
        if not isinstance(sent.message, Facts):
            self._send(worker, pair, sent.message, False)
            return
        fault = self.faults.get(worker)
        if fault is not None and fault.lost and self._rng.random() < fault.lost:
            return
        self._send(worker, pair, sent.message, False)
        if fault is not None and fault.duplicated and self._rng.random() < fault.duplicated:
            self._send(worker, pair, sent.message, False)

    def to_planner(self, sent: ToPlanner) -> None:
        """Send a gateway's report to the planner; it is small and takes nothing of the gateway's link."""
        if self.planner is not None:
            self._heap.after(self._config.latency_s, self.planner, Reported(sent.report))

    def cut(self, client: ClientId, worker: WorkerId) -> None:
        """Let nothing through between these two from now on."""
        self._cut.setdefault((client, worker), [])

    def heal(self, client: ClientId, worker: WorkerId) -> None:
        """Send what was held back between these two, in order."""
        for message, down in self._cut.pop((client, worker), []):
            self._send(client if down else worker, (client, worker), message, down)

    def part(self, one: WorkerId, other: WorkerId) -> None:
        """Let nothing through between these two workers; their KV waits, too."""
        for pair in _both_ways(one, other):
            self._parted[pair] += 1
            self.cut(*pair)

    def join(self, one: WorkerId, other: WorkerId) -> None:
        """One cause of that is over; with the last one it ends."""
        for pair in _both_ways(one, other):
            if self._parted[pair] > 1:
                self._parted[pair] -= 1
            elif self._parted.pop(pair, 0):
                self.heal(*pair)

    def reaches(self, one: WorkerId, other: WorkerId) -> bool:
        """Whether the link between two workers is whole."""
        return not self._parted[one, other]

    def close(self, worker: WorkerId, reason: str) -> None:
        """A process is gone, with its connections."""
        del self.workers[worker]
        at = self._link(worker).arrival_s(0)
        self._close_between_workers(worker, reason, at)
        for name, gateway in self.gateways.items():
            self._heap.at(at, gateway.send, WorkerLost(worker, reason))
            self._cut.pop((name, worker), None)
            self._facts_at.pop((name, worker), None)
        del self._links[worker]
        self.faults.pop(worker, None)

    def _close_between_workers(self, worker: WorkerId, reason: str, at: float) -> None:
        """Whom it asked hears that it is lost, and who asked it."""
        name = worker
        _, asked = self._askers.pop(name, (None, frozenset[WorkerId]()))
        for other in sorted(asked):
            if (process := self.workers.get(other)) is not None:
                self._heap.at(at, process.send, ClientLost(name))
        for process, known in self._askers.values():
            if worker in known:
                known.remove(worker)
                self._heap.at(at, process.send, WorkerLost(worker, reason))
        if self._parted or self._askers:
            for pair in [pair for pair in (*self._cut, *self._parted) if worker in pair]:
                self._cut.pop(pair, None)
                self._parted.pop(pair, None)

    def _link(self, sender: str) -> SimLink:
        link = self._links.get(sender)
        if link is None:
            link = self._links[sender] = SimLink(self._heap, self._config)
        return link

    def _send(self, sender: str, pair: Pair, message: object, down: bool) -> None:
        cut_messages = self._cut.get(pair) if self._cut else None
        if cut_messages is not None:
            cut_messages.append((message, down))
            return
        link = self._links.get(sender) or self._link(sender)
        at = link.arrival_s(size_bytes(message))
        if isinstance(message, Facts):
            fault = self.faults.get(pair[1])
            at += self._config.facts_delay_s + (fault.delay_s if fault else 0.0)
            at = self._facts_at[pair] = max(at, self._facts_at.get(pair, 0.0))
        client, worker = pair
        if not down:
            heard = self.gateways.get(GatewayId(client)) or self._asker(client)
            if heard is not None:
                self._heap.at(at, heard.send, FromWorker(worker, message))  # type: ignore[arg-type]
        elif (process := self.workers.get(worker)) is not None:  # one that has ended meanwhile takes nothing
            hello = isinstance(message, Hello)
            event = ClientJoined(client, False) if hello else FromClient(client, message)  # type: ignore[arg-type]
            self._heap.at(at, process.send, event)

    def _asker(self, name: ClientId) -> WorkerProcess | None:
        process, _ = self._askers.get(name, (None, None))
        return process


def _both_ways(one: WorkerId, other: WorkerId) -> tuple[Pair, Pair]:
    return (one, other), (other, one)
