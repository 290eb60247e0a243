"""The disk tier's formats, and what is left of a store after a crash: pure functions of the bytes found.

Two files begin with one `StoreHeader`: the slots themselves, and a log of `SlotRecord`s, one for each block that was
written or found bad. Every record stands for itself: its checksum tells torn and damaged ones, and among those of a
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
"""What O_DIRECT wants sizes, offsets and addresses to be multiples of."""
DATA_START = 64 << 10
"""Where slot 0 begins; the header is before it."""
SPARE_RECORDS = 1024
"""A log is rewritten when it has this many records beyond two for each slot; the new one has at most one for each."""
VERSION = 1
_MAGIC = b"jedlikKV"
_HEADER = struct.Struct(f"<8sIIQ{FINGERPRINT_BYTES}sQQ")
_RECORD = struct.Struct("<IIQ16s16s16sQQ")
_FIELDS = struct.Struct("<IIQ16s16s16sQ")
RECORD_BYTES = _RECORD.size
_KEPT, _PARENT = 1, 2


def slot_bytes(block_bytes: int) -> int:
    """What a block takes on disk: whole pages."""
    return -(-block_bytes // PAGE_BYTES) * PAGE_BYTES


def slots_in(size_bytes: int, block_bytes: int) -> int:
    """How many slots a budget of `size_bytes` holds, the log at its longest included; may be 0."""
    log_bytes = (1 + SPARE_RECORDS) * RECORD_BYTES
    return max(0, (size_bytes - DATA_START - log_bytes) // (slot_bytes(block_bytes) + 3 * RECORD_BYTES))


class StoreHeader(msgspec.Struct, frozen=True):
    """What both files begin with. `epoch` is drawn when the store is made: it ties the log to its slots."""

    block_bytes: int
    fingerprint: bytes
    epoch: int

    def packed(self) -> bytes:
        """RECORD_BYTES long, so that the log's records are evenly spaced."""
        told = (_MAGIC, VERSION, 0, self.block_bytes, self.fingerprint, self.epoch)
        body = _HEADER.pack(*told, 0)[:-8]
        return (body + record_check(body, 0).to_bytes(8, "little")).ljust(RECORD_BYTES, b"\0")


def read_header(found: bytes) -> StoreHeader | None:
    """None: this is no header, or a damaged one, or of another version."""
    if len(found) < _HEADER.size:
        return None
    magic, version, _, block_bytes, fingerprint, epoch, check = _HEADER.unpack_from(found)
    if magic != _MAGIC or version != VERSION or check != record_check(found[: _HEADER.size - 8], 0):
        return None
    return StoreHeader(block_bytes, fingerprint, epoch)


class SlotRecord(NamedTuple):
    """What a slot holds since write number `generation` of this store. `kept` False: nothing that can be read."""

    slot: int
    length: int
    generation: int
    id: BlockId
    parent: BlockId | None
    checksum: bytes
    kept: bool = True


def pack_record(record: SlotRecord, epoch: int) -> bytes:
    slot, length, generation, block, parent, checksum, kept = record
    flags = (_KEPT if kept else 0) | (0 if parent is None else _PARENT)
    body = _FIELDS.pack(slot, length, generation, block, parent or bytes(16), checksum, flags)
    return body + record_check(body, epoch).to_bytes(8, "little")


def unpack_record(packed: bytes | bytearray, at: int = 0) -> SlotRecord:
    """Of bytes whose checksum is known to be right."""
    slot, length, generation, block, parent, checksum, flags, _ = _RECORD.unpack_from(packed, at)
    return SlotRecord(
        slot,
        length,
        generation,
        BlockId(block),
        BlockId(parent) if flags & _PARENT else None,
        checksum,
        flags & _KEPT > 0,
    )


def read_records(log: bytes, epoch: int) -> Iterator[SlotRecord]:
    """The records in a log (its header excluded) that are whole."""
    for at in range(0, len(log) - RECORD_BYTES + 1, RECORD_BYTES):
        body = log[at : at + _FIELDS.size]
        if record_check(body, epoch) == int.from_bytes(log[at + _FIELDS.size : at + RECORD_BYTES], "little"):
            yield unpack_record(log, at)


class Survivors(NamedTuple):
    """What a log says is still there."""

    runs: list[StoredRun]
    """Parents before children."""
    records: list[SlotRecord]
    """Of the blocks in `runs`."""
    next_generation: int
    orphans: int
    """Blocks dropped because a block before them in their chain is not there."""


def survivors(records: Iterable[SlotRecord], slots: int, block_bytes: int) -> Survivors:
    """What is left: the newest record of each slot, the newest slot of each block, and of these whole chains only."""
    newest: dict[int, SlotRecord] = {}
    highest = 0
    for record in records:
        highest = max(highest, record.generation)
        known = newest.get(record.slot)
        if known is None or known.generation < record.generation:
            newest[record.slot] = record
    blocks: dict[BlockId, SlotRecord] = {}
    for record in sorted(newest.values(), key=lambda r: r.generation):
        if record.kept and record.slot < slots and record.length == block_bytes:
            blocks[record.id] = record
    runs = list(chained({block: record.parent for block, record in blocks.items()}))
    kept = [blocks[block] for run in runs for block in run]
    found = [StoredRun(blocks[run[0]].parent, run, [blocks[block].slot for block in run]) for run in runs]
    return Survivors(found, kept, highest + 1, len(blocks) - len(kept))


def chained(parents: dict[BlockId, BlockId | None]) -> Iterator[list[BlockId]]:
    """Blocks in rows, as long as chains don't fork, parents first; without those that hang on nothing.

    `parents` says what precedes each block (None: nothing does).
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
    """What each slot holds, as packed records: 80 bytes a slot. Safe to use from several threads, slot by slot."""

    def __init__(self, slots: int, records: Iterable[SlotRecord], epoch: int) -> None:
        self._rows = bytearray(slots * RECORD_BYTES)
        self._slots = slots
        self._epoch = epoch
        for record in records:
            self.put(record)

    def put(self, record: SlotRecord) -> bytes:
        """Returns it as the log wants it. A record that is not kept empties the slot."""
        packed = pack_record(record, self._epoch)
        self._set(record.slot, packed if record.kept else bytes(RECORD_BYTES))
        return packed

    def clear(self, slot: int) -> None:
        self._set(slot, bytes(RECORD_BYTES))

    def get(self, slot: int) -> SlotRecord | None:
        at = self._at(slot)
        record = unpack_record(self._rows, at)
        return record if record.kept else None

    def rows(self) -> Iterator[bytes]:
        """The packed records of slots that hold something."""
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
