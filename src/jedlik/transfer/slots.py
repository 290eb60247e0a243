"""The disk tier's formats, and what remains of a store after a crash: pure functions of the bytes found.

Two files begin with one `StoreHeader`: the slots themselves, and a log of `SlotRecord`s, one for each block that was
written or found bad. Every record stands for itself: its checksum shows torn and damaged ones, and among those of a
slot the highest generation counts, wherever it stands in the log.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from jedlik.core.ids import BlockId
from jedlik.core.moves import StoredRun
from jedlik.transfer.checksum import FINGERPRINT_BYTES, record_check

PAGE_BYTES = 4096
"""Sizes, offsets and addresses are multiples of this, as O_DIRECT requires."""
DATA_START = 64 << 10
"""The offset of slot 0 in its file; the header is before it."""
SPARE_RECORDS = 1024
"""A log is rewritten when it has this many records beyond two for each slot; the new one has at most one for each."""
VERSION = 1
_MAGIC = b"jedlikKV"
_HEADER = struct.Struct(f"<8sIIQ{FINGERPRINT_BYTES}sQQ")
_RECORD = struct.Struct("<IIQ16s16s16sQQ")
_FIELDS = struct.Struct("<IIQ16s16s16sQ")
RECORD_BYTES = _RECORD.size
_READABLE, _PARENT = 1, 2


def slot_bytes(block_bytes: int) -> int:
    """Return the bytes that a block takes on disk: whole pages."""
    return -(-block_bytes // PAGE_BYTES) * PAGE_BYTES


def slots_in(size_bytes: int, block_bytes: int) -> int:
    """Return the number of slots in a budget of `size_bytes`, the log at its longest included; may be 0."""
    log_bytes = (1 + SPARE_RECORDS) * RECORD_BYTES
    return max(0, (size_bytes - DATA_START - log_bytes) // (slot_bytes(block_bytes) + 3 * RECORD_BYTES))


class StoreHeader(msgspec.Struct, frozen=True):
    """The beginning of both files. `epoch` is drawn when the store is made: it ties the log to its slots."""

    block_bytes: int
    fingerprint: bytes
    epoch: int

    def packed(self) -> bytes:
        """Return the header as RECORD_BYTES bytes, so that the log's records are evenly spaced."""
        fields = (_MAGIC, VERSION, 0, self.block_bytes, self.fingerprint, self.epoch)
        body = _HEADER.pack(*fields, 0)[:-8]
        return (body + record_check(body, 0).to_bytes(8, "little")).ljust(RECORD_BYTES, b"\0")


def read_header(found: bytes) -> StoreHeader | None:
    """Return the header in some bytes; None: there is none, or it is damaged or of another version."""
    if len(found) < _HEADER.size:
        return None
    magic, version, _, block_bytes, fingerprint, epoch, check = _HEADER.unpack_from(found)
    if magic != _MAGIC or version != VERSION or check != record_check(found[: _HEADER.size - 8], 0):
        return None
    return StoreHeader(block_bytes, fingerprint, epoch)


class SlotRecord(NamedTuple):
    """The contents of a slot since write number `generation` of this store; not `readable`: it holds no block."""

    slot: int
    length: int
    generation: int
    id: BlockId
    parent: BlockId | None
    checksum: bytes
    readable: bool = True


def pack_record(record: SlotRecord, epoch: int) -> bytes:
    """Return a record as its RECORD_BYTES bytes in the file of this epoch."""
    flags = (_READABLE if record.readable else 0) | (0 if record.parent is None else _PARENT)
    identity = (record.id, record.parent or bytes(16), record.checksum)
    body = _FIELDS.pack(record.slot, record.length, record.generation, *identity, flags)
    return body + record_check(body, epoch).to_bytes(8, "little")


def unpack_record(packed: bytes | bytearray, at: int = 0) -> SlotRecord:
    """Return the record in bytes whose checksum is known to be right."""
    slot, length, generation, block, parent, checksum, flags, _ = _RECORD.unpack_from(packed, at)
    above = BlockId(parent) if flags & _PARENT else None
    readable = flags & _READABLE > 0
    return SlotRecord._make((slot, length, generation, BlockId(block), above, checksum, readable))


