"""The object tier: blocks in a bucket that hosts share, each an object of its own, verified when it is read.

What is not there, damaged, or another block's is a miss with its cause. Nothing is ever deleted here: that is for the
bucket's lifecycle rules. Whoever may write the bucket can serve KV to everybody who reads it; checksums are no defence.
"""

import os
import re
import struct
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jedlik.core.errors import ConfigError
from jedlik.core.ids import BlockId
from jedlik.core.moves import Cause, StoredRun, Tier
from jedlik.transfer.checksum import CHECKSUM_BYTES, Bytes, data_checksum
from jedlik.transfer.parallel import Parallel
from jedlik.transfer.private import private_folder
from jedlik.transfer.slots import chained
from jedlik.transfer.store import Buffer, Done, Stop

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Bucket

DEPTH = 16
TIMEOUT_S = 5.0
MOST_LISTED = 200_000
"""The number of blocks that `open` lists; this worker knows no further blocks until it writes them itself."""
LONGEST_LISTING_S = 10.0
"""The time limit of the listing, one page of 1000 more or less."""
_PAGE = 1000
VERSION = 1
_MAGIC = b"jedlikOB"
_ROOT = "root"
_CLAIM = struct.Struct("<8sIIQ16s16s")
HEADER_BYTES = _CLAIM.size + CHECKSUM_BYTES
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_RETRIES = 2


def object_store(url: str, block_bytes: int, fingerprint: bytes) -> "ObjectStore":
    """Return the store of a URL as in the configuration (kv_object). Raises ConfigError."""
    return ObjectStore(open_bucket(url, TIMEOUT_S), block_bytes, fingerprint)


class ObjectStore:
    """A `BlockStore` in a bucket, among others' objects. One call has `depth` requests under way at a time."""

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
        """Notices for the operator about how `open` went, in sentences."""
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
                f"kv_object: can't list {self._bucket!r}: {describe(error)}; check the bucket's name, the region "
                "(AWS_REGION), the endpoint (AWS_ENDPOINT_URL) and the credentials"
            ) from None
        self._parents = found
        self._parallel = Parallel(self._depth, "object")
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

        return self._parallel.run(len(ids), put, stop)

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

        return self._parallel.run(len(ids), get, stop)

    def close(self) -> None:
        self._parallel.close()

    def _check(self, ids: Sequence[BlockId], buffers: Sequence[Buffer]) -> None:
        if len(ids) != len(buffers) or any(buffer.nbytes != self._block_bytes for buffer in buffers):
            raise ValueError(f"{len(ids)} ids, {len(buffers)} buffers, or one is not {self._block_bytes} bytes")

    def _parent_of(self, block: BlockId) -> BlockId | None:
        """Return a block's parent, which its object's name has. Raises FileNotFoundError and the bucket's errors."""
        with self._lock:
            if block in self._parents:
                return self._parents[block]
        found, _ = self._listed(f"{self._folder}/{block.hex()}", 1)
        if block not in found:
            raise FileNotFoundError(block.hex())
        self._remember(block, found[block])
        return found[block]

    def _remember(self, block: BlockId, parent: BlockId | None) -> None:
        """Note a block's parent. The one known longest is forgotten, and asked for when it is needed."""
        with self._lock:
            self._parents[block] = parent
            if len(self._parents) > self._most:
                del self._parents[next(iter(self._parents))]

    def _listed(self, prefix: str, most: int) -> tuple[dict[BlockId, BlockId | None], bool]:
        """Return blocks and their parents, and whether nothing was omitted."""
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


def folder_of(fingerprint: bytes) -> str:
    """Return the folder of all blocks of one kind."""
    return f"jedlik-kv-{VERSION}-{fingerprint.hex()}"


def key_of(folder: str, block: BlockId, parent: BlockId | None) -> str:
    """Return the name of a block's object."""
    return f"{folder}/{block.hex()}/{_ROOT if parent is None else parent.hex()}"


