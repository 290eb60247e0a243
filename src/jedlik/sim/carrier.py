"""The carrying of blocks in a simulation: each worker's moves to its own tiers and to other workers, path by path.

Moves on one path go one after the other; each takes what `PathCosts` say: seconds per block and per byte. A move ends
as core/moves says, once: late or cancelled if it has not begun, gone with whom it was for, stale where its ticket was
revoked. Disks outlive processes, the object store is shared by all. What blocks hold is not kept: for that a `Witness`
looks on, in tests.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from jedlik.core.config import NetworkConfig
from jedlik.core.ids import BlockId, Handle, WorkerId
from jedlik.core.moves import (
    TIERS,
    CancelMove,
    CarrierReport,
    Cause,
    Compare,
    Compared,
    Move,
    Moved,
    Order,
    PathCosts,
    PathsMeasured,
    Revoke,
    Revoked,
    StoredRun,
    Tier,
    TierOpened,
)
from jedlik.core.protocol import Card
from jedlik.core.step import Step, StepDone
from jedlik.sim.heap import Heap

LOCAL, REMOTE = "shm", "nixl"
"""Between workers of one host, and of two."""


class Witness(Protocol):
    """Sees what happens to workers' memory. For tests: nothing is changed by it."""

    def started(self, card: Card) -> None:
        """A worker is up, its memory empty but for its disk."""

    def stepped(self, worker: WorkerId, step: Step, done: StepDone) -> None:
        """A step (no leap) has ended."""

    def begun(self, worker: WorkerId, move: Move) -> None:
        """The target of a move may be written from now on."""

    def landed(self, worker: WorkerId, move: Move, blocks: int) -> None:
        """Record that so many of the first blocks have been written; the target is written no more."""


class CarriedMove:
    """A move that has not ended."""

    __slots__ = ("asked_s", "begun_s", "ended", "late_s", "move")

    def __init__(self, move: Move, now: float) -> None:
        self.move, self.asked_s, self.late_s = move, now, now + move.deadline_s
        self.begun_s: float | None = None
        self.ended = False


class Road:
    """One path of one worker in one direction."""

    def __init__(self, heap: Heap, costs: PathCosts, carrier: "Carrier") -> None:
        self._heap, self.costs, self._carrier = heap, costs, carrier
        self._queue: deque[CarriedMove] = deque()
        self._busy = False

    def take(self, job: CarriedMove) -> None:
        self._queue.append(job)
        self.go()
        if job.begun_s is None and not job.ended:
            self._heap.at(job.late_s, self._late, job)

    def go(self) -> None:
        """Begin the first move that may."""
        queue, carrier = self._queue, self._carrier
        while not self._busy:
            while queue and queue[0].ended:
                queue.popleft()
            job = next((job for job in queue if not job.ended and carrier.may_begin(job.move)), None)
            if job is None:
                return
            queue.remove(job)
            if carrier.begin(job, self.costs.path):
                self._busy = True
                blocks = job.move.blocks
                size_bytes = blocks * carrier.block_bytes
                self._heap.after(blocks * self.costs.block_s + size_bytes * self.costs.byte_s, self._end, job)

    def _end(self, job: CarriedMove) -> None:
        self._busy = False
        self._carrier.land(job, self.costs.path)
        self.go()

    def _late(self, job: CarriedMove) -> None:
        if job.begun_s is None and not job.ended:
            self._carrier.end(job, 0, "late", self.costs.path)


