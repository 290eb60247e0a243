"""Discovery on one host: a private directory with one JSON record per process that serves; fencing by process id.

A record is written whole (temporary file, rename) and is called after its process, so that a new incarnation replaces
the older one. A record's `fence` names a process by pid *and* start time: a pid that is used again is never mistaken
for the worker, nor killed in its place. Records of dead processes are removed by whoever sees them.

A lease is renewed by touching the file. Each watcher measures it from when it saw the file touched last, by its own
clock: a clock that is set anew ends no lease.
"""

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import NamedTuple

import msgspec

from jedlik.core.errors import PeerError
from jedlik.net.discovery.contract import Away, Back, Change, Changed, Joined, Left, Record, Verdict

POLL_S = 0.1
LOOK_EVERY_POLLS = 8
END_S, END_POLL_S = 2.0, 0.01


class LocalDiscovery:
    """The records in one directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def announce(self, record: Record) -> None:
        """Write the record: others see it when this returns. Raises PeerError."""
        path = self._path(record)
        temporary = path.with_suffix(f".{record.id.rpartition('@')[2]}.tmp")
        try:
            temporary.write_bytes(msgspec.json.encode(record))
            os.replace(temporary, path)
        except OSError as error:
            raise PeerError(f"{path} can't be written: {error.strerror}") from error

    async def renew(self, record: Record) -> None:
        """Touch the file. Raises PeerError where it is not there, or not this record's."""
        path = self._path(record)
        try:
            if read(path).id != record.id:
                raise PeerError(f"a newer incarnation of {record.name} has announced itself")
            os.utime(path)
        except (OSError, msgspec.MsgspecError) as error:
            raise PeerError(f"{path} can't be renewed: {error}") from error

    async def withdraw(self, record: Record) -> None:
        """Remove the file, unless a newer incarnation has taken the name."""
        path = self._path(record)
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            if read(path).id == record.id:
                path.unlink()

    def watch(self) -> "LocalWatch":
        """Return a new watcher of the directory."""
        return LocalWatch(self._folder)

    def _path(self, record: Record) -> Path:
        return self._folder / f"{record.name}.json"


class _Seen(NamedTuple):
    """A record as it was read, and since when its file was not touched."""

    record: Record
    touched_ns: int
    since_s: float


class LocalWatch:
    """The records of a directory, as differences.

    A look costs one system call while the folder is as it was. Whoever died without withdrawing, or whose lease has
    ended, is found by every eighth look that finds the folder unchanged; a broken connection tells sooner (`refresh`).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, _Seen] = {}
        self._changed_ns = 0
        self._skipped = LOOK_EVERY_POLLS
        self._away = False
        self._called = asyncio.Event()

    def take(self) -> list[Change]:
        """Return what has changed since the last call."""
        self._called.clear()
        try:
            if self._untouched():
                return []
            seen = {one.record.id: one for one in self._read_all()}
        except OSError as error:
            was_away, self._away = self._away, True
            return [] if was_away else [Away(f"{self._folder} can't be read: {error.strerror}")]
        changes: list[Change] = [Left(one.record) for key, one in sorted(self._seen.items()) if key not in seen]
        for key, one in sorted(seen.items()):
            before = self._seen.get(key)
            if before is None:
                changes.append(Joined(one.record))
            elif before.record != one.record:
                changes.append(Changed(one.record))
        self._seen = seen
        if self._away:
            self._away = False
            changes.append(Back())
        return changes

    async def changed(self) -> None:
        """Wait for a tenth of a second, or until `refresh`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._called.wait()

    def refresh(self) -> None:
        """Have the next `take` read the folder, whatever it looks like."""
        self._skipped = LOOK_EVERY_POLLS
        self._called.set()

    def _untouched(self) -> bool:
        changed_ns = os.stat(self._folder).st_mtime_ns
        if changed_ns == self._changed_ns and self._skipped < LOOK_EVERY_POLLS and not self._away:
            self._skipped += 1
            return True
        self._changed_ns, self._skipped = changed_ns, 0
        return False

    def _read_all(self) -> list[_Seen]:
        now, found = asyncio.get_running_loop().time(), []
        for path in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(OSError, msgspec.MsgspecError, ValueError):
                touched_ns, record = path.stat().st_mtime_ns, read(path)
                if not _alive(record):
                    path.unlink()
                    continue
                before = self._seen.get(record.id)
                since_s = before.since_s if before is not None and before.touched_ns == touched_ns else now
                if now - since_s <= record.lease_s:
                    found.append(_Seen(record, touched_ns, since_s))
        return found


class LocalFencer:
    """Ends processes of this host by SIGKILL, and reads in /proc whether they have ended."""

    def __init__(self, host: str) -> None:
        self._host = host

    async def end(self, record: Record) -> Verdict:
        """Kill the recorded process if it is still that one, and wait for its end. `refused`: another host's."""
        process = self._process(record)
        if process is None:
            return "refused"
        pid, started = process
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(pid)
            try:
                if start_ticks(pid) == started:  # asked after opening: what is open can't become another process
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)
        for _ in range(int(END_S / END_POLL_S)):
            if _ended(pid, started):
                return "dead"
            await asyncio.sleep(END_POLL_S)
        return "unknown"

    async def look(self, record: Record) -> Verdict:
        """Return whether no thread of the recorded process is left."""
        process = self._process(record)
        return "dead" if process is not None and _ended(*process) else "unknown"

    def _process(self, record: Record) -> tuple[int, int] | None:
        """Pid and start time of a process of this host; None: it is another host's."""
        with contextlib.suppress(ValueError):
            return process_of(record) if record.host == self._host else None
        return None


def read(path: Path) -> Record:
    """Return the record in a file. Raises OSError or msgspec.MsgspecError."""
    return msgspec.json.decode(path.read_bytes(), type=Record)


def living(folder: Path) -> list[Record]:
    """Return the records of a directory whose processes live, by name."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, msgspec.MsgspecError, ValueError):
            if _alive(record := read(path)):
                found.append(record)
    return found


def fence_of(pid: int) -> str:
    """Return the fence of a process of this host: its pid and start time. Raises ProcessLookupError."""
    started = start_ticks(pid)
    if started is None:
        raise ProcessLookupError(f"there is no process {pid}")
    return f"{pid}:{started}"


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if it is dead (a zombie is dead)."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in (b"Z", b"X") else int(fields[19])


def process_of(record: Record) -> tuple[int, int]:
    """Return the pid and the start time that a fence of this module names. Raises ValueError for another fence."""
    pid, _, started = record.fence.partition(":")
    return int(pid), int(started)


def _alive(record: Record) -> bool:
    pid, started = process_of(record)
    return start_ticks(pid) == started


def _ended(pid: int, started: int) -> bool:
    """Whether no thread of the process is left, for certain: it writes to nobody's memory any more."""
    fields = _stat(pid)
    if fields is None or int(fields[19]) != started:
        return True
    return fields[0] in (b"Z", b"X") and int(fields[17]) <= 1  # a killed leader may be dead before its other threads


def _stat(pid: int) -> list[bytes] | None:
    """What /proc says of a process, from its state on; None: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
