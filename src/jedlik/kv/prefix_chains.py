"""Names of prompts' blocks, with the chains of prompts seen before kept: a shared prefix is hashed once.

A prompt is cut into segments of 16 blocks. What a segment's blocks are called depends on the name before them and on
its tokens, and both together, as bytes, are what it is looked up by: a collision of hashes costs a comparison, never a
wrong name. Least recently used segments go when the budget is full.
"""

from collections import OrderedDict

from jedlik.core.ids import BlockId
from jedlik.core.tokens import TOKEN_BYTES
from jedlik.kv.hashing import ID_BYTES, BlockHasher, hash_check, keys_of

SEGMENT_BLOCKS = 16
SEGMENT_EXTRA_BYTES = 250
"""Objects and table entries of one segment, beside its bytes."""
CHAIN_BYTES = 16 << 20
"""Budget, for each model revision and block size, of the names of blocks of prompts seen before."""
MAX_ROOTS = 1024
MAX_ROOT_NAMES = 256
"""Longer (tenant, salt) are not kept: clients choose salts."""


class ChainCache:
    """One hasher's chains. Pure but for its memory: the answers are the hasher's."""

    def __init__(self, hasher: BlockHasher, budget_bytes: int) -> None:
        self._hasher = hasher
        self._budget_bytes = budget_bytes
        self._segment = SEGMENT_BLOCKS * hasher.block_size * TOKEN_BYTES
        self._names: OrderedDict[bytes, bytes] = OrderedDict()
        """By parent and tokens: the identities of a segment's blocks, joined."""
        self._cost = ID_BYTES + self._segment + SEGMENT_BLOCKS * ID_BYTES + SEGMENT_EXTRA_BYTES
        self._roots: OrderedDict[tuple[str, str], BlockId] = OrderedDict()

    def __len__(self) -> int:
        """Segments kept."""
        return len(self._names)

    def size_bytes(self) -> int:
        """Memory of the segments kept."""
        return len(self._names) * self._cost

    def keys(self, packed: bytes, tenant: str = "", salt: str = "") -> list[int]:
        """Keys of the full blocks of a prompt: the low halves of their identities, cut out in one go."""
        return keys_of(self._identities(self.root(tenant, salt), packed))

    def _identities(self, parent: BlockId, packed: bytes) -> bytes:
        names, size, segments, at = self._names, self._segment, [], 0
        while at + size <= len(packed):
            asked = parent + packed[at : at + size]
            found = names.get(asked)
            if found is None:
                found = names[asked] = b"".join(self._hasher.chain(parent, packed[at : at + size]))
            else:
                names.move_to_end(asked)
            segments.append(found)
            parent = BlockId(found[-ID_BYTES:])
            at += size
        while len(names) * self._cost > self._budget_bytes:
            names.popitem(last=False)
        segments += self._hasher.chain(parent, packed[at:])
        return b"".join(segments)

    def root(self, tenant: str, salt: str = "") -> BlockId:
        """The parent of every first block."""
        root = self._roots.get((tenant, salt))
        if root is None:
            root = self._hasher.root(tenant, salt)
            if len(tenant) + len(salt) <= MAX_ROOT_NAMES:
                self._roots[tenant, salt] = root
                if len(self._roots) > MAX_ROOTS:
                    self._roots.popitem(last=False)
        return root


class Naming:
    """A cluster's way to identify blocks. A worker whose card has another `check` must not be used."""

    def __init__(self, cluster_key: bytes) -> None:
        self._key = cluster_key
        self.check = hash_check(cluster_key)

    def chains(self, revision: str, block_size: int) -> ChainCache:
        """Return a new cache of chains for one group of workers; called once for each group."""
        return ChainCache(BlockHasher(self._key, revision, block_size), CHAIN_BYTES)
