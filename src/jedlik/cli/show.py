"""What the terminal shows while `jedlik` works: a bar on a terminal, plain lines elsewhere. To stderr, all of it."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from jedlik.models import progress as models

LINE_EVERY_S = 5.0


def say(text: str) -> None:
    """One line (or a few), at once."""
    print(text, file=sys.stderr, flush=True)


class Fetching:
    """Shows a model being fetched and converted: call it with each report, close it at the end."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._stage, self._text, self._said_at = "", "", 0.0

    def __call__(self, report: models.Progress) -> None:
        if report.stage == "ready":
            return
        if report.stage != self._stage or (report.text != self._text and not report.total_bytes):
            self.close()
            say(report.text)
            self._stage, self._text = report.stage, report.text
            self._said_at = time.monotonic()
        if report.total_bytes:
            self._advance(report)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _advance(self, report: models.Progress) -> None:
        if self._console.is_terminal:
            if self._bar is None:
                columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
                self._bar = Progress(*columns, console=self._console)
                self._bar.add_task(report.stage, total=report.total_bytes)
                self._bar.start()
            self._bar.update(self._bar.task_ids[0], completed=report.done_bytes, total=report.total_bytes)
        elif time.monotonic() - self._said_at > LINE_EVERY_S:
            self._said_at = time.monotonic()
            say(f"{report.stage}: {report.done_bytes >> 20} of {report.total_bytes >> 20} MiB")
