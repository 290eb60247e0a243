"""Discovery on one host: a private directory with one JSON record per worker that is ready.

A record is written whole (temporary file, rename) and names a process by pid *and* start time, so that a re-used pid is
never mistaken for the worker, nor killed in its place. Records of dead processes are removed by whoever sees them.
"""

import contextlib
import os
import signal
from pathlib import Path

import msgspec


class Record(msgspec.Struct, frozen=True):
    """One worker incarnation that accepts connections."""

    worker: str
    """`name@incarnation`."""
    name: str
    pid: int
    started: int
    """Start time of the process in clock ticks since boot."""
    address: str
    data: str = ""
    """Where what carries its blocks listens; empty: it takes none."""


class Joined(msgspec.Struct, frozen=True):
    record: Record


class Left(msgspec.Struct, frozen=True):
    record: Record


class Announcement:
    """Our own record in the directory."""

    def __init__(self, folder: Path, record: Record) -> None:
        self._path = folder / f"{record.name}.json"
        self._record = record

    def publish(self) -> None:
        """Visible to others when this returns."""
        temporary = self._path.with_suffix(f".{self._record.pid}.tmp")
        temporary.write_bytes(msgspec.json.encode(self._record))
        os.replace(temporary, self._path)

    def withdraw(self) -> None:
        """Gone, unless a newer incarnation has taken the name."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            if read(self._path) == self._record:
                self._path.unlink()


LOOK_EVERY_POLLS = 8


class LocalDiscovery:
    """What a directory says, as differences between polls."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Record] = {}
        self._changed_ns = 0
        self._skipped = LOOK_EVERY_POLLS

    def poll(self) -> list[Joined | Left]:
        """What changed since the last poll: leaves first, by worker name.

        One system call while the folder is as it was; who died without a word is found by the every so many polls that
        look all the same (a broken connection tells sooner).
        """
        if self._untouched():
            return []
        found = {record.worker: record for record in self._read_all()}
        left: list[Joined | Left] = [Left(r) for w, r in sorted(self._known.items()) if w not in found]
        joined = [Joined(r) for w, r in sorted(found.items()) if w not in self._known]
        self._known = found
        return left + joined

    def find(self, worker: str) -> Record | None:
        """The record of a worker as of the last poll."""
        return self._known.get(worker)

    def forget(self, worker: str) -> None:
        """Report this worker as joined again at the next poll, if it is still there."""
        self._known.pop(worker, None)
        self.look()

    def look(self) -> None:
        """Something has happened: the next poll reads the folder, whatever it looks like."""
        self._skipped = LOOK_EVERY_POLLS

    def _untouched(self) -> bool:
        changed_ns = os.stat(self._folder).st_mtime_ns
        if changed_ns == self._changed_ns and self._skipped < LOOK_EVERY_POLLS:
            self._skipped += 1
            return True
        self._changed_ns, self._skipped = changed_ns, 0
        return False

    def _read_all(self) -> list[Record]:
        records = []
        for path in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                record = read(path)
                if alive(record):
                    records.append(record)
                else:
                    path.unlink()
        return records


def read(path: Path) -> Record:
    return msgspec.json.decode(path.read_bytes(), type=Record)


def start_ticks(pid: int) -> int | None:
    """When a process started, None if it is dead (a zombie is dead)."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in (b"Z", b"X") else int(fields[19])


def alive(record: Record) -> bool:
    return start_ticks(record.pid) == record.started


def ended(record: Record) -> bool:
    """Whether no thread of the process is left, for certain: it writes to nobody's memory any more."""
    fields = _stat(record.pid)
    if fields is None or int(fields[19]) != record.started:
        return True
    return fields[0] in (b"Z", b"X") and int(fields[17]) <= 1  # a killed leader may be dead before its other threads


def _stat(pid: int) -> list[bytes] | None:
    """What /proc says of a process, from its state on; None: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None


def kill(record: Record) -> bool:
    """SIGKILL the recorded process if it is still that one; whether it was."""
    if not alive(record):
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(record.pid, signal.SIGKILL)
        return True
    return False
