"""Hand-offs at the worker that decodes: sequences whose blocks other workers send, from the question to the last
commit.

Promises: every sequence that departs arrives (or ends), with what has come by then; blocks that a writer may still
touch are never given to anybody; all reservations together stay within their share of the pool. Time frees no block
here: it only ends waiting.
"""

from collections.abc import Iterator
from enum import Enum
from math import inf

from jedlik.core.config import WorkerConfig
from jedlik.core.effects import Note, ToWorkerEffect, WorkerEffect
from jedlik.core.errors import Bug
from jedlik.core.events import WorkerMessage
from jedlik.core.facts import HandedOff
from jedlik.core.ids import BlockIndex, Handle, WorkerId
from jedlik.core.moves import Revoke, Revoked
from jedlik.core.protocol import Cancel, Card, Granted, Push, Pushed, Released, Remote, Reserve, Submit, Tokens
from jedlik.core.requests import Sampling, Stopping
from jedlik.core.tokens import TOKEN_BYTES
from jedlik.scheduling.batch import Batch
from jedlik.scheduling.booking import SequenceBlocks
from jedlik.scheduling.queue import last_in_line
from jedlik.scheduling.sequence import Sequence

UNKNOWN_FACTOR = 15.0
"""The factor on patience where nobody knows what a hand-off should take."""
LATE_FACTOR = 3.0
"""A hand-off without progress for this many times what it should take in all is late."""


class Stage(Enum):
    ASKED = "asked"
    GRANTED = "granted"
    CLOSED = "closed"


STEPS: dict[tuple[Stage, str], Stage] = {
    (Stage.ASKED, "grant"): Stage.GRANTED,
    (Stage.ASKED, "close"): Stage.CLOSED,
    (Stage.GRANTED, "close"): Stage.CLOSED,
}


