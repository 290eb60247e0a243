"""The implementations of discovery that the conformance suite runs on, each with what the suite does to it.

To add one, write a class with these methods and enter it in `IMPLEMENTATIONS`.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from jedlik.net.addresses import UnixAddress
from jedlik.net.discovery.announcing import keep_announced
from jedlik.net.discovery.contract import Discovery, Fencer, Record
from jedlik.net.discovery.local import LocalDiscovery, LocalFencer, fence_of

HOST = "this host"


class Implementation(Protocol):
    """One directory, made in a fresh folder, and who fences its processes."""

    fencer: Fencer

    def __init__(self, folder: Path) -> None: ...

    def discovery(self) -> Discovery:
        """Return another participant's view of the same directory."""

    def fence(self, pid: int) -> str:
        """Return the fence of a process of this host."""

    def outage(self) -> contextlib.AbstractContextManager[None]:
        """Make the directory unreachable for a while. Its records may be lost."""

    def spoil(self) -> None:
        """Put garbage where records are kept, as far as anybody can."""

    def drop(self, record: Record) -> None:
        """Lose a record, as a server that starts again with nothing does."""


class Local(Implementation):
    """The directory of one host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "records"
        self._folder.mkdir(exist_ok=True)
        self.fencer = LocalFencer(HOST)

    def discovery(self) -> Discovery:
        return LocalDiscovery(self._folder)

    def fence(self, pid: int) -> str:
        return fence_of(pid)

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        away = self._folder.with_name("away")
        self._folder.rename(away)
        try:
            yield
        finally:
            away.rename(self._folder)

    def spoil(self) -> None:
        record = Record(id="x@1", name="x", host=HOST, addresses=(), lease_s=60.0, fence="nonsense")
        (self._folder / "x.json").write_bytes(msgspec.json.encode(record))
        (self._folder / "half.json").write_bytes(b'{"id": "half')
        (self._folder / "bytes.json").write_bytes(bytes(range(256)))
        (self._folder / "folder.json").mkdir()
        (self._folder / "other").write_text("not a record's name")

    def drop(self, record: Record) -> None:
        (self._folder / f"{record.name}.json").unlink()


IMPLEMENTATIONS: dict[str, type[Implementation]] = {"local": Local}


def record_of(implementation: Implementation, name: str, incarnation: str = "a", lease_s: float = 60.0) -> Record:
    """Return the record of a worker in this process."""
    return Record(
        id=f"{name}@{incarnation}",
        name=name,
        host=HOST,
        addresses=(UnixAddress(f"/nowhere/{name}"),),
        lease_s=lease_s,
        pool="default",
        model="m",
        fence=implementation.fence(os.getpid()),
    )


async def announce_here(name: str, folder: Path, worker: str) -> None:
    """Announce a worker of this process until it is killed."""
    implementation = IMPLEMENTATIONS[name](folder)
    discovery, record = implementation.discovery(), record_of(implementation, worker, lease_s=1.0)
    await discovery.announce(record)
    await keep_announced(discovery, record)


if __name__ == "__main__":
    asyncio.run(announce_here(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
