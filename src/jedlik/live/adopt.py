"""What a supervisor writes down of its processes, and what the next one finds of them after it was killed.

A process is named by pid and start time together, so that a pid that is used again is never taken for it. Records are
in the private run directory, one per name, written as soon as the process is there.
"""

import contextlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec

from jedlik.core.config import Role
from jedlik.core.errors import PeerError
from jedlik.core.events import Hold, Scale
from jedlik.live.rundir import RunDir
from jedlik.net.discovery.local import start_ticks

SUFFIX = ".process.json"
BY_HAND = "by_hand.json"
TAKE_S = 5.0


class Kept(msgspec.Struct, frozen=True):
    """One process of a server."""

    name: str
    id: str
    """With its incarnation."""
    pid: int
    started: int
    """Its start time, in clock ticks since boot."""
    start: int = 0
    """A worker's: counts the starts at this place."""
    role: Role = "both"


def keep(run: RunDir, kept: Kept) -> None:
    run.write_private(run.path / f"{kept.name}{SUFFIX}", msgspec.json.encode(kept))


def running(run: RunDir) -> list[Kept]:
    """Those of the records whose processes live, by name."""
    found = []
    for path in sorted(run.path.glob(f"*{SUFFIX}")):
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            kept = msgspec.json.decode(path.read_bytes(), type=Kept)
            if start_ticks(kept.pid) == kept.started:
                found.append(kept)
    return found


def turned(run: RunDir, worker: str, role: Role) -> None:
    """It has been told to take another role."""
    for kept in running(run):
        if kept.id == worker:
            keep(run, msgspec.structs.replace(kept, role=role))


def keep_by_hand(run: RunDir, events: Sequence[Scale | Hold]) -> None:
    run.write_private(run.path / BY_HAND, msgspec.json.encode(events))


def by_hand(run: RunDir) -> list[Scale | Hold]:
    """What somebody has set."""
    try:
        return msgspec.json.decode((run.path / BY_HAND).read_bytes(), type=list[Scale | Hold])
    except (OSError, msgspec.MsgspecError):
        return []


def offer_path(run: RunDir, gateway: str) -> Path:
    """Where a gateway hands its listening socket to whoever connects."""
    return run.socket(f"{gateway}.listen")


def offer(path: Path) -> socket.socket:
    """What to accept on (`give`), for as long as the gateway lives."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    door.bind(str(path))
    door.listen()
    door.setblocking(False)
    return door


def give(door: socket.socket, listener: socket.socket) -> None:
    """To whoever has just connected."""
    with contextlib.suppress(OSError):  # gone again
        taker, _ = door.accept()
        with taker:
            socket.send_fds(taker, [b"listener"], [listener.fileno()])


def take(path: Path) -> socket.socket:
    """The listening socket of the gateway that offers it there. Raises PeerError."""
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
