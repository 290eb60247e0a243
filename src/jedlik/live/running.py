"""One process, started by us or found running: known by a descriptor, so that no signal ever reaches another one.

Promises: `ended` is set once, when no thread of the process is left. Of a process that was found, nobody but its parent
learns how it ended: the code is None.
"""

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Sequence

from jedlik.net.discovery.local import start_ticks

MAX_FILES = 65536
"""The most files that a process of ours may have open."""
RESERVED_FILES = 192
"""Descriptors kept for refusing further clients, links to workers, logs, and files that are opened now and then."""


class Running:
    """One process. Made inside a running loop, by `start` or `find`."""

    def __init__(self, pid: int, descriptor: int, process: "subprocess.Popen[bytes] | None" = None) -> None:
        self.pid = pid
        self._descriptor = descriptor
        self._process = process
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int | None] = self._loop.create_future()
        """The future gets the exit code (negative: the signal that killed it); None: not known."""
        self._loop.add_reader(descriptor, self._exited)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    async def wait(self) -> int | None:
        """Wait until the process has ended; return the exit code."""
        return await asyncio.shield(self.ended)

    def _exited(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        code = None if self._process is None else self._process.wait()
        if not self.ended.done():
            self.ended.set_result(code)


def start(command: Sequence[str], pass_fds: Sequence[int] = ()) -> Running:
    """Start a child in a session of its own: Ctrl-C reaches the supervisor alone, which stops its children in order."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=pass_fds,
        start_new_session=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    return Running(process.pid, os.pidfd_open(process.pid), process)


def find(pid: int, started: int) -> Running | None:
    """Return the process of this pid, if it is still the one that started then."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    if start_ticks(pid) != started:  # asked after opening: what is open can't become another process
        os.close(descriptor)
        return None
    return Running(pid, descriptor)


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one; children inherit it.

    It is usually low (1024) for programs with `select`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def max_connections() -> int:
    """Return how many of this process's open files may be clients' connections."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    limit = MAX_FILES if soft == resource.RLIM_INFINITY else min(soft, MAX_FILES)
    return max(limit - RESERVED_FILES, limit // 2)
