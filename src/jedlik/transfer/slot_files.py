"""The disk tier's two files: the slots, and a log of what they hold.

The slots are one preallocated file of one owner, read and written past the page cache where that is allowed. Adjacent
slots go in one system call. Memory that O_DIRECT can't take goes through an aligned buffer of the thread's. After
`open`, errors of the file system are answers, not exceptions.

The log is appended to after the data is there, and rewritten when it is long. Nothing on the path waits for the disk:
`SlotLog.tidy` is for a thread that has time. A log that can't be written (no room) is behind, which costs blocks at the
next start and nothing now; it catches up by being rewritten from the table.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jedlik.core.errors import ConfigError
from jedlik.core.moves import Cause
from jedlik.transfer.private import open_private
from jedlik.transfer.slots import (
    DATA_START,
    PAGE_BYTES,
    RECORD_BYTES,
    SPARE_RECORDS,
    SlotTable,
    StoreHeader,
    read_header,
    slot_bytes,
)
from jedlik.transfer.store import Buffer

TOGETHER_BYTES = 1 << 20
"""Adjacent slots are joined up to this size, at which a disk is at its best."""
TOGETHER_SLOTS = 512
_CHUNK_ROWS = 4096
_GONE = frozenset({errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.EROFS, errno.ENOTCONN, errno.ESHUTDOWN})


def cause_of(error: OSError) -> Cause:
    """Return the cause that an error of the file system stands for."""
    return "gone" if error.errno in _GONE else "failed"


def address_of(buffer: Buffer) -> int:
    """Return the address of a buffer's first byte."""
    if buffer.readonly:
        return int(np.frombuffer(buffer, np.uint8).__array_interface__["data"][0])
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


