"""Blocks for sequences: what the cache already holds of a history, room for what is computed next, publication.

Promises: a sequence adopts only an unbroken chain of full blocks, always leaves its last token to compute, and
publishes in chain order. Where two sequences compute the same content at the same time the first publishes and the
second keeps a private block; from there on the second publishes nothing (its chain in the cache is not its own).
"""

from jedlik.core.ids import BlockIndex
from jedlik.core.tokens import TOKEN_BYTES
from jedlik.kv.hashing import Names
from jedlik.kv.pool import BlockPool
from jedlik.perf.step import chunk_pairs
from jedlik.scheduling.sequence import NEVER, HistoryMatch, Sequence


class SequenceBlocks:
    """Between sequences and one pool."""

    def __init__(self, pool: BlockPool, hasher: Names) -> None:
        self.pool = pool
        self.block_size = hasher.block_size
        self._hasher = hasher

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def match(self, sequence: Sequence) -> HistoryMatch:
        """Return what the pool has of a sequence's history; it is looked up once for each state of the pool."""
        last, adoptable, version = sequence.match, (sequence.known - 1) // self.block_size, self.pool.version
        if last is not None and last.version == version and len(last.ids) == adoptable:
            return last
        self._name(sequence)
        ids = sequence.block_ids[:adoptable]
        sequence.match = HistoryMatch(ids, *self.pool.match(ids), version)
        return sequence.match

    def sound(self, sequence: Sequence) -> bool:
        """Return whether a sequence's last match, if it still counts, is what the pool says now."""
        last = sequence.match
        if last is None or last.version != self.pool.version:
            return True
        return self.pool.match(last.ids) == (last.found, last.in_use)

    def demand(self, sequence: Sequence) -> int:
        """Return how many available blocks admission takes: cached ones that it would hold count, shared ones don't."""
        shared = 0 if sequence.reads_prompt else self.match(sequence).in_use
        return self.blocks_for(sequence.known + 1) - max(shared, len(sequence.blocks))

    def estimate(self, sequence: Sequence) -> None:
        """Set what it would have to compute if it were admitted now."""
        cached = 0 if sequence.reads_prompt else self.match(sequence).found * self.block_size
        cached = max(cached, sequence.scheduled)
        sequence.missing = sequence.known - cached
        sequence.missing_pairs = chunk_pairs(cached, sequence.missing)

    def open(self, sequence: Sequence) -> None:
        """Begin a sequence's accounting: its full blocks are published from the first on."""
        sequence.match = None
        if not sequence.blocks:
            sequence.publish_at = self.block_size

    def land(self, sequence: Sequence, blocks: list[BlockIndex], tokens: int) -> None:
        """Blocks have arrived and are its own: they hold the KV of its history up to `tokens`."""
        sequence.blocks += blocks
        sequence.scheduled = sequence.computed = tokens
        self.publish(sequence)

    def trim(self, sequence: Sequence) -> None:
        """Let go of what nobody else can use: the blocks without a name."""
        self.pool.release(None, sequence.blocks[sequence.published :])
        del sequence.blocks[sequence.published :]

    def adopt(self, sequence: Sequence) -> int:
        """Share the blocks that follow in its history, as far as they are cached. Returns tokens gained."""
        size, before = self.block_size, sequence.scheduled
        if before % size or sequence.publish_at == NEVER or sequence.reads_prompt:
            return 0
        held_blocks = len(sequence.blocks)
        if held_blocks * size != before or held_blocks != sequence.published:
            return 0
        self._name(sequence)
        ids = sequence.block_ids[held_blocks : (sequence.known - 1) // size]
        if not ids:
            return 0
        sequence.run, shared = self.pool.share(sequence.run, ids)
        sequence.blocks += shared
        sequence.published = len(sequence.blocks)
        sequence.scheduled = sequence.published * size
        sequence.publish_at = sequence.scheduled + size
        return sequence.scheduled - before

    def grow(self, sequence: Sequence, tokens: int) -> int:
        """Give its table room for `tokens` of history, or for as many as there are blocks. Returns the room."""
        missing = self.blocks_for(tokens) - len(sequence.blocks)
        if missing > 0:
            taken = self.pool.take(min(missing, self.pool.available_blocks))
            if taken:
                sequence.blocks += taken
        return len(sequence.blocks) * self.block_size

    def publish(self, sequence: Sequence) -> None:
        """Publish full blocks whose tokens are known and whose KV is scheduled."""
        limit = min(sequence.known, sequence.scheduled)
        if sequence.publish_at > limit:
            return
        self._name(sequence)
        start, end = sequence.published, limit // self.block_size
        run = self.pool.publish(sequence.run, sequence.block_ids[start:end], sequence.blocks[start:end])
        if run is None:
            sequence.publish_at = NEVER
            return
        sequence.run, sequence.published = run, end
        sequence.publish_at = (end + 1) * self.block_size

    def release(self, sequence: Sequence) -> None:
        """Let go of everything it holds."""
        self.pool.release(sequence.run, sequence.blocks[sequence.published :])
        sequence.blocks, sequence.run, sequence.published = [], None, 0

    def _name(self, sequence: Sequence) -> None:
        """Hash the full blocks of its history that have no name yet."""
        ids, size = sequence.block_ids, self.block_size * TOKEN_BYTES
        named = len(ids) * size
        if named + size <= len(sequence.history):
            prompt, history = sequence.submit.prompt, sequence.history
            if not ids and len(prompt) == len(history):
                ids.extend(self._hasher.chain(sequence.root, prompt))  # the very bytes its gateway named
            else:
                parent = ids[-1] if ids else sequence.root
                ids.extend(self._hasher.chain(parent, bytes(history[named:])))
