"""What is shown of a model being fetched where there is no terminal: never nothing for long."""

import threading

import pytest

from jedlik.console import show
from jedlik.models.progress import Progress

HANG_S = 30.0


class Said:
    """Lines; `more` is set once there are so many."""

    def __init__(self, wanted: int) -> None:
        self.lines: list[str] = []
        self.more = threading.Event()
        self._wanted = wanted

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if len(self.lines) >= self._wanted:
            self.more.set()


def test_work_that_reports_nothing_is_told_of_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "LINE_EVERY_S", 0.01)
    said = Said(4)
    fetching = show.Fetching(said)
    fetching(Progress("convert", "converting x"))
    assert said.more.wait(HANG_S)
    fetching.close()
    told = len(said.lines)
    assert said.lines[0] == "converting x"
    assert all(line.startswith("convert: ") for line in said.lines[1:])
    assert not [thread for thread in threading.enumerate() if thread.daemon and "_run" in thread.name]
    assert len(said.lines) == told


def test_bytes_are_counted_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "LINE_EVERY_S", -1.0)
    said = Said(3)
    fetching = show.Fetching(said)
    for done in (0, 1, 2):
        fetching(Progress("download", "downloading x", done << 20, 2 << 20))
    fetching.close()
    assert said.lines == ["downloading x", *(f"download: {done} of 2 MiB" for done in (0, 1, 2))]
