"""Processes that outlive their supervisor: what is written down of them, and how the next supervisor takes them over.

A process is named by pid and start time together, so that a pid that is used again is never taken for it. Records are
in the private run directory, one per name, written as soon as the process is there. A process whose supervisor dies
ends with it, or serves on for a while to be taken over; whoever owns the run directory is its supervisor.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from jedlik.core.config import Role
from jedlik.core.errors import PeerError
from jedlik.core.events import Hold, Scale
from jedlik.live.rundir import Owner, RunDir
from jedlik.live.running import Running, find
from jedlik.net.discovery.local import start_ticks

SUFFIX = ".process.json"
BY_HAND = "by_hand.json"
TAKE_S = 5.0
PR_SET_PDEATHSIG = 1
LOOK_S = 0.25


class ChildProcess(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a server."""

    name: str
    id: str
    """The name with the incarnation."""
    pid: int
    started: int
    """The start time, in clock ticks since boot."""
    start: int = 0
    """The number of a worker's start at its place."""
    role: Role = "both"


def save_process(run: RunDir, process: ChildProcess) -> None:
    """Write a process down."""
    run.write_private(run.path / f"{process.name}{SUFFIX}", msgspec.json.encode(process))


def running_processes(run: RunDir) -> list[ChildProcess]:
    """Return the processes that were written down and live, by name."""
    found = []
    for path in sorted(run.path.glob(f"*{SUFFIX}")):
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            process = msgspec.json.decode(path.read_bytes(), type=ChildProcess)
            if start_ticks(process.pid) == process.started:
                found.append(process)
    return found


def save_role(run: RunDir, worker: str, role: Role) -> None:
    """Write down that a worker has another role now."""
    for process in running_processes(run):
        if process.id == worker:
            save_process(run, msgspec.structs.replace(process, role=role))


def save_by_hand(run: RunDir, events: Sequence[Scale | Hold]) -> None:
    """Write down what somebody has set by hand."""
    run.write_private(run.path / BY_HAND, msgspec.json.encode(events))


def by_hand(run: RunDir) -> list[Scale | Hold]:
    """Return what somebody has set by hand."""
    try:
        return msgspec.json.decode((run.path / BY_HAND).read_bytes(), type=list[Scale | Hold])
    except (OSError, msgspec.MsgspecError):
        return []


def offer_path(run: RunDir, gateway: str) -> Path:
    """Return the path where a gateway hands its listening socket to whoever connects."""
    return run.socket(f"{gateway}.listen")


def offer_listener(path: Path) -> socket.socket:
    """Return the socket on which a gateway hands out its listening socket (`give_listener`)."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    door.bind(str(path))
    door.listen()
    door.setblocking(False)
    return door


def give_listener(door: socket.socket, listener: socket.socket) -> None:
    """Hand the listening socket to whoever has just connected."""
    with contextlib.suppress(OSError):  # gone again
        taker, _ = door.accept()
        with taker:
            socket.send_fds(taker, [b"listener"], [listener.fileno()])


def take_listener(path: Path) -> socket.socket:
    """Return the listening socket of the gateway that offers it at a path. Raises PeerError."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(TAKE_S)
            asking.connect(str(path))
            _, descriptors, _, _ = socket.recv_fds(asking, 64, 1)
    except OSError as error:
        raise PeerError(f"the gateway does not hand over its socket ({path.name}): {error}") from error
    if not descriptors:
        raise PeerError(f"the gateway hung up before it handed over its socket ({path.name})")
    os.set_inheritable(descriptors[0], False)
    return socket.socket(fileno=descriptors[0])


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the parent ends; ends it at once if that has happened already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


class Orphanhood:
    """Watches the owners of the run directory, one after the other. Made inside a running loop."""

    def __init__(self, run: RunDir, parent_pid: int, grace_s: float, tell: Callable[[str], None]) -> None:
        self._run = run
        self._grace_s = grace_s
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._parent = self._watched(Owner(parent_pid, start_ticks(parent_pid) or 0))

    async def over(self) -> None:
        """Return when the owner has died and nobody has taken over in time."""
        while True:
            if self._parent is not None:
                await self._parent.wait()
                self._tell(f"the supervisor has died; serving on for {self._grace_s:g} s, to be taken over")
            self._parent = await self._next()
            if self._parent is None:
                self._tell("nobody has taken over; leaving")
                return
            self._tell("taken over by a new supervisor")

    async def _next(self) -> Running | None:
        """The next owner, if one comes in time."""
        end = self._loop.time() + self._grace_s
        while True:
            owner = self._run.owner()
            parent = None if owner is None else self._watched(owner)
            if parent is not None or self._loop.time() >= end:
                return parent
            await asyncio.sleep(LOOK_S)

    def _watched(self, owner: Owner) -> Running | None:
        return find(owner.pid, owner.started)
