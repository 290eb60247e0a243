"""Agents that are closed whatever happens, and no thread of theirs left behind."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from carrying import Carrying


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread.name for thread in threading.enumerate() if thread not in before and thread.is_alive()]
    assert not left, f"threads left: {left}"


@pytest.fixture
def carrying(tmp_path: Path, no_threads_left: None) -> Iterator[Callable[..., Carrying]]:
    """Makes agents."""
    made: list[Carrying] = []

    def make(worker: str, **options: object) -> Carrying:
        made.append(Carrying(worker, tmp_path, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()
