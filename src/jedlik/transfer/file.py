"""The disk tier: blocks in slots of one file per worker, found again after a restart or a crash.

Every read is verified: identity and checksum; a block that does not match is a miss with its cause, and forgotten.
Nothing waits for the disk to be safe: what a crash loses is computed again. After a crash the log of slots says which
blocks there are; the first read of each says whether its data is whole.
"""

import itertools
import os
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path

from jedlik.core.errors import ConfigError
from jedlik.core.ids import BlockId
from jedlik.core.moves import Cause, StoredRun, Tier
from jedlik.transfer.checksum import slot_checksum
from jedlik.transfer.parallel import Parallel
from jedlik.transfer.private import private_folder
from jedlik.transfer.slot_files import SlotFile, SlotLog
from jedlik.transfer.slots import SlotRecord, SlotTable, StoreHeader, Survivors, read_records, survivors_of
from jedlik.transfer.store import Buffer, Done, Stop

SLOTS_FILE, LOG_FILE = "blocks.slots", "blocks.log"
DEPTH = 8
SYNC_S = 5.0
"""Written blocks are synced to the disk this often, on a thread of its own."""


class FileStore:
    """A `BlockStore` in a folder of its own: `slots` slots (numbered from 0) of blocks of `block_bytes`.

    `fingerprint` (see `checksum.fingerprint`) says what blocks mean: a folder of another one is begun anew, and `notes`
    says so. `depth` is how many reads or writes one call has at the disk at a time.
    """

    kind: Tier = "disk"

    def __init__(
        self, folder: Path, slots: int, block_bytes: int, fingerprint: bytes, depth: int = DEPTH, sync_s: float = SYNC_S
    ) -> None:
        if slots < 1 or block_bytes < 1:
            raise ConfigError(f"{folder}: no room for a single KV block of {block_bytes} bytes; allow more disk")
        self.notes: list[str] = []
        """Notices for the operator about how `open` went, in sentences."""
        self._folder = folder
        self._slots = slots
        self._sync_s = sync_s
        self._depth = depth
        self._header = StoreHeader(block_bytes, fingerprint, secrets.randbits(64))
        self._file = SlotFile(folder / SLOTS_FILE, slots, block_bytes)
        self._closing = threading.Event()
        self._unsynced = False

    def open(self) -> list[StoredRun]:
        private_folder(self._folder)
        found = self._file.open()
        try:
            survivors = self._found(found)
            self._table = SlotTable(self._slots, survivors.records, self._header.epoch)
            self._log.rewrite(self._table)
        except OSError as error:
            self._file.close()
            raise ConfigError(f"can't use {self._folder} for KV blocks: {error.strerror}") from error
        self._generations = itertools.count(survivors.next_generation)
        self._parallel = Parallel(self._depth, "disk")
        self._tidying = threading.Thread(target=self._tidy_often, name="jedlik-disk-sync")
        self._tidying.start()
        return survivors.runs

    @property
    def direct(self) -> bool:
        """Whether the page cache is bypassed; known after `open`."""
        return self._file.direct

    def write(
        self,
        slots: Sequence[int],
        ids: Sequence[BlockId],
        parent: BlockId | None,
        buffers: Sequence[Buffer],
        stop: Stop,
    ) -> Done:
        self._check(slots, ids, buffers)
        for slot in slots:
            self._table.clear(slot)
        ranges = self._file.joined(slots, buffers)
        generations = [next(self._generations) for _ in slots]
        checksums = [b""] * len(slots)

        def put(piece: int) -> Cause:
            first, end = ranges[piece]
            for at in range(first, end):
                checksums[at] = slot_checksum(buffers[at], ids[at], generations[at])
            return self._file.put(slots[first], buffers[first:end])

        pieces, cause = self._parallel.run(len(ranges), put, stop)
        done = ranges[pieces - 1][1] if pieces else 0
        size, parents = self._header.block_bytes, [parent, *ids]
        written = [
            SlotRecord(slots[at], size, generations[at], ids[at], parents[at], checksums[at]) for at in range(done)
        ]
        self._log.append(b"".join([self._table.put(record) for record in written]))
        self._unsynced = True
        return done, cause

    def read(self, slots: Sequence[int], ids: Sequence[BlockId], buffers: Sequence[Buffer], stop: Stop) -> Done:
        self._check(slots, ids, buffers)
        records, unfit = self._records(slots, ids)
        ranges = self._file.joined(slots[: len(records)], buffers)
        verified = [0] * len(ranges)

        def get(piece: int) -> Cause:
            first, end = ranges[piece]
            cause = self._file.get(slots[first], buffers[first:end])
            if cause:
                self._forget(records[first:end] if cause == "corrupt" else [])
                return cause
            for at in range(first, end):
                record = records[at]
                if slot_checksum(buffers[at], record.id, record.generation) != record.checksum:
                    self._forget([record])
                    return "corrupt"
                verified[piece] += 1
            return ""

        pieces, cause = self._parallel.run(len(ranges), get, stop)
        if pieces == len(ranges):
            return len(records), unfit
        return ranges[pieces][0] + verified[pieces], cause

    def close(self) -> None:
        self._closing.set()
        self._tidying.join()
        self._parallel.close()
        self._tidy()
        self._log.close()
        self._file.close()

    def _check(self, slots: Sequence[int], ids: Sequence[BlockId], buffers: Sequence[Buffer]) -> None:
        size = self._header.block_bytes
        if not len(slots) == len(ids) == len(buffers) or any(buffer.nbytes != size for buffer in buffers):
            raise ValueError(f"{len(slots)} slots, {len(ids)} ids, {len(buffers)} buffers, or one is not {size} bytes")

    def _records(self, slots: Sequence[int], ids: Sequence[BlockId]) -> tuple[list[SlotRecord], Cause]:
        """Return the records of the first slots that hold what they should, and why the next one does not."""
        records: list[SlotRecord] = []
        for slot, block in zip(slots, ids, strict=True):
            record = self._table.get(slot)
            if record is None:
                return records, "missing"
            if record.id != block:
                return records, "stale"
            records.append(record)
        return records, ""

    def _forget(self, records: Sequence[SlotRecord]) -> None:
        """Empty slots whose data is not what was written, unless they were written again meanwhile."""
        bad = [record for record in records if self._table.get(record.slot) == record]
        gone = [record._replace(generation=next(self._generations), readable=False) for record in bad]
        self._log.append(b"".join([self._table.put(record) for record in gone]))

    def _found(self, found: StoreHeader | None) -> Survivors:
        """Return what is there from before, if it is of our kind; else begin everything anew. Raises OSError."""
        mine = self._header
        ours = found is not None and (found.block_bytes, found.fingerprint) == (mine.block_bytes, mine.fingerprint)
        if found is not None and ours:
            self._header = found
        self._log = SlotLog(self._folder / LOG_FILE, self._header, self._slots)
        log = self._log.load() if ours else None
        if not self._file.direct:
            self.notes.append(f"{self._folder}: this file system has no direct I/O; blocks go through the page cache")
        if log is None:
            self._begin(found, ours)
            return Survivors([], [], 1, 0)
        found_blocks = survivors_of(read_records(log, self._header.epoch), self._slots, self._header.block_bytes)
        if found_blocks.orphans:
            self.notes.append(
                f"{self._folder}: {found_blocks.orphans} blocks dropped: a block before them in their chain is missing"
            )
        return found_blocks

    def _begin(self, found: StoreHeader | None, ours: bool) -> None:
        log = self._folder / LOG_FILE
        if ours or (found is None and log.exists()):
            self.notes.append(
                f"{self._folder}: the stored blocks can't be read (damaged, or another version); now it is empty"
            )
        elif found is not None:
            self.notes.append(
                f"{self._folder}: the stored blocks are of another model, cluster key or block layout; the folder is "
                "empty now (use a folder for each)"
            )
        self._header = StoreHeader(self._header.block_bytes, self._header.fingerprint, secrets.randbits(64))
        self._log = SlotLog(log, self._header, self._slots)
        self._file.begin(self._header)

    def _tidy_often(self) -> None:
        while not self._closing.wait(self._sync_s):
            self._tidy()

    def _tidy(self) -> None:
        """Sync data before the records that promise it."""
        try:
            if self._unsynced:
                self._unsynced = False
                self._file.sync()
            self._log.tidy(self._table)
        except OSError as error:
            self._note_once(f"{self._folder}: blocks may be lost at a restart: {os.strerror(error.errno or 0)}")

    def _note_once(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