class Carrier:
    """The transfers of one worker. `tell` is never called inside `perform`."""

    def __init__(self, heap: Heap, fleet: "Carriers", card: Card, tell: Callable[[CarrierReport], None]) -> None:
        self._heap, self._fleet, self.card, self._tell = heap, fleet, card, tell
        self.block_bytes = card.layout.block_bytes
        self._jobs: dict[int, CarriedMove] = {}
        self._roads: dict[tuple[str, bool], Road] = {}
        self._revoked: set[tuple[WorkerId, Handle]] = set()
        self.up, self.frozen = True, False

    def perform(self, effect: Order) -> None:
        """Carry out an order as core/moves says."""
        if isinstance(effect, Move):
            job = self._jobs[effect.number] = CarriedMove(effect, self._heap.now)
            self._road(effect).take(job)
        elif isinstance(effect, Compare):  # nothing is ever garbled here
            self._heap.after(0.0, self._tell, Compared(effect.number, 0))
        elif isinstance(effect, CancelMove):
            found = self._jobs.get(effect.number)
            if found is not None and found.begun_s is None:
                self.end(found, 0, "cancelled", self._road(found.move).costs.path)
        else:
            self._revoke(effect)

    def freeze(self) -> None:
        """The process hangs: what is under way ends, nothing else begins."""
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        self.go()

    def go(self) -> None:
        """Something may begin that could not."""
        for road in list(self._roads.values()):
            road.go()

    def close(self) -> None:
        """The process is gone: nothing of its moves lands any more."""
        self.up = False
        for job in self._jobs.values():
            job.ended = True

    # --- what roads ask ---

    def may_begin(self, move: Move) -> bool:
        target = move.target.worker
        return not self.frozen and (target is None or self._fleet.reaches(self.card.worker, target))

    def begin(self, job: CarriedMove, path: str) -> bool:
        """False: there is nobody to write to, and it has ended."""
        job.begun_s = self._heap.now
        cause = self._cause(job.move)
        if cause:
            self.end(job, 0, cause, path)
        else:
            self._fleet.begun(self.card, job.move)
        return not cause

    def land(self, job: CarriedMove, path: str) -> None:
        if not job.ended:  # its process may have ended meanwhile
            cause = self._cause(job.move)
            blocks, cause = (0, cause) if cause else self._fleet.landed(self.card, job.move)
            self.end(job, blocks, cause, path)

    def end(self, job: CarriedMove, blocks: int, cause: Cause, path: str) -> None:
        """End a job and report it once."""
        job.ended = True
        move, now = job.move, self._heap.now
        del self._jobs[move.number]
        begun_s = now if job.begun_s is None else job.begun_s
        size_bytes = blocks * self.block_bytes
        outcome = Moved(
            number=move.number,
            blocks=blocks,
            cause=cause,
            path=path,
            size_bytes=size_bytes,
            queued_s=begun_s - job.asked_s,
            elapsed_s=now - begun_s,
        )
        self._heap.at(now, self._tell, outcome)

    def takes(self, writer: WorkerId, ticket: Handle) -> bool:
        """Whether another worker may write for this ticket."""
        return self.up and (writer, ticket) not in self._revoked

    # --- inside ---

    def _cause(self, move: Move) -> Cause:
        """Why nothing of it can be written now."""
        if move.target.worker is None:
            return ""
        target = self._fleet.alive.get(move.target.worker)
        if target is None:
            return "gone"
        return "" if target.takes(self.card.worker, move.ticket) else "stale"

    def _road(self, move: Move) -> Road:
        if move.target.worker is not None:
            path, inward = self._fleet.path(self.card, move.target.worker), False
        else:
            source, target = TIERS.index(move.source.tier), TIERS.index(move.target.tier)
            path, inward = TIERS[max(source, target)], target < source
        road = self._roads.get((path, inward))
        if road is None:
            road = self._roads[path, inward] = Road(self._heap, self._fleet.costs[path], self)
        return road

    def _revoke(self, revoke: Revoke) -> None:
        """At once, but for a writer on this host: shared memory can't be taken from a process that lives."""
        report = Revoked(revoke.worker, revoke.tickets)
        writer = self._fleet.alive.get(revoke.worker)
        if writer is not None and self._fleet.path(self.card, revoke.worker) == LOCAL:
            self._fleet.when_gone(revoke.worker, lambda: self._tell(report))
            return
        if writer is not None:
            self._revoked.update((revoke.worker, ticket) for ticket in revoke.tickets)
        self._heap.at(self._heap.now, self._tell, report)


class Disk:
    """The disk of one worker: slots, by what was written there. It outlives the process."""

    def __init__(self) -> None:
        self._slots: dict[int, tuple[BlockId | None, BlockId]] = {}
        """(parent, id)"""

    def tear(self, move: Move) -> None:
        """Mark the move's slots as being written: what they held is lost."""
        for slot in move.target_blocks:
            self._slots.pop(slot, None)

    def write(self, move: Move) -> None:
        parent = move.parent
        for slot, name in zip(move.target_blocks, move.ids, strict=True):
            self._slots[slot] = (parent, name)
            parent = name

    def found(self, move: Move) -> int:
        """Return how many of the first blocks are what they should be."""
        for at, (slot, name) in enumerate(zip(move.source_blocks, move.ids, strict=True)):
            if slot not in self._slots or self._slots[slot][1] != name:
                return at
        return len(move.ids)

    def runs(self) -> list[StoredRun]:
        """All whose predecessors are there too, parents before children."""
        below: dict[BlockId | None, list[tuple[BlockId, int]]] = {}
        for slot, (parent, name) in self._slots.items():
            below.setdefault(parent, []).append((name, slot))
        return list(_runs(below))


