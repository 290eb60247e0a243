"""The output of `jedlik` while it works: a bar on a terminal, plain lines elsewhere. All of it goes to stderr."""

import sys
import threading
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from jedlik.models import progress as models

LINE_EVERY_S = 5.0


def say(text: str) -> None:
    """Print a line (or a few) at once."""
    print(text, file=sys.stderr, flush=True)


class Fetching:
    """Shows a model being fetched and converted. Call it with each report, and close it at the end.

    Something is shown every few seconds, also of work that reports nothing between its beginning and its end.
    """

    def __init__(self, say: Callable[[str], None] = say, console: Console | None = None) -> None:
        self._say = say
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._waiting: _Waiting | None = None
        self._stage, self._text, self._said_at = "", "", 0.0

    def __call__(self, report: models.Progress) -> None:
        if report.stage == "ready":
            return
        if report.stage != self._stage or (report.text != self._text and not report.total_bytes):
            self.close()
            self._say(report.text)
            self._stage, self._text = report.stage, report.text
            self._said_at = time.monotonic()
            if not report.total_bytes:
                self._wait(report.stage)
        if report.total_bytes:
            self._advance(report)

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _wait(self, stage: str) -> None:
        if self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self._begin(Progress(*columns, console=self._console, transient=True), stage, None)
        else:
            self._waiting = _Waiting(stage, self._say)

    def _advance(self, report: models.Progress) -> None:
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None
        if self._console.is_terminal:
            if self._bar is None or self._bar.tasks[0].total is None:
                self.close()
                columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
                self._begin(Progress(*columns, console=self._console), report.stage, report.total_bytes)
            assert self._bar is not None
            self._bar.update(self._bar.task_ids[0], completed=report.done_bytes, total=report.total_bytes)
        elif time.monotonic() - self._said_at > LINE_EVERY_S:
            self._said_at = time.monotonic()
            self._say(f"{report.stage}: {report.done_bytes >> 20} of {report.total_bytes >> 20} MiB")

    def _begin(self, bar: Progress, stage: str, total_bytes: int | None) -> None:
        self._bar = bar
        bar.add_task(stage, total=total_bytes)
        bar.start()


class _Waiting:
    """Prints every few seconds that something still goes on."""

    def __init__(self, stage: str, say: Callable[[str], None]) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(stage, say, time.monotonic()), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self, stage: str, say: Callable[[str], None], began_s: float) -> None:
        while not self._ended.wait(LINE_EVERY_S):
            say(f"{stage}: {time.monotonic() - began_s:.0f} s so far")
