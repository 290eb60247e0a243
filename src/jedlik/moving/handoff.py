"""Hand-offs from prefill to decode, as each side sees one: what has been asked, granted, reserved, pushed, committed.

A hand-off is a ticket. The side that decodes reserves blocks only once the other has begun, commits what has arrived in
order, and never re-uses what may still be written: such blocks wait in `Quarantine` for the writer's word, or for the
certainty that there is no writer. Records and arithmetic; `nodes/worker_incoming` and `worker_outgoing` compose them.
"""

from enum import Enum
from typing import Generic, Protocol, TypeVar

from jedlik.core.errors import Bug
from jedlik.core.ids import BlockIndex, Handle, WorkerId
from jedlik.core.protocol import Remote, Submit


class Computed(Protocol):
    """What a hand-off asks of a sequence; lengths in tokens."""

    submit: Submit
    known: int
    scheduled: int
    computed: int
    """Whose KV is there for certain."""
    blocks: list[BlockIndex]


S = TypeVar("S", bound=Computed)


class Stage(Enum):
    ASKED = "asked"
    GRANTED = "granted"
    CLOSED = "closed"


STEPS: dict[tuple[Stage, str], Stage] = {
    (Stage.ASKED, "grant"): Stage.GRANTED,
    (Stage.ASKED, "close"): Stage.CLOSED,
    (Stage.GRANTED, "close"): Stage.CLOSED,
}


class Incoming(Generic[S]):
    """At the side that decodes: a sequence whose blocks another worker sends.

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

    def __init__(self, sequence: S, remote: Remote, handle: Handle, now: float) -> None:
        self.sequence, self.remote, self.handle = sequence, remote, handle
        self.stage = Stage.ASKED
        self.start = self.until = sequence.scheduled
        self.first = len(sequence.blocks)
        self.blocks: list[BlockIndex] = []
        self.arrived = 0
        """Blocks."""
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
        """That came from the other worker."""
        return max(0, self.sequence.scheduled - self.start)


class Outgoing(Generic[S]):
    """At the side that prefills: a sequence whose blocks go to the asker.

    `slots` are blocks of the asker's, for the history's blocks from `first` on.
    """

    __slots__ = ("first", "granted", "moving", "pushed", "sequence", "slots", "until")

    def __init__(self, sequence: S, block_size: int) -> None:
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
        """What waits for a word of this worker."""
        return [handle for handle, (writer, _) in self._blocks.items() if writer == worker]

    def everything(self) -> list[list[BlockIndex]]:
        return [blocks for _, blocks in self._blocks.values()]
