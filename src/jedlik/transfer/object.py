"""The object tier: blocks in a bucket that hosts share, each an object of its own, verified when it is read.

What is not there, damaged, or another block's is a miss with its cause. Nothing is ever deleted here: that is for the
bucket's lifecycle rules. Whoever may write the bucket can serve KV to everybody who reads it; checksums are no defence.
"""

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jedlik.core.errors import ConfigError
from jedlik.core.ids import BlockId
from jedlik.core.moves import Cause, StoredRun, Tier
from jedlik.transfer.abreast import Abreast
from jedlik.transfer.bucket import bucket_errors, cause_of, open_bucket, told
from jedlik.transfer.object_format import HEADER_BYTES, folder_of, key_of, pack, read_key, unpack_into
from jedlik.transfer.slots import chained
from jedlik.transfer.store import Buffer, Done, Stop

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Bucket

DEPTH = 16
TIMEOUT_S = 5.0
MOST_LISTED = 200_000
"""Blocks that `open` looks at: what a bucket holds beyond is not known to this worker until it writes it itself."""
LONGEST_LISTING_S = 10.0
"""Nor does it look for longer than this, a page of 1000 more or less."""
_PAGE = 1000


def object_store(url: str, block_bytes: int, fingerprint: bytes) -> "ObjectStore":
    """For a URL as in the configuration (kv_object). Raises ConfigError."""
    return ObjectStore(open_bucket(url, TIMEOUT_S), block_bytes, fingerprint)


class ObjectStore:
    """In a bucket, among others' objects. `depth` is how many requests one call has under way at a time."""

    kind: Tier = "object"

    def __init__(
        self,
        bucket: "Bucket",
        block_bytes: int,
        fingerprint: bytes,
        depth: int = DEPTH,
        most_listed: int = MOST_LISTED,
        longest_listing_s: float = LONGEST_LISTING_S,
    ) -> None:
        self.notes: list[str] = []
        """What the operator should know about how it went, in sentences."""
        self._bucket = bucket
        self._block_bytes = block_bytes
        self._folder = folder_of(fingerprint)
        self._depth = depth
        self._most = most_listed
        self._longest_s = longest_listing_s
        self._parents: dict[BlockId, BlockId | None] = {}
        self._lock = threading.Lock()
        self._errors = bucket_errors()

    def open(self) -> list[StoredRun]:
        try:
            found, all_of_them = self._listed(self._folder, self._most)
        except self._errors as error:
            raise ConfigError(
                f"kv_object: can't list {self._bucket!r}: {told(error)}; check the bucket's name, the region "
                "(AWS_REGION), the endpoint (AWS_ENDPOINT_URL) and the credentials"
            ) from None
        self._parents = found
        self._abreast = Abreast(self._depth, "object")
        if not all_of_them:
            self.notes.append(f"kv_object: {len(found)} blocks listed; there may be more in the bucket, not known here")
        return [StoredRun(found[run[0]], run, []) for run in chained(dict(sorted(found.items())))]

    def write(
        self,
        slots: Sequence[int],
        ids: Sequence[BlockId],
        parent: BlockId | None,
        buffers: Sequence[Buffer],
        stop: Stop,
    ) -> Done:
        import obstore

        self._check(ids, buffers)
        parents = [parent, *ids]

        def put(at: int) -> Cause:
            key, whole = key_of(self._folder, ids[at], parents[at]), pack(ids[at], parents[at], buffers[at])
            try:
                obstore.put(self._bucket, key, whole, use_multipart=False)
            except self._errors as error:
                return cause_of(error)
            self._remember(ids[at], parents[at])
            return ""

        return self._abreast.run(len(ids), put, stop)

    def read(self, slots: Sequence[int], ids: Sequence[BlockId], buffers: Sequence[Buffer], stop: Stop) -> Done:
        import obstore

        self._check(ids, buffers)

        def get(at: int) -> Cause:
            try:
                parent = ids[at - 1] if at else self._parent_of(ids[0])
                found = obstore.get(self._bucket, key_of(self._folder, ids[at], parent))
                if found.meta["size"] != HEADER_BYTES + self._block_bytes:
                    return "corrupt"  # and not read: it might be anything
                whole = memoryview(found.bytes())
            except self._errors as error:
                return cause_of(error)
            return unpack_into(whole, ids[at], parent, buffers[at])

        return self._abreast.run(len(ids), get, stop)

    def close(self) -> None:
        self._abreast.close()

    def _check(self, ids: Sequence[BlockId], buffers: Sequence[Buffer]) -> None:
        if len(ids) != len(buffers) or any(buffer.nbytes != self._block_bytes for buffer in buffers):
            raise ValueError(f"{len(ids)} ids, {len(buffers)} buffers, or one is not {self._block_bytes} bytes")

    def _parent_of(self, block: BlockId) -> BlockId | None:
        """What a name of an object needs beside its id. Raises FileNotFoundError and what the bucket raises."""
        with self._lock:
            if block in self._parents:
                return self._parents[block]
        found, _ = self._listed(f"{self._folder}/{block.hex()}", 1)
        if block not in found:
            raise FileNotFoundError(block.hex())
        self._remember(block, found[block])
        return found[block]

    def _remember(self, block: BlockId, parent: BlockId | None) -> None:
        """Bounded: the one known longest is forgotten, and asked for when it is needed."""
        with self._lock:
            self._parents[block] = parent
            if len(self._parents) > self._most:
                del self._parents[next(iter(self._parents))]

    def _listed(self, prefix: str, most: int) -> tuple[dict[BlockId, BlockId | None], bool]:
        """Blocks and their parents, and whether nothing was left out."""
        import obstore

        found: dict[BlockId, BlockId | None] = {}
        until = time.monotonic() + self._longest_s
        for page in obstore.list(self._bucket, prefix, chunk_size=_PAGE):
            if found and time.monotonic() > until:
                return found, False
            for meta in page:
                names = read_key(meta["path"])
                whole = meta["size"] == HEADER_BYTES + self._block_bytes
                if names is not None and whole:
                    found[names[0]] = names[1]
                if len(found) == most:
                    return found, False
        return found, True
