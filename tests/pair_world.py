"""Two or more worker nodes with modelled memory, a carrier that copies it, and messages that move when told to.

Every position that a step reads must hold the reader's own history, wherever it was computed: a block that is pushed
too early, to a wrong place, from blocks given away, or re-used while it is written shows as a wrong fingerprint.
"""

from collections import deque
from random import Random

from jedlik.core.config import WorkerConfig
from jedlik.core.effects import Drained, Note, RunStep, ToClient, ToWorkerEffect, Wake
from jedlik.core.events import (
    ClientJoined,
    ClientLost,
    FromClient,
    FromWorker,
    StepEnded,
    Woken,
    WorkerEvent,
    WorkerLost,
)
from jedlik.core.facts import Fact
from jedlik.core.ids import BlockId, GatewayId, Handle, WorkerId
from jedlik.core.moves import CancelMove, Cause, Compare, Compared, Move, Moved, Revoke, Revoked
from jedlik.core.protocol import (
    Ack,
    Card,
    Facts,
    Finished,
    Load,
    Snapshot,
    Started,
    StepCosts,
    Submit,
    ToGateway,
    Tokens,
    ToWorker,
)
from jedlik.core.step import Step
from jedlik.kv.hashing import BlockHasher
from jedlik.nodes.worker.node import WorkerNode
from worker_world import GATEWAY, KEY, MemoryEngine


class Worker:
    """One node, its engine, and what waits to be done."""

    def __init__(self, card: Card, config: WorkerConfig, costs: StepCosts | None) -> None:
        self.card = card
        self.node = WorkerNode(card, config, BlockHasher(KEY, "r", config.block_size), profile=costs)
        self.engine = MemoryEngine(card)
        self.steps: deque[Step] = deque()
        self.alive = True
        self.wake_at: float | None = None
        self.shelves: dict[tuple[str, int | bytes], tuple[bytes, list[int]]] = {}
        """Tier and slot (or name): what is said to be there, and what is."""


class Answers:
    """What the gateway hears of one worker."""

    def __init__(self) -> None:
        self.tokens: dict[int, list[int]] = {}
        self.started: dict[int, Started] = {}
        self.finished: dict[int, Finished] = {}


