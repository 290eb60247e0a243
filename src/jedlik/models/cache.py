"""The cache folder of models. What gets into it gets there as a whole or not at all, by one process at a time."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def home() -> Path:
    """Return the cache folder: $JEDLIK_HOME, else ~/.cache/jedlik. It is not created here."""
    named = os.environ.get("JEDLIK_HOME")
    return Path(named) if named else Path.home() / ".cache" / "jedlik"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file beside `path`; waits. A lock ends with its process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + ".lock")
    while True:
        with open(lock, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is(lock, file):
                continue  # the holder before has removed it, and another process may hold a new one
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is(path: Path, file: IO[str]) -> bool:
    """Return whether an open file is the one that a path leads to."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def published(target: Path, make: Callable[[Path], None]) -> Path:
    """Make `target`, if it is not there yet, by `make(folder)` in a folder beside it that is then renamed.

    A run that was killed leaves at most a folder named `.making-*`, which the next removes. Raises what `make` does.
    """
    if target.exists():
        return target
    with locked(target):
        if target.exists():  # another process was first
            return target
        prefix = f".making-{target.name}-"
        for unfinished in target.parent.glob(prefix + "*"):
            shutil.rmtree(unfinished)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as aside:
            made = Path(aside) / "whole"
            made.mkdir()
            make(made)
            made.rename(target)
    return target
