"""Reports while a model is fetched: enough for a bar, a line of text, or nothing."""

from collections.abc import Callable
from typing import Literal

import msgspec


class Progress(msgspec.Struct, frozen=True):
    """One report. The first of a stage has in `text` what is about to happen, with sizes."""

    stage: Literal["download", "unpack", "convert", "ready"]
    text: str
    done_bytes: int = 0
    total_bytes: int = 0
    """The bytes in all; 0: not known."""


Report = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Ignore a report of progress."""
