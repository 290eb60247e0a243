"""A private directory for one server's sockets, records and child configurations; gone when the server is.

Mode 0700, because the children's configurations hold the cluster key. What a killed server left behind is removed by
the next one that starts, told from a living one's by its owner's pid and start time.
"""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import msgspec

from jedlik.core.errors import ConfigError
from jedlik.net.discovery.local import start_ticks
from jedlik.transfer.private import write_private

OWNER = "owner.json"
LONGEST_PATH = 70
"""A unix socket's path has at most 107 bytes; `/workers/worker-NN.sock` follows."""

LONGEST_WORDS = 500
"""The longest message of a process about its own end, in characters."""


class Owner(msgspec.Struct, frozen=True):
    """The process whose directory it is."""

    pid: int
    started: int
    named: bool = False
    """Somebody chose the directory: it may hold what still runs although its owner is dead."""


class RunDir:
    """The directory and the places in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = path / "records"
        self.status = path / "status"

    def socket(self, name: str) -> Path:
        return self.path / f"{name}.sock"

    def config(self, name: str) -> Path:
        return self.path / f"{name}.config.json"

    def set_status(self, name: str, status: str) -> None:
        """Set what the process of this name does; empty: it serves. Nobody sees it half-written, which is empty too."""
        aside = self.path / f"{name}.status"
        aside.write_text(status)
        os.replace(aside, self.status / name)

    def last_words(self, name: str) -> str:
        """Return why the process of this name ended before it served, in its own words; empty: it left none."""
        try:
            return self._words(name).read_text(errors="replace")
        except OSError:
            return ""

    def leave_words(self, name: str, words: str) -> None:
        """Leave for the supervisor why the process of this name ends before it serves."""
        one_line = " ".join(words.split())
        self.write_private(self._words(name), one_line[:LONGEST_WORDS].encode())

    def forget(self, name: str) -> None:
        """Remove status and words of the process that had this name before."""
        for path in (self.status / name, self._words(name)):
            path.unlink(missing_ok=True)

    def _words(self, name: str) -> Path:
        return self.path / f"{name}.words"

    def ready(self, name: str) -> bool:
        """Return whether the process of this name serves: its status is empty."""
        try:
            return (self.status / name).stat().st_size == 0
        except FileNotFoundError:
            return False

    def ready_s(self, name: str) -> float:
        """Return for how many seconds the process of this name has been ready; 0 before."""
        try:
            found = (self.status / name).stat()
        except FileNotFoundError:
            return 0.0
        return 0.0 if found.st_size else max(0.0, time.time() - found.st_mtime)

    def write_private(self, path: Path, data: bytes) -> None:
        """Write a file that this user alone can read. It is whole or not there."""
        write_private(path, data)

    def own(self, pid: int, *, named: bool) -> None:
        """Make this process the owner of the directory."""
        self.write_private(self.path / OWNER, msgspec.json.encode(Owner(pid, start_ticks(pid) or 0, named)))

    def owner(self) -> Owner | None:
        """Return the owner, if that process lives."""
        owner = _written(self.path)
        return owner if owner is not None and start_ticks(owner.pid) == owner.started else None

    def owned_by(self, pid: int) -> bool:
        """Return whether this living process owns the directory."""
        owner = self.owner()
        return owner is not None and owner.pid == pid

    def remove(self) -> None:
        """Remove the directory with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)


def make(wanted: str | None, pid: int) -> RunDir:
    """Return a fresh run directory owned by process `pid`. Raises ConfigError if `wanted` can't be used."""
    try:
        return _made(wanted, pid)
    except OSError as error:
        place = error.filename or wanted or tempfile.gettempdir()
        raise ConfigError(f"no run directory can be made at {place}: {error.strerror}; choose --run-dir") from error


def _made(wanted: str | None, pid: int) -> RunDir:
    if wanted is None:
        base = Path(tempfile.gettempdir())
        remove_stale(base)
        path = Path(tempfile.mkdtemp(prefix=f"jedlik-{os.getuid()}-", dir=base))
    else:
        path = Path(wanted).absolute()
        _take_over(path)
    if len(str(path)) > LONGEST_PATH:
        shutil.rmtree(path)
        raise ConfigError(f"run directory {path}: path too long for unix sockets; set --run-dir to a shorter one")
    run_dir = RunDir(path)
    for folder in (path, run_dir.records, run_dir.status):
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)  # whatever the umask
    run_dir.own(pid, named=wanted is not None)
    return run_dir


def abandoned(wanted: str | None) -> RunDir | None:
    """Return the named run directory if its owner was killed; what that started may still run."""
    if wanted is None:
        return None
    run_dir = RunDir(Path(wanted).absolute())
    return run_dir if (run_dir.path / OWNER).exists() and run_dir.owner() is None else None


def remove_stale(base: Path) -> None:
    """Remove the directories of this user's servers that were killed."""
    for path in base.glob(f"jedlik-{os.getuid()}-*"):
        with contextlib.suppress(OSError):
            owner = _written(path)
            stale = (path / OWNER).exists() and not (owner is not None and owner.named) and not _owned(path)
            if stale and path.stat().st_uid == os.getuid():
                shutil.rmtree(path)


def _take_over(path: Path) -> None:
    if path.exists():
        if not (path / OWNER).exists() and any(path.iterdir()):
            raise ConfigError(
                f"run directory {path} exists, is not empty and no run directory of jedlik's: use another"
            )
        if _owned(path):
            raise ConfigError(f"run directory {path} is in use by a server that runs; stop it or use another --run-dir")
        shutil.rmtree(path)
    path.mkdir(mode=0o700, parents=True)


def _owned(path: Path) -> bool:
    """Whether its owner lives."""
    return RunDir(path).owner() is not None


def _written(path: Path) -> Owner | None:
    try:
        return msgspec.json.decode((path / OWNER).read_bytes(), type=Owner)
    except (OSError, msgspec.MsgspecError):
        return None
