"""Checksums of blocks and of records: whether bytes that left memory are still those that were meant.

A block's checksum is seeded with what the data claims to be (its id, its generation or header), so data that is whole
but somebody else's does not match either. xxh3: faster than copying the data; it finds accidents and mix-ups, it is not
keyed and no defence against who may write the files or the bucket.
"""

import hashlib

import msgspec
import xxhash

from jedlik.core.ids import BlockId
from jedlik.core.protocol import Layout

CHECKSUM_BYTES = 16
FINGERPRINT_BYTES = 16
FORMAT = 1
"""The version of what a block's bytes mean; raised when blocks of an older release must not be read."""

Bytes = bytes | bytearray | memoryview


def data_checksum(data: Bytes, claim: bytes) -> bytes:
    """Return the checksum, 16 bytes, of data as what it claims to be."""
    return xxhash.xxh3_128_digest(data, xxhash.xxh3_64_intdigest(claim))


def slot_checksum(data: Bytes, block: BlockId, generation: int) -> bytes:
    """Return the checksum of a block's data in a slot that was written as number `generation`."""
    return data_checksum(data, block + generation.to_bytes(8, "little"))


def record_check(record: Bytes, epoch: int) -> int:
    """Return the checksum, 64 bits, of a record in the file of an epoch: another file's record does not match."""
    return xxhash.xxh3_64_intdigest(record, epoch)


def fingerprint(layout: Layout, revision: str, hash_check: str) -> bytes:
    """Return 16 bytes that are equal where blocks of the same id hold the same bytes (layout, model, cluster key)."""
    meaning = msgspec.msgpack.encode((FORMAT, layout, revision, hash_check))
    return hashlib.blake2b(meaning, digest_size=FINGERPRINT_BYTES).digest()
