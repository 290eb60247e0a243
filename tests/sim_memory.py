"""What every block in a simulation really holds: read, moved and overwritten as memory is, and checked at each read.

A block's content is the history it was computed from: the name of the block before it and its own tokens. A step must
find its lane's own history in its table; a move must find at its end what was there at its beginning, under the right
names, and may write its target at any moment between the two. For simulations that go step by step.
"""

from collections.abc import Sequence

from xxhash import xxh3_128_digest

from jedlik.core.ids import BlockId, Lane, WorkerId
from jedlik.core.moves import Location, Move
from jedlik.core.protocol import Card
from jedlik.core.step import Step, StepDone
from jedlik.core.tokens import TOKEN_BYTES, pack
from jedlik.kv.hashing import BlockHasher
from jedlik.sim.slots import KEY

Content = tuple[bytes, bytes]
"""(name of the block before, tokens)"""


class History:
    """A lane's tokens and table."""

    def __init__(self, packed: bytes, root: bytes, size_bytes: int) -> None:
        self.tokens, self._names, self._size = bytearray(packed), [root], size_bytes
        self.table: list[int] = []

    def content(self, block: int, end: int) -> Content:
        """What a block of the table must hold when the first `end` tokens have been computed."""
        size, names = self._size, self._names
        while len(names) <= block:
            at = (len(names) - 1) * size
            names.append(xxh3_128_digest(names[-1] + self.tokens[at : at + size]))
        return names[block], bytes(self.tokens[block * size : min((block + 1) * size, end * TOKEN_BYTES)])


class Memory:
    """Fulfils `sim/carrier.Witness`. Raises AssertionError where something wrong is read or moved."""

    def __init__(self, revision: str, block_size: int) -> None:
        self._root: bytes = BlockHasher(KEY, revision, block_size).root("", "")
        self._size, self._block_size = block_size * TOKEN_BYTES, block_size
        self._held: dict[tuple[str, str], dict[int, Content]] = {}
        self._lanes: dict[WorkerId, dict[Lane, History]] = {}
        self._objects: dict[BlockId, Content] = {}
        self._under_way: dict[tuple[WorkerId, int], list[Content]] = {}
        self.read_blocks = self.moved_blocks = 0
        self.computed_tokens: dict[WorkerId, int] = {}

    def started(self, card: Card) -> None:
        self._lanes[card.worker] = {}
        self.computed_tokens[card.worker] = 0

    def stepped(self, worker: WorkerId, step: Step, done: StepDone) -> None:
        assert step.repeat == 1, "what a leap writes is not said block by block: go step by step"
        lanes = self._lanes[worker]
        for lane in step.closed:
            del lanes[lane]
        for opened in step.opened:
            lanes[opened.lane] = History(opened.prompt + opened.output, self._root, self._size)
        for lane, blocks in step.tables:
            lanes[lane].table += blocks
        parts = [(lanes[chunk.lane], chunk.start, chunk.start + chunk.length) for chunk in step.prefills]
        for history in (lanes[lane] for lane in step.decodes):
            length = len(history.tokens) // TOKEN_BYTES
            parts.append((history, length - 1, length))
        for part in parts:
            self._write(worker, *part)
        for history, start, end in parts:
            self.computed_tokens[worker] += end - start
            self._read(worker, history, end)
        for lane, token in zip(done.lanes, done.tokens, strict=True):
            lanes[lane].tokens += pack([token])

    def _write(self, worker: WorkerId, history: History, start: int, end: int) -> None:
        memory, size = self._memory(worker, "device"), self._block_size
        for at in range(start // size, -(-end // size)):
            block, (parent, tokens) = history.table[at], history.content(at, end)
            before = max(0, start - at * size) * TOKEN_BYTES
            if before:
                held = memory.get(block)
                assert held is not None, f"{worker}: block {block} is written on, but holds nothing whole"
                assert (held[0], held[1][:before]) == (parent, tokens[:before]), f"{worker}: block {block} is another's"
            memory[block] = parent, tokens

    def _read(self, worker: WorkerId, history: History, end: int) -> None:
        memory, size = self._memory(worker, "device"), self._block_size
        for at in range(-(-end // size)):
            held, wanted = memory.get(history.table[at]), history.content(at, end)
            self.read_blocks += 1
            same = held is not None and held[0] == wanted[0] and held[1].startswith(wanted[1])
            assert same, f"{worker}: block {history.table[at]} (number {at} of a history) does not hold what is read"

    def begun(self, worker: WorkerId, move: Move) -> None:
        self._under_way[worker, move.number] = self._source(worker, move)
        target = self._place(worker, move.target)
        for block in move.target_blocks:
            target.pop(block, None)

    def landed(self, worker: WorkerId, move: Move, blocks: int) -> None:
        contents = self._source(worker, move)
        assert contents == self._under_way.pop((worker, move.number)), f"{worker}: changed while it was moved: {move}"
        target = self._place(worker, move.target)
        for at, content in enumerate(contents[:blocks]):
            if move.ids:
                assert len(content[1]) == self._size
                assert xxh3_128_digest(b"".join(content)) == move.ids[at], f"{worker}: moved under a wrong name"
            if move.target.tier == "object":
                self._objects[move.ids[at]] = content
            else:
                target[move.target_blocks[at]] = content
            self.moved_blocks += 1

    def _source(self, worker: WorkerId, move: Move) -> list[Content]:
        if move.source.tier == "object":
            return [self._objects[name] for name in move.ids]
        return self._contents(worker, move.source, move.source_blocks)

    def _contents(self, worker: WorkerId, place: Location, blocks: Sequence[int]) -> list[Content]:
        memory = self._place(worker, place)
        missing = [block for block in blocks if block not in memory]
        assert not missing, f"{worker}: blocks {missing} of {place} are moved, but hold nothing whole"
        return [memory[block] for block in blocks]

    def _place(self, worker: WorkerId, place: Location) -> dict[int, Content]:
        return self._memory(place.worker or worker, place.tier)

    def _memory(self, worker: WorkerId, tier: str) -> dict[int, Content]:
        """A disk is there again when a worker of the same name starts."""
        owner = worker.partition("@")[0] if tier == "disk" else worker
        return self._held.setdefault((owner, tier), {})
