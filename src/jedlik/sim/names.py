"""Names of blocks, computed once for all nodes of a simulation: a name is a function, no matter who computed it.

A gateway names a prompt when it arrives and its worker when it is queued: the second time the answer is handed over
and forgotten. Prompts that share a beginning share its names, segment by segment, as in every gateway. Nobody guesses
names in a simulation, so they are chained with a fast hash in place of a keyed one.
"""

from collections import OrderedDict

from xxhash import xxh3_128_digest

from jedlik.core.ids import BlockId
from jedlik.core.tokens import TOKEN_BYTES
from jedlik.kv.hashing import BlockHasher, keys_of
from jedlik.kv.prefix_chains import SEGMENT_BLOCKS, ChainCache, Naming

SEGMENT_BYTES = 256 << 20
"""The memory of the names of prompts' segments."""
WAITING_BYTES = 128 << 20
"""The memory of prompts that were named by a gateway and not yet by a worker."""


class SharedNaming(Naming):
    """The naming of a simulated cluster: the same names object for everybody."""

    def __init__(self, cluster_key: bytes, revision: str, block_size: int) -> None:
        super().__init__(cluster_key)
        self.names = SharedNames(BlockHasher(cluster_key, revision, block_size))

    def chains(self, revision: str, block_size: int) -> ChainCache:
        return self.names


class SharedNames(ChainCache):
    """The names that gateways and workers of one model share."""

    def __init__(self, hasher: BlockHasher) -> None:
        super().__init__(hasher, 0)
        self.block_size = hasher.block_size
        self._bytes = hasher.block_size * TOKEN_BYTES
        self._segments: OrderedDict[tuple[BlockId, bytes], list[BlockId]] = OrderedDict()
        self._most_segments = SEGMENT_BYTES // (SEGMENT_BLOCKS * self._bytes)
        self._waiting: OrderedDict[tuple[BlockId, bytes], list[BlockId]] = OrderedDict()
        self._waiting_bytes = 0

    def keys(self, packed: bytes, tenant: str = "", salt: str = "") -> list[int]:
        root = self.root(tenant, salt)
        ids = self._waiting.get((root, packed))
        if ids is None:
            ids = self._waiting[root, packed] = self._named(root, packed)
            self._waiting_bytes += len(packed)
            while self._waiting_bytes > WAITING_BYTES:
                (_, oldest), _ = self._waiting.popitem(last=False)
                self._waiting_bytes -= len(oldest)
        return keys_of(b"".join(ids))

    def chain(self, parent: BlockId, packed: bytes) -> list[BlockId]:
        """Identities of the full blocks in `packed`, which follow `parent`."""
        ids = self._waiting.pop((parent, packed), None)
        if ids is None:
            return self._named(parent, packed)
        self._waiting_bytes -= len(packed)
        return ids

    def _named(self, parent: BlockId, packed: bytes) -> list[BlockId]:
        segments, size, at = self._segments, SEGMENT_BLOCKS * self._bytes, 0
        ids: list[BlockId] = []
        while at + size <= len(packed):
            asked = (parent, packed[at : at + size])
            found = segments.get(asked)
            if found is None:
                found = segments[asked] = self._hashed(*asked)
                if len(segments) > self._most_segments:
                    segments.popitem(last=False)
            ids += found
            parent = found[-1]
            at += size
        if at + self._bytes <= len(packed):
            ids += self._hashed(parent, packed[at:])
        return ids

    def _hashed(self, parent: BlockId, packed: bytes) -> list[BlockId]:
        ids, size = [], self._bytes
        for at in range(0, len(packed) - size + 1, size):
            parent = BlockId(xxh3_128_digest(parent + packed[at : at + size]))
            ids.append(parent)
        return ids