class Incoming:
    """A sequence whose blocks another worker sends, at the side that decodes.

    `blocks` are reserved and not yet committed: they take the history from block `first` on.
    """

    __slots__ = (
        "arrived",
        "asked_s",
        "blocks",
        "due_s",
        "first",
        "handle",
        "remote",
        "sequence",
        "stage",
        "start",
        "until",
    )

    def __init__(self, sequence: Sequence, remote: Remote, handle: Handle, now: float) -> None:
        self.sequence, self.remote, self.handle = sequence, remote, handle
        self.stage = Stage.ASKED
        self.start = self.until = sequence.scheduled
        self.first = len(sequence.blocks)
        self.blocks: list[BlockIndex] = []
        self.arrived = 0
        """The number of blocks that have arrived."""
        self.asked_s = self.due_s = now

    def move(self, event: str) -> None:
        """Change stage by the table; raises Bug where it has no entry."""
        stage = STEPS.get((self.stage, event))
        if stage is None:
            raise Bug(f"hand-off {self.handle} from {self.remote.worker} can't {event} while {self.stage.value}")
        self.stage = stage

    def missing(self, block_size: int) -> int:
        """Blocks for which nothing is reserved yet."""
        return -(-self.until // block_size) - self.first - len(self.blocks)

    def commit(self, tokens: int, block_size: int) -> list[BlockIndex]:
        """The KV of the history's first `tokens` tokens is here: the blocks that now belong to the sequence."""
        count = -(-tokens // block_size) - self.first
        arrived, self.blocks = self.blocks[:count], self.blocks[count:]
        self.first += count
        self.arrived += count
        return arrived

    @property
    def done_tokens(self) -> int:
        """The number of tokens whose KV came from the other worker."""
        return max(0, self.sequence.scheduled - self.start)


class Quarantine:
    """Reserved blocks of hand-offs that are over, until nobody can write to them any more."""

    def __init__(self) -> None:
        self._blocks: dict[Handle, tuple[WorkerId, list[BlockIndex]]] = {}

    def __len__(self) -> int:
        return sum(len(blocks) for _, blocks in self._blocks.values())

    def put(self, worker: WorkerId, handle: Handle, blocks: list[BlockIndex]) -> None:
        if blocks:
            self._blocks[handle] = worker, blocks

    def take(self, handle: Handle) -> list[BlockIndex]:
        """The writer has said its last word, or is known to be gone; none where none were kept."""
        return self._blocks.pop(handle, (None, []))[1]

    def of(self, worker: WorkerId) -> list[Handle]:
        """Return the hand-offs that wait for a message of this worker."""
        return [handle for handle, (writer, _) in self._blocks.items() if writer == worker]

    def everything(self) -> list[list[BlockIndex]]:
        return [blocks for _, blocks in self._blocks.values()]


class Arrivals:
    """The hand-offs to one worker, each from the question to the last commit."""

    def __init__(self, card: Card, config: WorkerConfig, batch: Batch, booking: SequenceBlocks) -> None:
        self._card, self._config, self._batch, self._booking = card, config, batch, booking
        self._open: dict[Handle, Incoming] = {}
        self._by_sequence: dict[int, Incoming] = {}
        self._quarantine = Quarantine()
        self._last_handle = 0
        self.due_s = inf
        """Nobody is late before this."""
        self._short = False
        """Somebody is granted blocks that there was no room for."""

    def ask(self, s: Sequence, now: float, out: list[WorkerEffect]) -> bool:
        """Have a new sequence prefilled where its gateway said. False: there is nothing to gain, or no room for it."""
        remote = s.submit.remote
        if remote is None or s.reads_prompt or remote.worker == self._card.worker:
            return False
        cached = self._booking.match(s).found
        wanted = self._booking.blocks_for(s.known - 1)
        if wanted <= cached or wanted > self._batch.most_inbound or not self._batch.may_adopt(s):
            return False
        self._booking.open(s)
        s.cached_tokens += self._booking.adopt(s)
        self._last_handle += 1
        incoming = Incoming(s, remote, Handle(self._last_handle), now)
        self._open[incoming.handle] = self._by_sequence[s.number] = incoming
        self._batch.depart(s)
        self._expect(incoming, now)
        out.append(ToWorkerEffect(remote.worker, self._submit(incoming)))
        return True

    def take(self, worker: WorkerId, message: WorkerMessage, now: float, out: list[WorkerEffect]) -> None:
        """Take a message of a worker that prefills for this one."""
        match message:
            case Granted():
                self._granted(message, now, out)
            case Pushed():
                self._pushed(message, now, out)
            case Released():
                for handle in message.handles:
                    if (incoming := self._open.get(handle)) is not None:
                        self._close(incoming, "refused", now, out)
                    self._give_back(handle)
            case Tokens():
                for finished in message.finished:
                    if finished.fault is not None and (incoming := self._open.get(finished.handle)) is not None:
                        self._close(incoming, "refused", now, out)

    def lost(self, worker: WorkerId, now: float, out: list[WorkerEffect]) -> None:
        """The connection to a worker is gone: nothing more will come, but it may still be writing."""
        for incoming in [i for i in self._open.values() if i.remote.worker == worker]:
            self._close(incoming, "gone", now, out)
        if tickets := self._quarantine.of(worker):
            out.append(Revoke(worker, tickets))

    def revoked(self, event: Revoked) -> None:
        for handle in event.tickets:
            self._give_back(handle)

    def ended(self, s: Sequence, now: float, out: list[WorkerEffect]) -> None:
        """A sequence has ended; if it was on its way, nobody waits for its blocks any more."""
        incoming = self._by_sequence.get(s.number)
        if incoming is not None:
            self._close(incoming, "cancelled", now, out)

    def expire(self, now: float, out: list[WorkerEffect]) -> None:
        """Give up what is late, and try again for whoever lacks room."""
        if now >= self.due_s:
            for incoming in [i for i in self._open.values() if i.due_s <= now]:
                self._cancel(incoming, "late", now, out)
            self.due_s = min((i.due_s for i in self._open.values()), default=inf)
        if self._short:
            self._reserve(out)

    def give_up_latest(self, now: float, out: list[WorkerEffect]) -> bool:
        """Memory is short: end the hand-off that came last. False where none is, or blocks are coming back anyway."""
        last = last_in_line(incoming.sequence for incoming in self._open.values())
        if last is None or len(self._quarantine):
            return False
        self._cancel(self._by_sequence[last.number], "memory", now, out)
        return True

    # --- one hand-off ---

    def _submit(self, incoming: Incoming) -> Submit:
        s = incoming.sequence
        asked = s.submit
        return Submit(
            handle=incoming.handle,
            request_id=asked.request_id,
            choice=asked.choice,
            attempt=asked.attempt,
            prompt=bytes(s.history[:-TOKEN_BYTES]),
            output=b"",
            sampling=Sampling(temperature=0.0),
            stopping=Stopping(max_tokens=0),
            tenant=asked.tenant,
            salt=asked.salt,
            priority=asked.priority,
            budget_s=None,
            output_hint=None,
            number=incoming.handle,
            push=Push(self._card.layout, incoming.start, incoming.remote.compute),
            trace=asked.trace,
        )

    def _granted(self, granted: Granted, now: float, out: list[WorkerEffect]) -> None:
        incoming = self._open.get(granted.handle)
        if incoming is None or incoming.stage is not Stage.ASKED:
            return
        incoming.move("grant")
        s = incoming.sequence
        s.cached_tokens = max(s.cached_tokens, min(granted.cached, s.known - 1))
        incoming.until = min(granted.until, s.known - 1)
        if incoming.until <= incoming.start:
            self._close(incoming, "", now, out)
            return
        self._expect(incoming, now)
        self._reserve(out)

    def _reserve(self, out: list[WorkerEffect]) -> None:
        """Give writers room, the oldest hand-off first: no later one takes what it lacks."""
        size, self._short = self._booking.block_size, False
        for incoming in self._open.values():
            if incoming.stage is not Stage.GRANTED or not (missing := incoming.missing(size)):
                continue
            blocks = self._batch.reserve(min(missing, self._batch.room()))
            if blocks:
                first = incoming.first + len(incoming.blocks)
                incoming.blocks += blocks
                out.append(ToWorkerEffect(incoming.remote.worker, Reserve(incoming.handle, first, list(blocks))))
            if len(blocks) < missing:
                self._short = True
                return

    def _pushed(self, pushed: Pushed, now: float, out: list[WorkerEffect]) -> None:
        incoming = self._open.get(pushed.handle)
        if incoming is None or incoming.stage is not Stage.GRANTED:
            return
        s, size = incoming.sequence, self._booking.block_size
        tokens = min(pushed.tokens, incoming.until)
        if tokens <= s.scheduled or (tokens % size and tokens < incoming.until):
            return  # a duplicate, or no whole block
        if self._booking.blocks_for(tokens) > incoming.first + len(incoming.blocks):
            self._cancel(incoming, "refused", now, out)  # it claims to have written what it was never given
            return
        arrived = incoming.commit(tokens, size)
        self._batch.land(s, arrived, tokens)
        if tokens >= incoming.until:
            self._close(incoming, "", now, out)
        else:
            self._expect(incoming, now)

    def _expect(self, incoming: Incoming, now: float) -> None:
        patience_s, expected_s = self._config.handoff_patience_s, incoming.remote.expected_s
        patience_s = max(patience_s, LATE_FACTOR * expected_s) if expected_s > 0 else UNKNOWN_FACTOR * patience_s
        incoming.due_s = now + patience_s
        self.due_s = min(self.due_s, incoming.due_s)

    def _cancel(self, incoming: Incoming, cause: str, now: float, out: list[WorkerEffect]) -> None:
        out.append(ToWorkerEffect(incoming.remote.worker, Cancel([incoming.handle])))
        self._close(incoming, cause, now, out)

    def _close(self, incoming: Incoming, cause: str, now: float, out: list[WorkerEffect]) -> None:
        """It is over: what came stays, what is still reserved waits for the writer's last word."""
        incoming.move("close")
        s = incoming.sequence
        del self._open[incoming.handle], self._by_sequence[s.number]
        if cause == "cancelled":
            out.append(ToWorkerEffect(incoming.remote.worker, Cancel([incoming.handle])))
        self._quarantine.put(incoming.remote.worker, incoming.handle, incoming.blocks)
        if s.number in self._batch.arriving:
            self._batch.arrive(s)
        out.append(Note(_reported(incoming, cause, now)))

    def _give_back(self, handle: Handle) -> None:
        blocks = self._quarantine.take(handle)
        self._batch.unreserve(blocks)

    def reserved(self) -> Iterator[list[BlockIndex]]:
        """Iterate over the blocks that writers may still touch; `check` counts them."""
        yield from (incoming.blocks for incoming in self._open.values())
        yield from self._quarantine.everything()

    def __len__(self) -> int:
        """Return the number of hand-offs that are open."""
        return len(self._open)

    def check(self) -> None:
        """Assert that every open hand-off has its sequence, and that none is due before `due_s`."""
        assert {i.sequence.number for i in self._open.values()} == self._by_sequence.keys()
        assert all(self._by_sequence[n].sequence.number == n for n in self._by_sequence)
        assert all(i.stage is not Stage.CLOSED and i.due_s >= self.due_s for i in self._open.values())
        assert all(i.first == len(i.sequence.blocks) for i in self._open.values())


def _reported(incoming: Incoming, cause: str, now: float) -> HandedOff:
    s, remote = incoming.sequence, incoming.remote
    return HandedOff(
        request_id=s.submit.request_id,
        choice=s.submit.choice,
        worker=remote.worker,
        compute=remote.compute,
        tokens=incoming.done_tokens,
        blocks=incoming.arrived,
        wanted=s.known - 1 - incoming.start,
        cause=cause,
        elapsed_s=now - incoming.asked_s,
    )
