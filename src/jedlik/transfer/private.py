"""Folders and files that only this user may read, and the cluster key that outlives a server beside the KV it names.

Event logs, configurations with keys and KV blocks hold users' texts, or secrets: folders are 0700, files 0600 whatever
the umask, symbolic links are not followed, and files of another user are refused.
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
    """Make a folder where it is missing, and close it to other users where it is not. Raises ConfigError."""
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
        raise ConfigError(f"the folder {folder} can't be used: {error.strerror}; choose another place") from error
    return folder


def open_private(path: Path, flags: int) -> int:
    """Open a file and return its descriptor; a file that is made or written is 0600. Raises OSError."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if flags & (os.O_WRONLY | os.O_RDWR):
        _close_to_others(descriptor)
    return descriptor


def write_private(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all; it is 0600 also where one with another mode was. Raises OSError."""
    mine = _beside(path)
    try:
        with open(open_private(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(data)
        os.replace(mine, path)
    except BaseException:
        mine.unlink(missing_ok=True)
        raise


def close_folder(folder: Path, ours: Callable[[str], bool]) -> None:
    """Make a folder that a user chose 0700 where it is missing; close our files in it to others where it is not.

    The folder is closed too if all files in it are ours: one that others use (/tmp) stays open. Raises OSError.
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
    """Return the key in `folder`/cluster.key, 32 bytes; it is drawn and written where there is none yet.

    A server that starts with the key of the one before finds that one's blocks again. Raises ConfigError where others
    can read the file, or it holds no key.
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
        raise ConfigError(f"can't read or write the cluster key in {path}: {error.strerror}") from error
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(
            f"{path} can be read by other users, who could then infer prompts from KV: chmod 600, and make it your own"
        )
    return _parsed(path, text)


def _draw(path: Path) -> None:
    """Write a key as a whole or not at all, and never over one that another server drew meanwhile."""
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
    """Return a path beside this one that no other process uses."""
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
            f"{path} holds no cluster key of {KEY_BYTES} bytes in hex: remove it (the stored blocks become useless)"
        )
    return key
