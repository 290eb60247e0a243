"""How a cluster names blocks: its key, as gateways need it. What names prompts is handed to them, not made there."""

from jedlik.kv.hashing import BlockHasher, hash_check
from jedlik.kv.prefix_chains import ChainCache

CHAIN_BYTES = 16 << 20
"""Budget, for each model revision and block size, of the names of blocks of prompts seen before."""


class Naming:
    """Of one cluster key. `check` is what workers must show to be understood."""

    def __init__(self, cluster_key: bytes) -> None:
        self._key = cluster_key
        self.check = hash_check(cluster_key)

    def chains(self, revision: str, block_size: int) -> ChainCache:
        """What names the prompts of one group of workers; called once for each group."""
        return ChainCache(BlockHasher(self._key, revision, block_size), CHAIN_BYTES)