def read_records(log: bytes, epoch: int) -> Iterator[SlotRecord]:
    """Yield the records in a log (its header excluded) that are whole."""
    for at in range(0, len(log) - RECORD_BYTES + 1, RECORD_BYTES):
        body = log[at : at + _FIELDS.size]
        if record_check(body, epoch) == int.from_bytes(log[at + _FIELDS.size : at + RECORD_BYTES], "little"):
            yield unpack_record(log, at)


class Survivors(NamedTuple):
    """The blocks that are still there according to a log."""

    runs: list[StoredRun]
    """Runs of blocks, parents before children."""
    records: list[SlotRecord]
    """The records of the blocks in `runs`."""
    next_generation: int
    orphans: int
    """The number of blocks dropped because a block before them in their chain is not there."""


def survivors_of(records: Iterable[SlotRecord], slots: int, block_bytes: int) -> Survivors:
    """Return what remains: the newest record of each slot, the newest slot of each block, and of these whole chains."""
    newest: dict[int, SlotRecord] = {}
    highest = 0
    for record in records:
        highest = max(highest, record.generation)
        known = newest.get(record.slot)
        if known is None or known.generation < record.generation:
            newest[record.slot] = record
    blocks: dict[BlockId, SlotRecord] = {}
    for record in sorted(newest.values(), key=lambda r: r.generation):
        if record.readable and record.slot < slots and record.length == block_bytes:
            blocks[record.id] = record
    runs = list(chained({block: record.parent for block, record in blocks.items()}))
    chosen = [blocks[block] for run in runs for block in run]
    found = [StoredRun(blocks[run[0]].parent, run, [blocks[block].slot for block in run]) for run in runs]
    return Survivors(found, chosen, highest + 1, len(blocks) - len(chosen))


def chained(parents: dict[BlockId, BlockId | None]) -> Iterator[list[BlockId]]:
    """Yield runs of blocks, as long as chains don't fork, parents first; without blocks whose parent is not there.

    `parents` holds the block before each block (None: it begins a chain).
    """
    children: dict[BlockId | None, list[BlockId]] = {}
    for block, parent in parents.items():
        children.setdefault(parent, []).append(block)
    starts = list(reversed(children.get(None, [])))
    while starts:
        run = [starts.pop()]
        while len(following := children.get(run[-1], [])) == 1:
            run.append(following[0])
        yield run
        starts.extend(reversed(following))


class SlotTable:
    """The contents of each slot, as packed records: 80 bytes a slot. Safe to use from several threads, slot by slot."""

    def __init__(self, slots: int, records: Iterable[SlotRecord], epoch: int) -> None:
        self._rows = bytearray(slots * RECORD_BYTES)
        self._slots = slots
        self._epoch = epoch
        for record in records:
            self.put(record)

    def put(self, record: SlotRecord) -> bytes:
        """Set a slot's record, and return it packed for the log. A record that is not readable empties the slot."""
        packed = pack_record(record, self._epoch)
        self._set(record.slot, packed if record.readable else bytes(RECORD_BYTES))
        return packed

    def clear(self, slot: int) -> None:
        self._set(slot, bytes(RECORD_BYTES))

    def get(self, slot: int) -> SlotRecord | None:
        at = self._at(slot)
        record = unpack_record(self._rows, at)
        return record if record.readable else None

    def rows(self) -> Iterator[bytes]:
        """Yield the packed records of slots that hold a block."""
        empty = bytes(RECORD_BYTES)
        for at in range(0, len(self._rows), RECORD_BYTES):
            row = bytes(self._rows[at : at + RECORD_BYTES])
            if row != empty:
                yield row

    def _set(self, slot: int, row: bytes) -> None:
        at = self._at(slot)
        self._rows[at : at + RECORD_BYTES] = row

    def _at(self, slot: int) -> int:
        if not 0 <= slot < self._slots:
            raise IndexError(f"slot {slot} of a store of {self._slots}")
        return slot * RECORD_BYTES
