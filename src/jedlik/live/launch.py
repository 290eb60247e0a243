"""Launchers start and end workers where a planner says so: their contract, and the one for processes of this host.

A worker is named by its place and the number of its start there, as in the planner's effects. A local worker serves
when its status file is empty. How it ended is told by its exit code; one that was found running when the supervisor
began leaves none behind, and counts as killed where it was not asked to go.
"""

import asyncio
import signal
from collections.abc import Callable
from typing import NamedTuple, Protocol

from jedlik.core.config import Role
from jedlik.core.events import MemberEnded, MemberReady
from jedlik.core.ids import WorkerId
from jedlik.core.plans import Cause
from jedlik.live.child import EXIT_CONFIG, Say, ending, stopped
from jedlik.live.running import Running

POLL_S = 0.1
Tell = Callable[[MemberReady | MemberEnded, str], None]
"""A call with an event, what became of a worker, and how the worker ended in words."""


class Launcher(Protocol):
    """A launcher starts and ends workers. Calls return at once; every start ends with one `MemberEnded`."""

    def listen(self, tell: Tell) -> None:
        """Set who gets the events; called before anything is started."""

    def start(self, name: str, start: int, role: Role) -> None:
        """Start a worker; `MemberReady` follows when it serves."""

    def stop(self, name: str, start: int) -> None:
        """Have a worker finish what it has, however long that takes, and leave. Nothing happens where it has ended."""

    def kill(self, name: str, start: int) -> None:
        """End a worker at once."""

    async def close(self, budget_s: float) -> None:
        """Stop all workers, and kill those that have not ended then. No event is given any more."""


class StartedWorker(NamedTuple):
    """A process of a worker, and what the worker calls itself."""

    process: Running
    worker: WorkerId


Spawn = Callable[[str, int, Role], StartedWorker]
"""A call with name, start and role."""
IsReady = Callable[[str], bool]
"""Whether the process of this name serves."""
LastWords = Callable[[str], str]
"""Why the process of this name ended, in its own words."""


class _Worker:
    """One start of one worker."""

    def __init__(self, name: str, start: int, started: StartedWorker) -> None:
        self.name, self.start, self.process, self.worker = name, start, started.process, started.worker
        self.ready = self.asked = False


class LocalLauncher:
    """All workers of one supervisor. Made inside a running loop."""

    def __init__(self, spawn: Spawn, is_ready: IsReady, say: Say, last_words: LastWords = lambda name: "") -> None:
        self._spawn = spawn
        self._is_ready = is_ready
        self._say = say
        self._last_words = last_words
        self._tell: Tell = _unheard
        self._workers: dict[str, _Worker] = {}
        self._loop = asyncio.get_running_loop()
        self._look: asyncio.TimerHandle | None = None
        self._closing = False

    @property
    def serving(self) -> int:
        """Return the number of workers that serve."""
        return sum(worker.ready for worker in self._workers.values())

    def listen(self, tell: Tell) -> None:
        self._tell = tell

    def start(self, name: str, start: int, role: Role) -> None:
        try:
            started = self._spawn(name, start, role)
        except OSError as error:  # no process more, no memory: as if it had ended at once
            failed = MemberEnded(name, start, "crashed")
            self._loop.call_soon(self._tell, failed, f"could not be started ({error})")
            return
        self.keep(name, start, started)

    def keep(self, name: str, start: int, started: StartedWorker) -> None:
        """Watch a process that runs: what becomes of it is told as if it had been started here."""
        worker = self._workers[name] = _Worker(name, start, started)
        worker.process.ended.add_done_callback(lambda ended: self._ended(worker, ended.result()))
        self._look_soon()

    def stop(self, name: str, start: int) -> None:
        self._signal(name, start, signal.SIGTERM)

    def kill(self, name: str, start: int) -> None:
        self._signal(name, start, signal.SIGKILL)

    async def close(self, budget_s: float) -> None:
        self._closing = True
        if self._look is not None:
            self._look.cancel()
        workers = list(self._workers.values())
        await asyncio.gather(*(stopped(one.name, one.process, budget_s, self._say) for one in workers))

    def kill_all(self) -> None:
        """Kill all workers at once. No event is given any more."""
        self._closing = True
        for worker in self._workers.values():
            worker.process.signal(signal.SIGKILL)

    def _signal(self, name: str, start: int, number: signal.Signals) -> None:
        worker = self._workers.get(name)
        if worker is not None and worker.start == start:
            worker.asked = True
            worker.process.signal(number)

    def _look_soon(self) -> None:
        if self._look is None:
            self._look = self._loop.call_later(POLL_S, self._find_ready)

    def _find_ready(self) -> None:
        self._look = None
        for worker in list(self._workers.values()):
            if not worker.ready and self._is_ready(worker.name):
                worker.ready = True
                self._tell(MemberReady(worker.name, worker.start, worker.worker), "")
        if not self._closing and not all(worker.ready for worker in self._workers.values()):
            self._look_soon()

    def _ended(self, worker: _Worker, code: int | None) -> None:
        if self._workers.get(worker.name) is worker:
            del self._workers[worker.name]
        if not self._closing:
            cause = cause_of(code, asked=worker.asked)
            words = self._last_words(worker.name)
            how = words if words and cause == "hopeless" else ending(code, words)
            self._tell(MemberEnded(worker.name, worker.start, cause), how)


def cause_of(code: int | None, *, asked: bool) -> Cause:
    """Why a process has ended, by its exit code (None: unknown)."""
    if asked:
        return "asked"
    if code == EXIT_CONFIG:
        return "hopeless"
    return "killed" if code in (None, 0, -signal.SIGKILL) else "crashed"  # 0: somebody's SIGTERM


def _unheard(event: MemberReady | MemberEnded, words: str) -> None:
    """Nobody listens yet."""