class SlotFile:
    """The file at `path` with `slots` slots of `block_bytes` each. Call `open` first, `close` last."""

    def __init__(self, path: Path, slots: int, block_bytes: int) -> None:
        self.path = path
        self.direct = False
        """Whether the page cache is bypassed; known after `open`."""
        self._block_bytes = block_bytes
        self._slot_bytes = slot_bytes(block_bytes)
        self.size_bytes = DATA_START + slots * self._slot_bytes
        self._whole = self._slot_bytes == block_bytes
        self._plain = -1
        self._data = -1
        self._bounce = threading.local()

    def open(self) -> StoreHeader | None:
        """Take possession of the file and reserve its room; return the header found, if one can be read.

        Raises ConfigError where another process owns it, there is no room or no permission.
        """
        try:
            self._plain = open_private(self.path, os.O_RDWR | os.O_CREAT)
            self._own()
            self._reserve()
            found = read_header(os.pread(self._plain, RECORD_BYTES, 0))
            self._data = self._open_direct()
        except OSError as error:
            self.close()
            raise ConfigError(f"can't use {self.path} for KV blocks: {error.strerror}") from error
        except ConfigError:
            self.close()
            raise
        return found

    def begin(self, header: StoreHeader) -> None:
        """Write a header: whatever is in the slots now belongs to nobody. Raises OSError."""
        os.pwrite(self._plain, header.packed().ljust(PAGE_BYTES, b"\0"), 0)

    def joined(self, slots: Sequence[int], buffers: Sequence[Buffer]) -> list[tuple[int, int]]:
        """Return ranges of positions (first, end) for one `put` or `get` each: slots in a row, memory that fits."""
        most = min(TOGETHER_SLOTS, TOGETHER_BYTES // self._slot_bytes) if self._whole else 1
        ranges: list[tuple[int, int]] = []
        first = 0
        for at in range(1, len(slots) + 1):
            together = at < len(slots) and slots[at] == slots[at - 1] + 1 and at - first < most
            if not (together and self._fits(buffers[at]) and self._fits(buffers[first])):
                ranges.append((first, at))
                first = at
        return ranges if slots else []

    def put(self, slot: int, buffers: Sequence[Buffer]) -> Cause:
        """Write the buffers to slots in a row."""
        at, size = DATA_START + slot * self._slot_bytes, len(buffers) * self._block_bytes
        try:
            if not self._fits(buffers[0]):
                size, buffers = self._slot_bytes, [self._bounced(buffers[0])]
            written = os.pwritev(self._data, buffers, at)
        except OSError as error:
            return cause_of(error)
        return "" if written == size else "failed"

    def get(self, slot: int, buffers: Sequence[Buffer]) -> Cause:
        """Fill the buffers from slots in a row. A file that has become too short is "corrupt"."""
        at, size = DATA_START + slot * self._slot_bytes, len(buffers) * self._block_bytes
        try:
            if self._fits(buffers[0]):
                return "" if os.preadv(self._data, buffers, at) == size else "corrupt"
            page = self._page()
            if os.preadv(self._data, [page], at) < self._block_bytes:
                return "corrupt"
        except OSError as error:
            return cause_of(error)
        buffers[0][:] = page[: self._block_bytes]
        return ""

    def sync(self) -> None:
        """Wait until written slots are on the disk. Raises OSError."""
        os.fdatasync(self._data)

    def close(self) -> None:
        """Give up possession of the file."""
        for descriptor in {self._data, self._plain} - {-1}:
            os.close(descriptor)
        self._data = self._plain = -1

    def _own(self) -> None:
        try:
            fcntl.flock(self._plain, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{self.path} is in use by another jedlik process: give each server a folder") from error

    def _reserve(self) -> None:
        """Reserve room for all slots now, so that it can't run out later; what is there from before stays."""
        try:
            os.ftruncate(self._plain, self.size_bytes)
            os.posix_fallocate(self._plain, 0, self.size_bytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            os.ftruncate(self._plain, 0)  # a part is of no use to us, and the disk is full for everybody
            room = os.statvfs(self.path)
            free = room.f_bavail * room.f_frsize
            raise ConfigError(
                f"{self.path} needs {self.size_bytes / 1e9:.2f} GB and has {free / 1e9:.2f} GB free: "
                f"{error.strerror}; ask for less disk, or make room"
            ) from error

    def _open_direct(self) -> int:
        """Return a descriptor that bypasses the page cache, if a read shows that it can; else the plain one."""
        descriptor = -1
        try:
            descriptor = open_private(self.path, os.O_RDWR | os.O_DIRECT)
            os.preadv(descriptor, [mmap.mmap(-1, PAGE_BYTES)], 0)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            return self._plain
        self.direct = True
        return descriptor

    def _fits(self, buffer: Buffer) -> bool:
        """Whether the kernel takes this memory as it is."""
        return not self.direct or (self._whole and address_of(buffer) % PAGE_BYTES == 0)

    def _page(self) -> memoryview:
        """This thread's aligned memory, one slot long."""
        page: memoryview | None = getattr(self._bounce, "page", None)
        if page is None:
            page = self._bounce.page = memoryview(mmap.mmap(-1, self._slot_bytes))
        return page

    def _bounced(self, buffer: Buffer) -> memoryview:
        page = self._page()
        page[: self._block_bytes] = buffer
        return page


class SlotLog:
    """The log at `path` of the store with this header. Call `load` or nothing, then `rewrite`, then the rest."""

    def __init__(self, path: Path, header: StoreHeader, slots: int) -> None:
        self._path = path
        self._header = header
        self._most = 2 * slots + SPARE_RECORDS
        self._log = -1
        self._records = 0
        self._behind = False
        self._unsynced = False
        self._lock = threading.Lock()

    def load(self) -> bytes | None:
        """Return the records as they lie there; None: there is no log of this store. Raises OSError."""
        try:
            with open(open_private(self._path, os.O_RDONLY), "rb") as file:
                found = file.read()
        except FileNotFoundError:
            return None
        return found[RECORD_BYTES:] if read_header(found[:RECORD_BYTES]) == self._header else None

    def append(self, records: bytes) -> None:
        """Append whole records. Those that can't be written are lost until the next rewrite."""
        with self._lock:
            if self._behind:
                return
            try:
                written = os.write(self._log, records)
            except OSError:
                written = 0
            self._records += len(records) // RECORD_BYTES
            self._behind = written != len(records)
            self._unsynced = True

    def tidy(self, table: SlotTable) -> None:
        """Wait until appended records are on the disk, and shorten a log that is too long. Raises OSError."""
        if self._behind or self._records > self._most:
            self.rewrite(table)
        elif self._unsynced:
            self._unsynced = False
            os.fdatasync(self._log)

    def rewrite(self, table: SlotTable) -> None:
        """Replace the log by a new one with the table's records. Raises OSError, and then the old one stays.

        Others append to the new one meanwhile: which record of a slot counts does not depend on their order.
        """
        temporary = self._path.with_suffix(".new")
        log = open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        with self._lock:
            old, self._log = self._log, log
            old_records, self._records = self._records, 0
            self._behind, self._unsynced = False, False
            try:
                _write_all(log, self._header.packed())
            except OSError:
                self._back(old, old_records)
                raise
        try:
            self._copy(log, table)
            os.fdatasync(log)
            os.replace(temporary, self._path)
        except OSError:
            with self._lock:
                self._back(old, old_records)
            raise
        if old >= 0:
            os.close(old)

    def close(self) -> None:
        if self._log >= 0:
            os.close(self._log)
        self._log = -1

    def _back(self, old: int, records: int) -> None:
        os.close(self._log)
        self._path.with_suffix(".new").unlink(missing_ok=True)
        self._log, self._records, self._behind = old, records, True

    def _copy(self, log: int, table: SlotTable) -> None:
        rows: list[bytes] = []
        count = 0
        for row in table.rows():
            rows.append(row)
            count += 1
            if len(rows) == _CHUNK_ROWS:
                _write_all(log, b"".join(rows))
                rows.clear()
        _write_all(log, b"".join(rows))
        with self._lock:
            self._records += count


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes in one call, so that they are whole among others' appends. Raises OSError."""
    if os.write(descriptor, data) != len(data):
        raise OSError(errno.ENOSPC, "no space left for the log of KV blocks")
