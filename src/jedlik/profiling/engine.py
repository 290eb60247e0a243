"""Measures our engine in as many processes as are asked to be busy, all doing the same step at the same time.

Workers on one machine share its memory and caches: an engine alone is faster than it will ever be in service. The
threads of each are those that `jedlik serve --workers N` gives it.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import IO

import msgspec

from jedlik.core.config import ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.core.sums import float_sum
from jedlik.models.files import ModelFiles
from jedlik.perf.linear import Point
from jedlik.perf.step import StepShape
from jedlik.profiling.grid import Task
from jedlik.profiling.steps import Ask, Hello, Told
from jedlik.serve.process import ProcessConfig

STDERR_TAIL = 2000


class Process:
    """One measuring process. What it prints goes to a file, shown if it ends early."""

    def __init__(self, told: ProcessConfig) -> None:
        folder = told.run
        config = folder.config(told.name)
        folder.write_private(config, msgspec.json.encode(told))
        self._errors = folder.path / f"{told.name}.log"
        with open(self._errors, "wb") as errors:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "jedlik.profiling.steps", str(config)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
            )  # fmt: skip

    def ask(self, ask: Ask) -> None:
        with contextlib.suppress(BrokenPipeError):  # `answer` says why it ended
            pipe = _there(self._child.stdin)
            pipe.write(msgspec.json.encode(ask) + b"\n")
            pipe.flush()

    def answer(self) -> Told:
        """Raises ConfigError with what the process said."""
        line = _there(self._child.stdout).readline()
        if not line:
            said = self._errors.read_text(errors="replace")[-STDERR_TAIL:]
            raise ConfigError(f"a measuring process ended with code {self._child.wait()}:\n{said}")
        told = msgspec.json.decode(line, type=Told)
        if told.error is not None:
            raise ConfigError(told.error)
        return told

    def end(self) -> None:
        """At once: there is nothing in it to keep."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(BrokenPipeError):
                _there(pipe).close()


class Engines:
    """`busy` engines, alike and loaded."""

    def __init__(self, processes: list[Process]) -> None:
        self._processes = processes
        self.cpu_share = 1.0
        """Processors' time per second of a step, so far."""
        self.hello = [_hello(process.answer()) for process in processes][0]  # noqa: RUF015 - all must be ready

    def prepare(self, first: Ask) -> None:
        """What comes before tasks."""
        for process in self._processes:
            process.ask(first)

    def measure(self, tasks: list[Task], advance: Callable[[Task], None]) -> list[Point]:
        """The median over processes (and tasks that came by the same step) of every shape."""
        times: dict[StepShape, list[float]] = defaultdict(list)
        for task in tasks:
            for process in self._processes:
                process.ask(Ask(task=task))
            answers = [process.answer() for process in self._processes]
            for shape, elapsed_s in (point for told in answers for point in told.points):
                times[shape].append(elapsed_s)
            self.cpu_share = float_sum(told.cpu_s for told in answers) / max(
                float_sum(told.steps_s for told in answers), 1e-9
            )
            advance(task)
        return [Point(shape, median(found)) for shape, found in sorted(times.items())]


@contextlib.contextmanager
def engines(config: ServeConfig, model: ModelFiles) -> Iterator[Engines]:
    """Start as many as there would be workers; whatever happens, none is left."""
    started: list[Process] = []
    with tempfile.TemporaryDirectory(prefix="jedlik-profile-") as folder:
        try:
            for number in range(len(config.roles)):
                started.append(Process(_told(config, model, number, Path(folder))))
            yield Engines(started)
        finally:
            for process in started:
                process.end()


def _told(config: ServeConfig, model: ModelFiles, number: int, folder: Path) -> ProcessConfig:
    return ProcessConfig(
        name=f"profile-{number}",
        incarnation="1",
        run_dir=str(folder),
        parent_pid=os.getpid(),
        cluster_key=bytes(32),
        config=config,
        model_path=str(model.path),
        model_name=model.name,
    )


def _hello(told: Told) -> Hello:
    if told.hello is None:
        raise ConfigError("a measuring process of another release answered: end it and try again")
    return told.hello


def _there(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
