"""Keys pressed in a terminal, one at a time and without waiting for a line; the terminal is as before afterwards."""

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Literal

Key = Literal["quit", "pause", "up", "down", "page up", "page down"]
KEYS: dict[bytes, Key] = {
    b"q": "quit", b"Q": "quit", b"p": "pause", b" ": "pause", b"k": "up", b"j": "down",
    b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down",
    b"\x1b[5~": "page up", b"\x1b[6~": "page down",
}  # fmt: skip
AT_ONCE_BYTES = 64


def parsed(data: bytes) -> list[Key]:
    """Return the keys in a terminal's bytes. Bytes that mean nothing here are skipped."""
    found = []
    while data:
        name = next((name for name in sorted(KEYS, key=len, reverse=True) if data.startswith(name)), None)
        if name is not None:
            found.append(KEYS[name])
        data = data[len(name) if name is not None else 1 :]
    return found


class Keyboard:
    """The keys of standard input. Where it is no terminal, no key is ever pressed."""

    def __init__(self) -> None:
        self._file: int | None = sys.stdin.fileno() if sys.stdin.isatty() else None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Switch the terminal to single keys while the context lasts. Ctrl-C still interrupts."""
        if self._file is None:
            yield
            return
        before = termios.tcgetattr(self._file)
        tty.setcbreak(self._file)
        try:
            yield
        finally:
            termios.tcsetattr(self._file, termios.TCSADRAIN, before)

    def pressed(self, wait_s: float) -> list[Key]:
        """Return the keys pressed; wait at most `wait_s` for the first."""
        if self._file is None:
            time.sleep(wait_s)
            return []
        ready, _, _ = select.select([self._file], [], [], wait_s)
        return parsed(os.read(self._file, AT_ONCE_BYTES)) if ready else []