class Carriers:
    """All carriers of a simulation, and what they share. `reaches` says whether two workers' link is whole."""

    def __init__(
        self, heap: Heap, network: NetworkConfig, reaches: Callable[[WorkerId, WorkerId], bool], witness: Witness | None
    ) -> None:
        self._heap, self.reaches, self._witness = heap, reaches, witness
        self.costs = costs(network)
        self.alive: dict[WorkerId, Carrier] = {}
        self._hosts: dict[WorkerId, str] = {}
        self._disks: dict[str, Disk] = {}
        """By the worker's name: the next incarnation finds it."""
        self._objects: set[BlockId] = set()
        self._waiting: dict[WorkerId, list[Callable[[], None]]] = {}

    def add(self, card: Card, tell: Callable[[CarrierReport], None]) -> Carrier:
        """A worker is up."""
        carrier = self.alive[card.worker] = Carrier(self._heap, self, card, tell)
        if self._witness is not None:
            self._witness.started(card)
        return carrier

    def stepped(self, worker: WorkerId) -> Callable[[Step, StepDone], None] | None:
        """Return the observer of this worker's steps; only tests have one."""
        return None if self._witness is None else partial(self._witness.stepped, worker)

    def first_words(self, card: Card) -> Iterator[PathsMeasured | TierOpened]:
        """Return what a worker is told when it starts: only what concerns it."""
        tiers: list[Tier] = [size.tier for size in card.tiers]
        paths = [*((LOCAL, REMOTE) if card.handoffs else ()), *tiers]
        if paths:
            yield PathsMeasured([self.costs[path] for path in paths])
        if "disk" in tiers:
            yield TierOpened("disk", self._disk(card).runs())
        if "object" in tiers:
            yield TierOpened("object", [])

    def _disk(self, card: Card) -> Disk:
        return self._disks.setdefault(card.name, Disk())

    def remove(self, worker: WorkerId) -> None:
        """Forget a worker that is gone."""
        self.alive.pop(worker).close()
        for call in self._waiting.pop(worker, ()):
            self._heap.at(self._heap.now, call)

    def when_gone(self, worker: WorkerId, call: Callable[[], None]) -> None:
        self._waiting.setdefault(worker, []).append(call)

    def go(self) -> None:
        """A link is whole again."""
        for carrier in list(self.alive.values()):
            carrier.go()

    def path(self, card: Card, other: WorkerId) -> str:
        """Return the name of the path between two workers."""
        peer = self.alive.get(other)
        return LOCAL if peer is not None and peer.card.host == card.host != "" else REMOTE

    def begun(self, card: Card, move: Move) -> None:
        """The target may be written from now on."""
        if move.target.tier == "disk":
            self._disk(card).tear(move)
        if self._witness is not None:
            self._witness.begun(card.worker, move)

    def landed(self, card: Card, move: Move) -> tuple[int, Cause]:
        """Return how many blocks arrived, and why not more."""
        blocks = move.blocks
        if move.source.tier == "disk":
            blocks = self._disk(card).found(move)
        elif move.source.tier == "object":
            blocks = next((at for at, name in enumerate(move.ids) if name not in self._objects), len(move.ids))
        if self._witness is not None:
            self._witness.landed(card.worker, move, blocks)
        if move.target.tier == "disk":
            self._disk(card).write(move)
        elif move.target.tier == "object":
            self._objects.update(move.ids)
        return blocks, "" if blocks == move.blocks else "missing"


def costs(network: NetworkConfig) -> dict[str, PathCosts]:
    """Return the costs of every path, by name."""
    figures = {
        LOCAL: (network.local_block_s, network.local_bandwidth_bytes_s),
        REMOTE: (network.kv_block_s, network.kv_bandwidth_bytes_s),
        "host": (network.host_block_s, network.host_bandwidth_bytes_s),
        "disk": (network.disk_block_s, network.disk_bandwidth_bytes_s),
        "object": (network.object_block_s, network.object_bandwidth_bytes_s),
    }
    return {path: PathCosts(path, block_s, 1 / bytes_s) for path, (block_s, bytes_s) in figures.items()}


def _runs(below: dict[BlockId | None, list[tuple[BlockId, int]]]) -> Iterator[StoredRun]:
    """Blocks in a row, cut where chains fork."""
    waiting: list[tuple[BlockId | None, tuple[BlockId, int]]] = [(None, first) for first in below.get(None, [])]
    while waiting:
        parent, (name, slot) = waiting.pop()
        ids, slots = [name], [slot]
        while len(following := below.get(ids[-1], [])) == 1:
            ids.append(following[0][0])
            slots.append(following[0][1])
        yield StoredRun(parent, ids, slots)
        waiting += [(ids[-1], first) for first in following]
