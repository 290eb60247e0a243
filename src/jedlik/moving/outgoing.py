"""Hand-offs at the worker that prefills: sequences computed for other workers, whose blocks are pushed as they are
finished.

Promises: nothing is pushed before the step that computes it has ended, nor to a block that the asker has not given;
what is being read stays as it is until the move has ended; `Released` is the last word of every hand-off, and true.
"""

from jedlik.core.config import WorkerConfig
from jedlik.core.effects import ToClient, WorkerEffect
from jedlik.core.errors import Fault
from jedlik.core.ids import ClientId, Handle, WorkerId
from jedlik.core.moves import DEVICE, CancelMove, Location, Move, Moved
from jedlik.core.protocol import Card, Granted, Pushed, Released, Reserve, Submit
from jedlik.moving.moves import Job, Moves
from jedlik.scheduling.batch import Batch
from jedlik.scheduling.booking import SequenceBlocks
from jedlik.scheduling.sequence import Phase, Sequence

FAILED = -1
"""The end of a hand-off whose blocks do not get through."""
DEADLINE_FACTOR = 5.0
"""A push that has not begun after this many times the asker's patience need not begin any more."""


class Outgoing:
    """A sequence whose blocks go to the worker that asked, at the side that prefills.

    `slots` are blocks of the asker's, for the history's blocks from `first` on.
    """

    __slots__ = ("first", "granted", "moving", "pushed", "sequence", "slots", "until")

    def __init__(self, sequence: Sequence, block_size: int) -> None:
        start = sequence.submit.push.start if sequence.submit.push else 0
        self.sequence = sequence
        self.first = start // block_size
        self.slots: list[int] = []
        self.pushed = start
        """Tokens: as far as the asker has been told."""
        self.until = sequence.known
        self.granted = False
        self.moving = 0
        """Number of the move under way, 0: none."""

    def reserve(self, first: int, blocks: list[int]) -> bool:
        """Take blocks of the asker's; False where they do not follow those it gave before: a duplicate."""
        if first != self.first + len(self.slots):
            return False
        self.slots += blocks
        return True

    def ready(self, block_size: int) -> tuple[int, int]:
        """Blocks [first, last) of the history that are computed, have a place to go, and were not pushed yet."""
        done = min(self.sequence.computed, self.until)
        computed = -(-done // block_size) if done >= self.until else done // block_size
        first = -(-self.pushed // block_size)
        return first, max(first, min(computed, self.first + len(self.slots)))


class PushJob(Job):
    """The move of blocks that hold a hand-off's history up to `tokens`."""

    __slots__ = ("outgoing", "tokens")
    kind = "push"

    def __init__(self, outgoing: Outgoing, tokens: int) -> None:
        self.outgoing, self.tokens, self.number = outgoing, tokens, 0


class Pushes:
    """The hand-offs from one worker. Whoever ends a sequence of these calls `ended`."""

    def __init__(self, card: Card, config: WorkerConfig, batch: Batch, booking: SequenceBlocks, moves: Moves) -> None:
        self._card, self._batch, self._booking, self._moves = card, batch, booking, moves
        self._deadline_s = DEADLINE_FACTOR * config.handoff_patience_s
        self._open: dict[int, Outgoing] = {}
        """The open hand-offs, by the number of their sequence."""
        self._barriers: list[tuple[int, Sequence]] = []
        """What is cached may be in the making by steps up to this one: (step, sequence)."""

    def __len__(self) -> int:
        return len(self._open)

    def fault(self, submit: Submit) -> Fault | None:
        """Why this worker can't prefill for the asker; None if it can."""
        push = submit.push
        if push is None or push.layout == self._card.layout:
            return None
        return Fault(
            kind="invalid",
            message=f"the asker's blocks are {push.layout}, these are {self._card.layout}",
            code="layout",
        )

    def begin(self, s: Sequence, last_step: int, out: list[WorkerEffect]) -> bool:
        """Take on a new sequence. True: it needs no computing, only what is cached is to be sent."""
        outgoing = self._open[s.number] = Outgoing(s, self._booking.block_size)
        push = s.submit.push
        if push is None or push.compute:
            return False
        self._booking.open(s)
        outgoing.until = s.cached_tokens = self._booking.adopt(s) if self._batch.may_adopt(s) else 0
        self._batch.depart(s)
        self._grant(outgoing, out)
        self._barriers.append((last_step, s))
        return True

    def reserve(self, s: Sequence | None, reserve: Reserve, out: list[WorkerEffect]) -> None:
        """The asker gives blocks to write to."""
        outgoing = None if s is None else self._open.get(s.number)
        if outgoing is not None and outgoing.reserve(reserve.first, reserve.blocks):
            self._push(outgoing, out)

    def advance(self, landed: int, out: list[WorkerEffect]) -> list[Sequence]:
        """Push what is ready; `landed` is the last step that ended. Return the sequences that are done."""
        if self._barriers:
            for _, s in [b for b in self._barriers if b[0] <= landed]:
                s.computed = s.scheduled
            self._barriers = [b for b in self._barriers if b[0] > landed]
        done = []
        for outgoing in self._open.values():
            s = outgoing.sequence
            self._push(outgoing, out)
            if outgoing.granted and not outgoing.moving and 0 <= outgoing.until <= outgoing.pushed:
                done.append(s)
        return done

    def grant(self, out: list[WorkerEffect]) -> None:
        """Tell the askers of sequences that have just been admitted that prefill has begun."""
        for outgoing in self._open.values():
            if not outgoing.granted and outgoing.sequence.phase in (Phase.PREFILL, Phase.DECODE):
                self._grant(outgoing, out)

    def ended(self, s: Sequence, out: list[WorkerEffect]) -> None:
        """A sequence ends, for whatever reason: say the last word, now or when the move under way has ended."""
        outgoing = self._open.pop(s.number, None)
        if outgoing is None:
            return
        self._barriers = [b for b in self._barriers if b[1] is not s]
        if outgoing.moving:
            out.append(CancelMove(outgoing.moving))
        else:
            out.append(released(s.client, s.handle))

    def _grant(self, outgoing: Outgoing, out: list[WorkerEffect]) -> None:
        s = outgoing.sequence
        outgoing.granted = True
        out.append(ToClient(s.client, Granted(s.handle, s.cached_tokens, outgoing.until)))

    def _push(self, outgoing: Outgoing, out: list[WorkerEffect]) -> None:
        s = outgoing.sequence
        first, last = outgoing.ready(self._booking.block_size)
        if outgoing.moving or first >= last or last > len(s.blocks):
            return
        target = outgoing.slots[first - outgoing.first : last - outgoing.first]
        source: list[int] = list(s.blocks[first:last])
        tokens = min(last * self._booking.block_size, outgoing.until)
        move = Move(
            number=0,
            source=DEVICE,
            source_blocks=source,
            target=_device_of(s.client),
            target_blocks=target,
            ids=[],
            parent=None,
            deadline_s=self._deadline_s,
            ticket=s.handle,
        )
        self._batch.hold(s)
        job = PushJob(outgoing, tokens)
        self._moves.begin(move, job, out)
        outgoing.moving = job.number

    def transferred(self, job: PushJob, outcome: Moved, out: list[WorkerEffect]) -> None:
        """Tell the asker what a push has brought; what could not be sent ends the hand-off."""
        outgoing, s = job.outgoing, job.outgoing.sequence
        self._batch.let_go(s)
        if self._open.get(s.number) is not outgoing:
            out.append(released(s.client, s.handle))  # it ended meanwhile
            return
        outgoing.moving = 0
        if outcome.cause:
            outgoing.until = FAILED
            return
        outgoing.pushed = job.tokens
        out.append(ToClient(s.client, Pushed(s.handle, job.tokens)))

    def failed(self) -> list[Sequence]:
        """Return the sequences whose blocks did not get through."""
        return [o.sequence for o in self._open.values() if o.until == FAILED]

    def check(self) -> None:
        """Assert that no hand-off outlives its sequence, and that every push under way is known."""
        pushes = self._moves.jobs("push")
        assert {o.moving for o in self._open.values() if o.moving} <= {job.number for job in pushes}
        assert all(o.sequence.phase is not Phase.ENDED for o in self._open.values())
        assert all(o.sequence.in_flight for o in self._open.values() if o.moving)


def released(asker: ClientId, handle: Handle) -> ToClient:
    """Return the last message of a hand-off, whether or not it ever began."""
    return ToClient(asker, Released([handle]))


def _device_of(asker: ClientId) -> Location:
    return Location("device", WorkerId(asker))