class Cluster:
    """Workers by name; `jobs` are things that could happen next, in any order that keeps each channel's own."""

    def __init__(self, cards: list[Card], config: WorkerConfig, costs: StepCosts | None = None) -> None:
        self.now = 0.0
        self.workers = {card.worker: Worker(card, config, costs) for card in cards}
        self.told: dict[WorkerId, list[ToGateway]] = {card.worker: [] for card in cards}
        self.channels: dict[tuple[str, str], deque[object]] = {}
        self.moves: list[tuple[WorkerId, Move]] = []
        self.cancelled: set[tuple[WorkerId, int]] = set()
        self.dead: set[WorkerId] = set()
        self.met: set[tuple[WorkerId, WorkerId]] = set()
        self.heard = {card.worker: Answers() for card in cards}
        self.facts: list[Fact] = []
        self.loads: dict[WorkerId, Load] = {}
        for worker in self.workers:
            self.send(worker, ClientJoined(GATEWAY))

    def send(self, name: WorkerId, event: WorkerEvent) -> None:
        worker = self.workers[name]
        if not worker.alive:
            return
        for effect in worker.node.handle(event, self.now):
            match effect:
                case ToClient(gateway, message):
                    if gateway == GATEWAY:
                        self._hear(name, message)
                    else:
                        self._queue(name, gateway, message)
                case ToWorkerEffect(other, message):
                    self._to_worker(name, other, message)
                case RunStep(step):
                    worker.steps.append(step)
                case Move():
                    self.moves.append((name, effect))
                case Compare(number, _, blocks, computed):
                    memory = worker.engine.memory
                    differing = sum(memory[one] != memory[other] for one, other in zip(blocks, computed, strict=True))
                    self._queue(f"carrier of {name}", name, Compared(number, differing))
                case CancelMove(number):
                    self.cancelled.add((name, number))
                case Revoke(other, tickets):
                    assert other in self.dead, "in this world a lost worker is a dead one"
                    self._queue(f"carrier of {name}", name, Revoked(other, tickets))
                case Wake(at):
                    worker.wake_at = at
                case Note(fact):
                    self.facts.append(fact)
                case Drained():
                    pass
                case _:
                    raise AssertionError(f"unexpected {effect}")
        worker.node.check()

    def submit(self, name: WorkerId, submit: Submit) -> None:
        self.send(name, FromClient(GATEWAY, submit))

    def kill(self, name: WorkerId) -> None:
        """Its process is gone: what it was writing is written no more, and everybody it talked to hears of it."""
        self.workers[name].alive = False
        self.dead.add(name)
        for source, target in list(self.channels):
            if name in (source, target):
                del self.channels[source, target]
        self.moves = [(who, move) for who, move in self.moves if who != name]
        for one, other in sorted(self.met):
            if one == name:
                self._queue(f"net of {other}", other, ClientLost(GatewayId(name)))
            elif other == name:
                self._queue(f"net of {one}", one, WorkerLost(name, "killed"))

    def choices(self) -> list[tuple[str, object]]:
        """All that could happen next."""
        found: list[tuple[str, object]] = [("message", pair) for pair, queue in sorted(self.channels.items()) if queue]
        found += [("step", name) for name, worker in self.workers.items() if worker.alive and worker.steps]
        found += [("move", move) for move in self.moves]
        return found

    def do(self, choice: tuple[str, object]) -> None:
        kind, what = choice
        self.now += 0.001
        if kind == "message":
            assert isinstance(what, tuple)
            self._deliver(what[0], what[1])
        elif kind == "step":
            name = WorkerId(str(what))
            worker = self.workers[name]
            self.send(name, StepEnded(worker.engine.run(worker.steps.popleft())))
            self._acknowledge(name)
        else:
            assert isinstance(what, tuple)
            self._carry(*what)

    def settle(self, rng: Random | None = None, limit: int = 20_000) -> None:
        """Until nothing can happen but the passing of time; then let time pass, until nobody waits for that either."""
        for _ in range(limit):
            choices = self.choices()
            if choices:
                self.do(rng.choice(choices) if rng else choices[0])
                continue
            waiting = [name for name, worker in self.workers.items() if worker.alive and self._busy(worker)]
            if not waiting:
                return
            self.now += 1.0
            for name in waiting:
                self.send(name, Woken())
        raise AssertionError("the workers never come to rest")

    def rest(self) -> None:
        """At the end nothing is held, reserved or in quarantine anywhere."""
        for name, worker in self.workers.items():
            if worker.alive:
                load = worker.node.load(self.now)
                assert (load.running, load.waiting, load.held_blocks, load.reserved_blocks) == (0, 0, 0, 0), (
                    name,
                    load,
                )

    def _busy(self, worker: Worker) -> bool:
        load = worker.node.load(self.now)
        return bool(load.running or load.waiting)

    def _to_worker(self, name: WorkerId, other: WorkerId, message: ToWorker) -> None:
        if other in self.dead or other not in self.workers:
            self._queue(f"net of {name}", name, WorkerLost(other, "not there"))
            return
        if (name, other) not in self.met:
            self.met.add((name, other))
            self.send(other, ClientJoined(GatewayId(name), follows=False))
        self._queue(name, other, message)

    def _queue(self, source: str, target: str, message: object) -> None:
        self.channels.setdefault((source, target), deque()).append(message)

    def _deliver(self, source: str, target: str) -> None:
        message = self.channels[source, target].popleft()
        name = WorkerId(target)
        if isinstance(message, Revoked | Compared | WorkerLost | ClientLost):
            self.send(name, message)
        elif (source, target) in self.met and isinstance(message, ToWorker):
            self.send(name, FromClient(GatewayId(source), message))  # type: ignore[arg-type]
        else:
            self.send(name, FromWorker(WorkerId(source), message))  # type: ignore[arg-type]

    def _carry(self, name: WorkerId, move: Move) -> None:
        self.moves.remove((name, move))
        target = move.target.worker or name
        if (name, move.number) in self.cancelled:
            self.send(name, Moved(number=move.number, blocks=0, cause="cancelled", path="test"))
        elif target in self.dead:
            self.send(name, Moved(number=move.number, blocks=0, cause="gone", path="test"))
        else:
            self.spread(name, move, move.blocks)
            self.send(
                name,
                Moved(
                    number=move.number,
                    blocks=move.blocks,
                    cause="",
                    path="test",
                    size_bytes=100 * move.blocks,
                    queued_s=0.0,
                    elapsed_s=0.001,
                ),
            )

    def spread(self, name: WorkerId, move: Move, count: int) -> None:
        """Copy a move's first blocks. What a tier gives back must be what it was asked for."""
        worker = self.workers[name]
        for at in range(count):
            if move.source.tier == "device":
                content = list(worker.engine.memory[move.source_blocks[at]])
            else:
                told, content = worker.shelves[_shelf(move.source.tier, move.source_blocks, move.ids, at)]
                assert told == move.ids[at], "this slot holds another block"
            if move.target.tier == "device":
                self.workers[move.target.worker or name].engine.memory[move.target_blocks[at]] = list(content)
            else:
                worker.shelves[_shelf(move.target.tier, move.target_blocks, move.ids, at)] = move.ids[at], content

    def fail(self, choice: tuple[str, object], rng: Random) -> None:
        """A move ends before its time."""
        assert isinstance(choice[1], tuple)
        name, move = choice[1]
        self.moves.remove((name, move))
        count = rng.randrange(move.blocks)
        self.spread(name, move, count)
        causes: list[Cause] = ["failed"] if move.source.tier == "device" else ["failed", "corrupt", "late", "missing"]
        cause = rng.choice(causes)
        self.send(name, Moved(number=move.number, blocks=count, cause=cause, path="test"))

    def _acknowledge(self, name: WorkerId) -> None:
        heard = self.heard[name]
        open_ones = [Handle(h) for h in heard.tokens if h not in heard.finished]
        if open_ones:
            self.send(name, FromClient(GATEWAY, Ack(open_ones, [len(heard.tokens[h]) for h in open_ones])))

    def _hear(self, name: WorkerId, message: ToGateway) -> None:
        self.told[name].append(message)
        heard = self.heard[name]
        if isinstance(message, Tokens):
            for started in message.started:
                heard.started[started.handle] = started
            for handle, token in zip(message.handles, message.tokens, strict=True):
                heard.tokens.setdefault(handle, []).append(token)
            for finished in message.finished:
                assert finished.handle not in heard.finished
                heard.finished[finished.handle] = finished
        elif isinstance(message, Load):
            self.loads[name] = message
        else:
            assert not isinstance(message, Card)
            assert isinstance(message, Facts | Snapshot) or message is not None


def _shelf(tier: str, slots: list[int], ids: list[BlockId], at: int) -> tuple[str, int | bytes]:
    return tier, slots[at] if slots else ids[at]
