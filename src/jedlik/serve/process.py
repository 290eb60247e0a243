"""The configuration of a child process, and how such a process starts and ends.

The configuration is a file of the private run directory, because it holds the cluster key.
"""

import asyncio
import math
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import setproctitle
import uvloop

from jedlik.core.config import Role, ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.live.adopt import Orphanhood, die_with_parent
from jedlik.live.child import EXIT_CONFIG
from jedlik.live.links import Cluster
from jedlik.live.rundir import RunDir
from jedlik.net.discovery.local import LocalDiscovery, LocalFencer
from jedlik.telemetry.log import Log

ALARM_S = 5.0
"""More than an orderly end takes after draining."""
LONGEST_ERROR = 400
"""The longest error in a line for people, in characters."""
FRAMES = 3
"""The number of innermost frames of its trace there."""
EXIT_BUG = 70
"""EX_SOFTWARE: a node's or a doer's exception; the supervisor starts the process again."""


class ProcessConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One incarnation of one child."""

    name: str
    """The process's name: gateway, worker-0 and so on."""
    incarnation: str
    run_dir: str
    parent_pid: int
    cluster_key: bytes
    role: Role = "both"
    """A worker's role at its start."""
    config: ServeConfig
    pool: str = ""
    """The pool of a worker."""
    model_path: str
    model_name: str
    """The name by which clients ask for the model."""
    models: dict[str, str] = {}
    """The folders of all models that the server serves, by the names that clients use."""
    socket_fd: int | None = None
    """The gateway's listening socket, made by the supervisor."""
    cpus: tuple[int, ...] = ()
    """The CPUs that the process may run on; none: all."""
    device: str | None = None
    """The GPU it may use, as CUDA_VISIBLE_DEVICES has it; None: all."""

    @property
    def id(self) -> str:
        return f"{self.name}@{self.incarnation}"

    @property
    def run(self) -> RunDir:
        return RunDir(Path(self.run_dir))

    def cluster(self, host: str) -> Cluster:
        """Return how this process finds the others. Called inside a running loop."""
        return Cluster(LocalDiscovery(self.run.records), LocalFencer(host), host, self.cluster_key)

    @property
    def drain_s(self) -> float:
        """The seconds for which a worker drains; whoever wants it to leave sooner ends it."""
        return max(self.config.drain_s, self.config.planner.drain_s)


Main = Callable[[ProcessConfig, Log, asyncio.Event], Coroutine[Any, Any, None]]
"""Runs until the event (SIGTERM or SIGINT) is set and its work is done."""


def run(main: Main, argv: list[str]) -> int:
    """Run a child for its whole life; return the exit code."""
    os.umask(0o077)
    process = msgspec.json.decode(Path(argv[1]).read_bytes(), type=ProcessConfig)
    if not process.config.adoptable_s:
        die_with_parent(process.parent_pid)
    if process.cpus:
        os.sched_setaffinity(0, process.cpus)
    if process.device is not None:
        if "CUDA_VISIBLE_DEVICES" not in os.environ:
            os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as nvidia-smi numbers them
        os.environ["CUDA_VISIBLE_DEVICES"] = process.device
    setproctitle.setproctitle(f"jedlik: {process.name}")
    log = Log(process.name, process.config.log_format, sys.stderr)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_signal(main, process, log))
    except ConfigError as error:
        _end(process, log, str(error))
        return EXIT_CONFIG
    except Exception as error:  # the process ends: its state can't be trusted any more
        _end(process, log, f"{type(error).__name__}: {error}", trace_of(error))
        return EXIT_BUG
    return 0


def _end(process: ProcessConfig, log: Log, error: str, trace: str | None = None) -> None:
    """Say why the process ends: in the log, or, where it has never served, to the supervisor, which tells people."""
    if process.run.ready(process.name):
        log.line("failed", error=error, trace=trace)
        return
    try:
        where = "" if trace is None else f" ({' < '.join(trace.split(' < ')[:FRAMES])})"
        process.run.leave_words(process.name, error[:LONGEST_ERROR] + where)
    except OSError:  # the run directory has gone
        log.line("cannot start", error=error, trace=trace)


async def _until_signal(main: Main, process: ProcessConfig, log: Log) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    orphaned = asyncio.create_task(_orphaned(process, log, stop), name="orphanhood")
    try:
        await main(process, log, stop)
    finally:
        orphaned.cancel()
        await asyncio.gather(orphaned, return_exceptions=True)


async def _orphaned(process: ProcessConfig, log: Log, stop: asyncio.Event) -> None:
    """Leave when the supervisor has died and no other one takes this process over."""
    grace_s = process.config.adoptable_s
    if grace_s:
        await Orphanhood(process.run, process.parent_pid, grace_s, log.line).over()
        signal.alarm(math.ceil(process.drain_s + ALARM_S))  # whoever hangs meanwhile is ended by the kernel
        stop.set()


def trace_of(error: BaseException) -> str:
    """Return where an exception happened: innermost frames first, no values."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return " < ".join(reversed(frames))
