"""Names of blocks, computed once for all nodes of a simulation: a name is a function, no matter who computed it.

A gateway names a prompt when it arrives and its worker when it is admitted: the second time the answer is handed over
and forgotten. Prompts that share a beginning share its names, segment by segment, as in every gateway.
"""

from collections import OrderedDict

from jedlik.core.ids import BlockId
from jedlik.core.tokens import TOKEN_BYTES
from jedlik.kv.hashing import ID_BYTES, BlockHasher
from jedlik.kv.naming import Naming
from jedlik.kv.pool import keys_of
from jedlik.kv.prefix_chains import ChainCache

SEGMENT_BYTES = 256 << 20
WAITING_BYTES = 128 << 20
"""Of prompts that were named by a gateway and not yet by a worker."""


class SharedNaming(Naming):
    """Of a simulated cluster: the same names object for everybody."""

    def __init__(self, cluster_key: bytes, revision: str, block_size: int) -> None:
        super().__init__(cluster_key)
        self.names = SharedNames(BlockHasher(cluster_key, revision, block_size))

    def chains(self, revision: str, block_size: int) -> ChainCache:
        return self.names


class SharedNames(ChainCache):
    """What gateways and workers of one model ask."""

    def __init__(self, hasher: BlockHasher) -> None:
        super().__init__(hasher, SEGMENT_BYTES)
        self.block_size = hasher.block_size
        self._waiting: OrderedDict[tuple[BlockId, bytes], list[BlockId]] = OrderedDict()
        self._waiting_bytes = 0

    def keys(self, packed: bytes, tenant: str = "", salt: str = "") -> list[int]:
        root = self.root(tenant, salt)
        ids = self._waiting.get((root, packed))
        if ids is None:
            ids = self._named(root, packed)
            self._waiting[root, packed] = ids
            self._waiting_bytes += len(packed)
            while self._waiting_bytes > WAITING_BYTES:
                (_, oldest), _ = self._waiting.popitem(last=False)
                self._waiting_bytes -= len(oldest)
        return keys_of(ids)

    def chain(self, parent: BlockId, packed: bytes) -> list[BlockId]:
        """Identities of the full blocks in `packed`, which follow `parent`."""
        ids = self._waiting.pop((parent, packed), None)
        if ids is None:
            return self._named(parent, packed)
        self._waiting_bytes -= len(packed)
        return ids

    def _named(self, parent: BlockId, packed: bytes) -> list[BlockId]:
        if len(packed) < self.block_size * TOKEN_BYTES:
            return []
        joined = self._identities(parent, packed)
        return [BlockId(joined[at : at + ID_BYTES]) for at in range(0, len(joined), ID_BYTES)]
