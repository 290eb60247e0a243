"""The identity of processes, and whether one has certainly ended: pid and start time together, never a pid alone.

A process that hangs has not ended: it may still write.
"""

import contextlib
import os
import select
from pathlib import Path

import msgspec


class ProcessName(msgspec.Struct, frozen=True, array_like=True):
    """One process, for ever: pids are used again, start times are not."""

    host: str
    pid: int
    started: int
    """The start time, in clock ticks since boot."""


def host_name() -> str:
    """Return a name that is the same for processes of one boot of one machine and one pid namespace.

    Such processes can open each other's memory.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"


def start_ticks(pid: int) -> int | None:
    """Return when a process started, None if it is dead (a zombie is dead)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def this_process() -> ProcessName:
    """Return the identity of the calling process."""
    return ProcessName(host_name(), os.getpid(), start_ticks(os.getpid()) or 0)


class ProcessWatch:
    """A watch on one process of this host. To ask whether it has ended costs one system call."""

    def __init__(self, process: ProcessName) -> None:
        self._here = process.host == host_name()
        self._dead = False
        self._fd = -1
        if self._here:
            self._watch(process)

    def fileno(self) -> int:
        """Return a descriptor that is readable once the process has ended; -1: there is none to wait for."""
        return self._fd

    def dead(self) -> bool:
        """Return whether the process has certainly ended. Of processes of other hosts this is never known."""
        if self._here and not self._dead and self._fd >= 0:
            poll = select.poll()  # one for all threads would not do: they must not use it at once
            poll.register(self._fd, select.POLLIN)
            self._dead = bool(poll.poll(0))
        return self._dead

    def _watch(self, process: ProcessName) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._fd = os.pidfd_open(process.pid)
        if self._fd >= 0 and start_ticks(process.pid) != process.started:
            self.close()  # another process has its pid now
        self._dead = self._fd < 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
