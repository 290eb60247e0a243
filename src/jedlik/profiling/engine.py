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
from jedlik.profiling.grid import GridTask
from jedlik.profiling.steps import LoadedInfo, Measured, MeasureRequest
from jedlik.serve.process import ProcessConfig

STDERR_TAIL = 2000


class MeasuringProcess:
    """One measuring process. What it prints goes to a file, shown if it ends early."""

    def __init__(self, config: ProcessConfig) -> None:
        folder = config.run
        file = folder.config(config.name)
        folder.write_private(file, msgspec.json.encode(config))
        self._errors = folder.path / f"{config.name}.log"
        with open(self._errors, "wb") as errors:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "jedlik.profiling.steps", str(file)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
            )  # fmt: skip

    def ask(self, ask: MeasureRequest) -> None:
        with contextlib.suppress(BrokenPipeError):  # `answer` says why it ended
            pipe = _there(self._child.stdin)
            pipe.write(msgspec.json.encode(ask) + b"\n")
            pipe.flush()

    def answer(self) -> Measured:
        """Raises ConfigError with what the process said."""
        line = _there(self._child.stdout).readline()
        if not line:
            errors = self._errors.read_text(errors="replace")[-STDERR_TAIL:]
            raise ConfigError(f"a measuring process ended with code {self._child.wait()}:\n{errors}")
        answer = msgspec.json.decode(line, type=Measured)
        if answer.error is not None:
            raise ConfigError(answer.error)
        return answer

    def end(self) -> None:
        """End the process at once: there is nothing in it to keep."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(BrokenPipeError):
                _there(pipe).close()


class Engines:
    """`busy` engines, alike and loaded."""

    def __init__(self, processes: list[MeasuringProcess]) -> None:
        self._processes = processes
        self.cpu_share = 1.0
        """Processors' time per second of a step, so far."""
        self.hello = [_hello(process.answer()) for process in processes][0]  # noqa: RUF015 - all must be ready

    def prepare(self, first: MeasureRequest) -> None:
        """Have every process do what comes before its tasks."""
        for process in self._processes:
            process.ask(first)

    def measure(self, tasks: list[GridTask], advance: Callable[[GridTask], None]) -> list[Point]:
        """The median over processes (and tasks that came by the same step) of every shape."""
        times: dict[StepShape, list[float]] = defaultdict(list)
        for task in tasks:
            for process in self._processes:
                process.ask(MeasureRequest(task=task))
            answers = [process.answer() for process in self._processes]
            for shape, elapsed_s in (point for answer in answers for point in answer.points):
                times[shape].append(elapsed_s)
            self.cpu_share = float_sum(answer.cpu_s for answer in answers) / max(
                float_sum(answer.steps_s for answer in answers), 1e-9
            )
            advance(task)
        return [Point(shape, median(found)) for shape, found in sorted(times.items())]


@contextlib.contextmanager
def engines(config: ServeConfig, model: ModelFiles) -> Iterator[Engines]:
    """Start as many as there would be workers; whatever happens, none is left."""
    started: list[MeasuringProcess] = []
    with tempfile.TemporaryDirectory(prefix="jedlik-profile-") as folder:
        try:
            for number in range(len(config.roles)):
                started.append(MeasuringProcess(_report(config, model, number, Path(folder))))
            yield Engines(started)
        finally:
            for process in started:
                process.end()


def _report(config: ServeConfig, model: ModelFiles, number: int, folder: Path) -> ProcessConfig:
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


def _hello(answer: Measured) -> LoadedInfo:
    if answer.hello is None:
        raise ConfigError("a measuring process of another release answered: end it and try again")
    return answer.hello


def _there(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
