"""The disk tier's index on disk: a log of what slots hold, appended to after the data is there, rewritten when long.

Nothing on the path waits for the disk: `sync` is for a thread that has time. A log that can't be written (no room) is
behind, which costs blocks at the next start and nothing now; it catches up by being rewritten from the table.
"""

import errno
import os
import threading
from pathlib import Path

from jedlik.transfer.private import open_private
from jedlik.transfer.slots import RECORD_BYTES, SPARE_RECORDS, Header, SlotTable, read_header

_CHUNK_ROWS = 4096


class SlotLog:
    """At `path`, of the store with this header. `load` or nothing, then `rewrite`, then the rest."""

    def __init__(self, path: Path, header: Header, slots: int) -> None:
        self._path = path
        self._header = header
        self._most = 2 * slots + SPARE_RECORDS
        self._log = -1
        self._records = 0
        self._behind = False
        self._unsynced = False
        self._lock = threading.Lock()

    def load(self) -> bytes | None:
        """The records as they lie there; None: there is no log of this store. Raises OSError."""
        try:
            with open(open_private(self._path, os.O_RDONLY), "rb") as file:
                found = file.read()
        except FileNotFoundError:
            return None
        return found[RECORD_BYTES:] if read_header(found[:RECORD_BYTES]) == self._header else None

    def append(self, records: bytes) -> None:
        """Whole records. What can't be written is lost until the next rewrite."""
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
        """What was appended is on the disk afterwards, and the log no longer than it should be. Raises OSError."""
        if self._behind or self._records > self._most:
            self.rewrite(table)
        elif self._unsynced:
            self._unsynced = False
            os.fdatasync(self._log)

    def rewrite(self, table: SlotTable) -> None:
        """A new log with what the table holds, in the old one's place. Raises OSError, and then the old one is kept.

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
    """One write, so that it is whole among others' appends. Raises OSError."""
    if os.write(descriptor, data) != len(data):
        raise OSError(errno.ENOSPC, "no space left for the log of KV blocks")