def read_key(key: str) -> tuple[BlockId, BlockId | None] | None:
    """Return the block and the parent that an object's name holds in its last two parts; None: it names no block."""
    parts = key.split("/")[-2:]
    try:
        block, parent = bytes.fromhex(parts[0]), None if parts[-1] == _ROOT else bytes.fromhex(parts[-1])
    except ValueError:
        return None
    if len(parts) != 2 or len(block) != 16 or (parent is not None and len(parent) != 16):
        return None
    return BlockId(block), None if parent is None else BlockId(parent)


def pack(block: BlockId, parent: BlockId | None, data: Bytes) -> bytes:
    """Return the object that holds a block."""
    claim = _claim(block, parent, len(data))
    return b"".join((claim, data_checksum(data, claim), data))


def unpack_into(found: memoryview, block: BlockId, parent: BlockId | None, buffer: memoryview) -> Cause:
    """Copy an object's data to the buffer if the object is this block and as long as the buffer; else say why not."""
    if len(found) != HEADER_BYTES + buffer.nbytes:
        return "corrupt"
    claim, checksum, data = found[: _CLAIM.size], found[_CLAIM.size : HEADER_BYTES], found[HEADER_BYTES:]
    if data_checksum(data, bytes(claim)) != checksum:
        return "corrupt"
    if claim != _claim(block, parent, buffer.nbytes):
        return "stale"
    buffer[:] = data
    return ""


def _claim(block: BlockId, parent: BlockId | None, size: int) -> bytes:
    return _CLAIM.pack(_MAGIC, VERSION, 0 if parent is None else 1, size, block, parent or bytes(16))


def open_bucket(url: str, timeout_s: float) -> "Bucket":
    """Open s3://bucket/prefix, file:///path, or memory:/// (this process' own). No server is asked anything yet.

    No request takes longer than `timeout_s`, or twice that with its repetitions. Raises ConfigError.
    """
    try:
        from obstore import store
    except ImportError as error:
        raise ConfigError("object storage needs an extra package: pip install 'jedlik[object]'") from error
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise ConfigError("kv_object: no credentials or options in the URL; set AWS_ACCESS_KEY_ID and so on instead")
    if parts.scheme == "memory":
        return store.MemoryStore()
    if parts.scheme == "file":
        return store.LocalStore(_folder(url, parts.netloc, parts.path))
    if parts.scheme != "s3" or not parts.netloc:
        raise ConfigError(f"kv_object: {url} is neither s3://bucket/prefix nor file:///path")
    plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
    wait = timedelta(seconds=timeout_s)
    errors: tuple[type[Exception], ...] = (*bucket_errors(), ValueError)
    try:
        return store.S3Store.from_url(
            url,
            client_options={"timeout": wait, "connect_timeout": min(wait, timedelta(seconds=2)), "allow_http": plain},
            retry_config={"max_retries": _RETRIES, "retry_timeout": wait},
        )
    except errors as error:
        raise ConfigError(f"kv_object: {url}: {describe(error)}") from None


def _folder(url: str, host: str, path: str) -> Path:
    if host or not path.startswith("/") or path == "/":
        raise ConfigError(f"kv_object: {url} names no folder: write file:///path")
    folder = Path(path)
    return folder if folder.is_dir() else private_folder(folder)


def bucket_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that a bucket raises for what happens in the world."""
    from obstore.exceptions import BaseError

    return BaseError, OSError


def describe(error: Exception) -> str:
    """Return the kind of an error, and the HTTP status if there is one; never the server's message."""
    kind = {"GenericError": "no answer, or an error of the server"}.get(type(error).__name__, type(error).__name__)
    status = re.search(r"status[^0-9]{0,20}([45]\d\d)\b", str(error))
    return f"{kind} (HTTP {status[1]})" if status else kind


def cause_of(error: Exception) -> Cause:
    """Return the cause that a bucket's error stands for."""
    if isinstance(error, FileNotFoundError) or type(error).__name__ == "NotFoundError":
        return "missing"
    return "gone" if type(error).__name__ == "GenericError" else "failed"
