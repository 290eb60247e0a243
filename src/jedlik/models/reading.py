"""Reads the small files of a model directory; whatever is wrong with one is a ConfigError that names it."""

import json
from pathlib import Path
from typing import Any

from jedlik.core.errors import ConfigError

LFS_POINTER = b"version https://git-lfs"


def json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises ConfigError."""
    raw = content(path)
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:  # ValueError: also text that is not UTF-8
        raise ConfigError(f"{path} is not JSON: {error}; copy the file again") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds no JSON object; copy the file again")
    return value


def text(path: Path) -> str:
    """Return the text in a file. Raises ConfigError."""
    try:
        return content(path).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error}; copy the file again") from None


def content(path: Path) -> bytes:
    """Return the bytes of a file. Raises ConfigError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    refuse_pointer(path, raw)
    return raw


def refuse_pointer(path: Path, beginning: bytes) -> None:
    """Raise ConfigError if a file only stands for the one that Git LFS would fetch."""
    if beginning.startswith(LFS_POINTER):
        raise ConfigError(f"{path} is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`")


def unreadable(path: Path, error: OSError) -> ConfigError:
    """Return the error for a file that can't be read."""
    if isinstance(error, FileNotFoundError):
        what = "is a link to a file that is not there" if path.is_symlink() else "is not there"
        return ConfigError(f"{path} {what}: copy the whole model directory")
    if isinstance(error, PermissionError):
        return ConfigError(f"{path} may not be read by this user: change its permissions")
    return ConfigError(f"{path} cannot be read: {error.strerror}")


def cut_short(path: Path, size: int, whole: int) -> ConfigError:
    """Return the error for a file that lacks its end; sizes in bytes."""
    has, needs = f"{size / 1e6:.1f} MB", f"{whole / 1e6:.1f} MB"
    how_much = f"{has} of {needs}" if has != needs else f"{size} of {whole} bytes"
    return ConfigError(f"{path} ends after {how_much}: copy it again")
