"""The object tier's formats: how an object is named, and what stands before its data. Pure.

A name holds the block's id and its parent's, so a listing alone tells chains. Names are content identities under one
cluster key and fingerprint: hosts that share both may share a bucket, and need not know each other.
"""

import struct

from jedlik.core.ids import BlockId
from jedlik.core.moves import Cause
from jedlik.transfer.checksum import CHECKSUM_BYTES, Bytes, data_checksum

VERSION = 1
_MAGIC = b"jedlikOB"
_ROOT = "root"
_SAID = struct.Struct("<8sIIQ16s16s")
HEADER_BYTES = _SAID.size + CHECKSUM_BYTES


def folder_of(fingerprint: bytes) -> str:
    """Where all blocks of one kind are."""
    return f"jedlik-kv-{VERSION}-{fingerprint.hex()}"


def key_of(folder: str, block: BlockId, parent: BlockId | None) -> str:
    return f"{folder}/{block.hex()}/{_ROOT if parent is None else parent.hex()}"


def read_key(key: str) -> tuple[BlockId, BlockId | None] | None:
    """A block and its parent; None: this names no block. Whatever precedes the last two parts does not matter."""
    parts = key.split("/")[-2:]
    try:
        block, parent = bytes.fromhex(parts[0]), None if parts[-1] == _ROOT else bytes.fromhex(parts[-1])
    except ValueError:
        return None
    if len(parts) != 2 or len(block) != 16 or (parent is not None and len(parent) != 16):
        return None
    return BlockId(block), None if parent is None else BlockId(parent)


def pack(block: BlockId, parent: BlockId | None, data: Bytes) -> bytes:
    """The whole object."""
    said = _said(block, parent, len(data))
    return b"".join((said, data_checksum(data, said), data))


def unpack_into(found: memoryview, block: BlockId, parent: BlockId | None, buffer: memoryview) -> Cause:
    """Verifies that the object is `block`, as long as `buffer`, and copies it there; nothing where it is not."""
    if len(found) != HEADER_BYTES + buffer.nbytes:
        return "corrupt"
    said, checksum, data = found[: _SAID.size], found[_SAID.size : HEADER_BYTES], found[HEADER_BYTES:]
    if data_checksum(data, bytes(said)) != checksum:
        return "corrupt"
    if said != _said(block, parent, buffer.nbytes):
        return "stale"
    buffer[:] = data
    return ""


def _said(block: BlockId, parent: BlockId | None, size: int) -> bytes:
    return _SAID.pack(_MAGIC, VERSION, 0 if parent is None else 1, size, block, parent or bytes(16))
