"""What a child process is told (in a file of the private run directory: it holds the cluster key) and how it starts."""

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
from jedlik.live.child import EXIT_CONFIG
from jedlik.live.links import Cluster
from jedlik.live.orphan import Orphanhood, die_with_parent
from jedlik.live.rundir import RunDir
from jedlik.net.discovery.local import LocalDiscovery, LocalFencer
from jedlik.telemetry.log import Log

ALARM_S = 5.0
"""More than an orderly end takes after draining."""
LONGEST_ERROR = 400
"""An error told in a line has at most so many characters. Its trace has at most FRAMES frames there, the innermost."""
FRAMES = 3
EXIT_BUG = 70
"""EX_SOFTWARE: a node's or a doer's exception; the supervisor starts the process again."""


class ProcessConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One incarnation of one child."""

    name: str
    """gateway, worker-0 ..."""
    incarnation: str
    run_dir: str
    parent_pid: int
    cluster_key: bytes
    role: Role = "both"
    """A worker's, at its start."""
    config: ServeConfig
    model_path: str
    model_name: str
    """What clients call it."""
    socket_fd: int | None = None
    """The gateway's listening socket, made by the supervisor."""
    cpus: tuple[int, ...] = ()
    """Those it may run on; none: all."""
    device: str | None = None
    """The GPU it may use, as CUDA_VISIBLE_DEVICES has it; None: all."""

    @property
    def id(self) -> str:
        return f"{self.name}@{self.incarnation}"

    @property
    def run(self) -> RunDir:
        return RunDir(Path(self.run_dir))

    def cluster(self, host: str) -> Cluster:
        """How this process finds the others. Called inside a running loop."""
        return Cluster(LocalDiscovery(self.run.records), LocalFencer(host), host, self.cluster_key)

    @property
    def drain_s(self) -> float:
        """A worker's: whoever wants it to leave sooner ends it."""
        return max(self.config.drain_s, self.config.planner.drain_s)


Main = Callable[[ProcessConfig, Log, asyncio.Event], Coroutine[Any, Any, None]]
"""Runs until the event (SIGTERM or SIGINT) is set and its work is done."""


def run(main: Main, argv: list[str]) -> int:
    """A child's whole life; the exit code."""
    os.umask(0o077)
    told = msgspec.json.decode(Path(argv[1]).read_bytes(), type=ProcessConfig)
    if not told.config.adoptable_s:
        die_with_parent(told.parent_pid)
    if told.cpus:
        os.sched_setaffinity(0, told.cpus)
    if told.device is not None:
        if "CUDA_VISIBLE_DEVICES" not in os.environ:
            os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as nvidia-smi numbers them
        os.environ["CUDA_VISIBLE_DEVICES"] = told.device
    setproctitle.setproctitle(f"jedlik: {told.name}")
    log = Log(told.name, told.config.log_format, sys.stderr)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_signal(main, told, log))
    except ConfigError as error:
        _end(told, log, str(error))
        return EXIT_CONFIG
    except Exception as error:  # the process ends: its state can't be trusted any more
        _end(told, log, f"{type(error).__name__}: {error}", trace_of(error))
        return EXIT_BUG
    return 0


def _end(told: ProcessConfig, log: Log, error: str, trace: str | None = None) -> None:
    """Say why the process ends: in the log, or, where it has never served, to the supervisor, which tells people."""
    if told.run.ready(told.name):
        log.line("failed", error=error, trace=trace)
        return
    try:
        where = "" if trace is None else f" ({' < '.join(trace.split(' < ')[:FRAMES])})"
        told.run.say(told.name, error[:LONGEST_ERROR] + where)
    except OSError:  # the run directory has gone
        log.line("cannot start", error=error, trace=trace)


async def _until_signal(main: Main, told: ProcessConfig, log: Log) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    orphaned = asyncio.create_task(_orphaned(told, log, stop), name="orphanhood")
    try:
        await main(told, log, stop)
    finally:
        orphaned.cancel()
        await asyncio.gather(orphaned, return_exceptions=True)


async def _orphaned(told: ProcessConfig, log: Log, stop: asyncio.Event) -> None:
    """Leave when the supervisor has died and no other one takes this process over."""
    grace_s = told.config.adoptable_s
    if grace_s:
        await Orphanhood(told.run, told.parent_pid, grace_s, log.line).over()
        signal.alarm(math.ceil(told.drain_s + ALARM_S))  # whoever hangs meanwhile is ended by the kernel
        stop.set()


def trace_of(error: BaseException) -> str:
    """Where it happened: innermost frames first, no values."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return " < ".join(reversed(frames))
