"""Everything of a worker that concerns blocks on the move, composed: hand-offs both ways, fetches, offloads, tiers.

What the worker node asks of it: begin with a new sequence, take leave of one that ends, take an event, move on, make
room.
"""

from collections.abc import Iterator
from math import inf

from jedlik.core.config import WorkerConfig
from jedlik.core.effects import WorkerEffect
from jedlik.core.errors import Fault
from jedlik.core.events import FromWorker, WorkerLost
from jedlik.core.ids import BlockIndex
from jedlik.core.moves import Compared, Moved, PathsMeasured, Revoked, TierOpened
from jedlik.core.protocol import Card, Reserve, StepCosts, Submit
from jedlik.moving.fetch import Fetches, FetchJob
from jedlik.moving.hints import Hints
from jedlik.moving.incoming import Arrivals
from jedlik.moving.moves import Moves
from jedlik.moving.offload import OffloadJob, Offloads
from jedlik.moving.outgoing import Pushes, PushJob
from jedlik.moving.tiers import Tiers
from jedlik.moving.verify import Verifier
from jedlik.scheduling.batch import Batch
from jedlik.scheduling.booking import SequenceBlocks
from jedlik.scheduling.sequence import Sequence

MoveEvent = FromWorker | WorkerLost | Moved | Compared | Revoked | PathsMeasured | TierOpened


class Movement:
    """All movement of one worker's blocks: the node asks this object, and this one the deciders of each kind."""

    def __init__(self, card: Card, config: WorkerConfig, batch: Batch, booking: SequenceBlocks) -> None:
        self._batch = batch
        self.active = False
        """Whether anything is under way: where it is False, nothing is due and the batch keeps no blocks of ended
        sequences, `advance`, `push` and `settle` have nothing to do."""
        self.due_s = inf
        """When something may be late, or is to be done; nothing is before this."""
        self.moves = Moves(card.layout.block_bytes)
        self.tiers = Tiers(card, config)
        self._incoming = Arrivals(card, config, batch, booking)
        self._outgoing = Pushes(card, config, batch, booking, self.moves)
        self._verifier = Verifier(config.verify_share, card.layout.dtype, batch, booking.block_size)
        self._fetches = Fetches(config, batch, booking, self.tiers, self.moves, self._verifier)
        self._hints = Hints(batch, booking.pool, self._fetches.begin)
        self._offloads = Offloads(config, batch, self._hints, self.tiers, self.moves)

    @property
    def idle(self) -> bool:
        """Nothing is under way."""
        return not len(self.moves) and not len(self._offloads)

    def take(self, event: MoveEvent, now: float, out: list[WorkerEffect]) -> None:
        """Something has happened to blocks on the move, or to who sends them."""
        self.active = True
        match event:
            case Moved():
                self._transferred(event, now, out)
            case FromWorker():
                self._incoming.take(event.worker, event.message, now, out)
            case WorkerLost():
                self._incoming.lost(event.worker, now, out)
            case Compared():
                self._verifier.compared(event, out)
            case Revoked():
                self._incoming.revoked(event)
            case TierOpened():
                self.tiers.opened(event)
            case PathsMeasured():
                for costs in event.paths:
                    self.moves.paths.measured(costs)

    def _transferred(self, outcome: Moved, now: float, out: list[WorkerEffect]) -> None:
        """A move has ended: its job says whose it was."""
        match self.moves.end(outcome, now, out):
            case FetchJob() as load:
                self._fetches.transferred(load, outcome, now, out)
            case OffloadJob() as job:
                self._offloads.transferred(job, outcome, now, out)
            case PushJob() as push:
                self._outgoing.transferred(push, outcome, out)

    def fault(self, submit: Submit) -> Fault | None:
        """Why this worker can't take part in what is asked."""
        return self._outgoing.fault(submit)

    def begin(self, s: Sequence, last_step: int, costs: StepCosts | None, now: float, out: list[WorkerEffect]) -> bool:
        """A new sequence. True: its blocks are on their way, and it will wait for its turn when they are here."""
        self.active = True
        if s.pushes and self._outgoing.begin(s, last_step, out):
            return True
        return self._incoming.ask(s, now, out) or self._fetches.begin(s, costs, now, out)

    def reserve(self, s: Sequence | None, reserve: Reserve, out: list[WorkerEffect]) -> None:
        """Blocks of the worker for which a sequence is computed."""
        self._outgoing.reserve(s, reserve, out)

    def leaving(self, s: Sequence, now: float, out: list[WorkerEffect]) -> None:
        """A sequence is about to end."""
        self._incoming.ended(s, now, out)
        self._fetches.ended(s, out)

    def sequence_ended(self, s: Sequence, out: list[WorkerEffect]) -> None:
        """Record that a sequence has ended."""
        self._outgoing.ended(s, out)

    def advance(self, costs: StepCosts | None, now: float, out: list[WorkerEffect]) -> None:
        """Time has passed, sequences have ended: give up what is late, copy what is left behind. `settle` follows."""
        self.active = True
        self._incoming.expire(now, out)
        self._fetches.expire(now, out)
        self._hints.expire(costs, now, out)
        if self._batch.lingering or len(self._offloads):
            self._offloads.advance(now, out)

    def settle(self, now: float, out: list[WorkerEffect]) -> None:
        """After planning: tell askers whose prefill has begun, look after what sequences have left behind since."""
        self._outgoing.grant(out)
        self._verifier.advance(out)
        if self._batch.lingering:
            self._offloads.advance(now, out)
        under_way = len(self.moves) or len(self._outgoing) or len(self._offloads) or len(self._verifier)
        self.active = bool(under_way or len(self._incoming) or len(self._fetches))
        self.due_s = min(self._incoming.due_s, self._fetches.due_s, self._hints.due_s)

    def push(self, landed: int, out: list[WorkerEffect]) -> tuple[list[Sequence], list[Sequence]]:
        """Push what is computed. Returns sequences for other workers that are done, and those that can't be."""
        if not len(self._outgoing):
            return [], []
        return self._outgoing.advance(landed, out), self._outgoing.failed()

    def make_room(self, now: float, out: list[WorkerEffect]) -> bool:
        """Somebody who runs lacks blocks. True: some were freed at once. False: see `give_up_latest`."""
        return self._offloads.make_room(now, out) or self._hints.make_room()

    def give_up_latest(self, now: float, out: list[WorkerEffect]) -> bool:
        """Give up the latest hand-off, where `make_room` could free nothing. True: some will come
        back soon."""
        return self._offloads.holding or self._incoming.give_up_latest(now, out)

    def reserved(self) -> Iterator[list[BlockIndex]]:
        """Blocks that belong to moves: for checking."""
        yield from self._incoming.reserved()
        yield from self._fetches.reserved()
        yield from self._verifier.reserved()

    def check(self) -> None:
        assert self._batch.reserved == sum(len(blocks) for blocks in self.reserved())
        self._incoming.check()
        self._outgoing.check()
        self._fetches.check()
        self._offloads.check()
        self._hints.check()
        self.tiers.check()
