"""Folders and files that only this user may read, and the cluster key that outlives a server beside the KV it names.

Event logs, configurations with keys and KV blocks hold what users wrote, or secrets: folders are 0700, files 0600
whatever the umask, symbolic links are not followed, and what belongs to another user is refused.
"""

import contextlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from jedlik.core.errors import ConfigError

KEY_FILE = "cluster.key"
KEY_BYTES = 32


def private_folder(folder: Path) -> Path:
    """Made where missing, closed to other users where it is not. Raises ConfigError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat(follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            raise ConfigError(f"{folder} is a link, not a folder: name the folder itself")
        if found.st_uid != os.geteuid():
            raise ConfigError(f"{folder} belongs to another user: choose another place")
        if stat.S_IMODE(found.st_mode) != 0o700:
            folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"no folder can be had at {folder}: {error.strerror}; choose another place") from error
    return folder


def open_private(path: Path, flags: int) -> int:
    """A file descriptor; a file that is made or written is 0600. Raises OSError."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if flags & (os.O_WRONLY | os.O_RDWR):
        _close_to_others(descriptor)
    return descriptor


def write_private(path: Path, data: bytes) -> None:
    """Whole or not there, and 0600 also where there was a file with another mode. Raises OSError."""
    mine = _beside(path)
    try:
        with open(open_private(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(data)
        os.replace(mine, path)
    except BaseException:
        mine.unlink(missing_ok=True)
        raise


def close_folder(folder: Path, ours: Callable[[str], bool]) -> None:
    """A folder that somebody chose: made 0700 where missing. What is ours in it is closed to others, and so is the
    folder where nothing else is in it: one that others use (/tmp) stays open. Raises OSError.
    """
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True)
        folder.chmod(0o700)
        return
    names = sorted(path.name for path in folder.iterdir())
    for name in filter(ours, names):
        with contextlib.suppress(OSError):  # another user's, or gone
            os.close(open_private(folder / name, os.O_WRONLY))
    found = folder.stat()
    if found.st_uid == os.geteuid() and all(map(ours, names)) and found.st_mode & 0o077:
        folder.chmod(0o700)


def cluster_key(folder: Path) -> bytes:
    """The key in `folder`/cluster.key, 32 bytes; drawn and kept there where there is none yet.

    A server that starts with the key of the one before finds that one's blocks again. Raises ConfigError where others
    can read it, or it is none.
    """
    path = folder / KEY_FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.path.lexists(path):
            _draw(path)
        with open(open_private(path, os.O_RDONLY), "rb") as file:
            found = os.fstat(file.fileno())
            text = file.read(2 * KEY_BYTES + 2)
    except OSError as error:
        raise ConfigError(f"can't keep the cluster key in {path}: {error.strerror}") from error
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(
            f"{path} can be read by other users, who could then tell prompts from KV: chmod 600, your own"
        )
    return _parsed(path, text)


def _draw(path: Path) -> None:
    """Whole or not there, and never over one that another server drew meanwhile."""
    mine = _beside(path)
    with open(open_private(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.write(secrets.token_hex(KEY_BYTES).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        with contextlib.suppress(FileExistsError):
            os.link(mine, path)
    finally:
        mine.unlink()


def _beside(path: Path) -> Path:
    """A name that nobody else has."""
    return path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")


def _close_to_others(descriptor: int) -> None:
    found = os.fstat(descriptor)
    if stat.S_IMODE(found.st_mode) != 0o600 and stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
        os.fchmod(descriptor, 0o600)


def _parsed(path: Path, text: bytes) -> bytes:
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"{path} holds no cluster key of {KEY_BYTES} bytes in hex: remove it (kept blocks go with it)"
        )
    return key
