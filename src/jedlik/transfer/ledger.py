"""The moves in hand: each is told of once, whatever happens; what has not begun by its deadline is told as late.

Also keeps what the paths of this agent cost and which ones failed lately. One thread tells what nobody else's thread
can: deadlines, and answers to calls that must not be answered inside the call.
"""

import heapq
import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

from jedlik.core.moves import Cause, Move, Moved, Told
from jedlik.perf.paths import Paths

Tell = Callable[[Told], None]
BLAMED: frozenset[Cause] = frozenset(("gone", "corrupt", "failed"))
"""Ends that speak against the path."""


class Job:
    """One move, from being asked for to its end. `done`, `path` and `key` belong to the thread that carries it."""

    def __init__(self, move: Move, block_bytes: int) -> None:
        self.move = move
        self.number = move.number
        self.blocks = move.blocks
        self.size_bytes = move.blocks * block_bytes
        self.asked_s = time.monotonic()
        self.deadline_s = self.asked_s + move.deadline_s
        self.began_s: float | None = None
        self.stopping: Cause = ""
        """Why it is to end soon."""
        self.done = 0
        """How many of the first blocks have arrived."""
        self.path = ""
        self.key = ""
        """What its costs are kept under: the path, and to whom."""
        self.over = threading.Event()

    def stop(self) -> bool:
        """Whether whoever carries it should end early (a `store.Stop`)."""
        return self.stopping != ""


class Board(Protocol):
    """What lanes need of the ledger."""

    def begin(self, job: Job) -> bool:
        """Whether to carry it (on)."""

    def end(self, job: Job, cause: Cause) -> None:
        """It is over."""

    def stop(self, job: Job, cause: Cause) -> None:
        """It is to end soon."""


class Ledger:
    """Called from any thread."""

    def __init__(self, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self.costs = Paths()
        """Only under `lock`."""
        self.lock = threading.RLock()
        self._wake = threading.Condition(self.lock)
        self._jobs: dict[int, Job] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._later: list[Callable[[], None]] = []
        self._tell: Tell | None = None
        self._thread = threading.Thread(target=self._run, name="jedlik-ledger", daemon=True)

    def start(self, tell: Tell) -> None:
        self._tell = tell
        self._thread.start()

    def enter(self, move: Move) -> Job:
        job = Job(move, self.block_bytes)
        with self._wake:
            self._jobs[job.number] = job
            if job.deadline_s < math.inf:
                heapq.heappush(self._deadlines, (job.deadline_s, job.number))
                self._wake.notify()
        return job

    def find(self, number: int) -> Job | None:
        with self.lock:
            return self._jobs.get(number)

    def begin(self, job: Job) -> bool:
        with self.lock:
            if job.over.is_set():
                return False
            cause = job.stopping or ("late" if self._late(job) else "")
            if cause:
                self.end(job, cause)
                return False
            if job.began_s is None:
                job.began_s = time.monotonic()
            return True

    def stop(self, job: Job, cause: Cause) -> None:
        """End it: at once (but not inside this call) if it has not begun, else as soon as its carrier looks."""
        with self.lock:
            if not job.stopping and not job.over.is_set():
                job.stopping = cause
                if job.began_s is None:
                    self.later(lambda: self._end_unbegun(job))

    def end(self, job: Job, cause: Cause) -> None:
        """Told here, in the caller's thread; a second end says nothing."""
        now = time.monotonic()
        with self.lock:
            if job.over.is_set():
                return
            del self._jobs[job.number]
            self.uncharge(job, cause)
            began_s = job.began_s if job.began_s is not None else now
            size_bytes = job.done * self.block_bytes
            moved = Moved(job.number, job.done, cause, job.path, size_bytes, began_s - job.asked_s, now - began_s)
            self.say(moved)
            job.over.set()

    def charge(self, job: Job, path: str, key: str) -> None:
        """A path has been chosen for it."""
        with self.lock:
            if not job.over.is_set():
                job.path, job.key = path, key
                self.costs.began(key, job.blocks, job.size_bytes)

    def uncharge(self, job: Job, cause: Cause) -> None:
        """It has left its path, for this reason."""
        with self.lock:
            if job.key:
                now = time.monotonic()
                ok = True if not cause else (False if cause in BLAMED else None)
                elapsed_s = now - (job.began_s if job.began_s is not None else now)
                self.costs.ended(job.key, job.blocks, job.size_bytes, elapsed_s, ok, now)
                job.key = ""

    def say(self, told: Told) -> None:
        """Tell, in the caller's thread; one at a time."""
        with self.lock:
            if self._tell is not None:
                self._tell(told)

    def later(self, call: Callable[[], None]) -> None:
        """Run it soon, on the ledger's thread."""
        with self._wake:
            self._later.append(call)
            self._wake.notify()

    def halt(self) -> None:
        """Everything is to end soon, untold."""
        with self.lock:
            self._tell = None
            for job in self._jobs.values():
                job.stopping = job.stopping or "cancelled"

    def abandon(self) -> None:
        """Nobody carries anything any more."""
        with self.lock:
            for job in self._jobs.values():
                job.over.set()
            self._jobs.clear()

    def close(self) -> None:
        """Nothing is told after this returns. Everybody else who tells has been stopped before."""
        with self._wake:
            self._tell = None
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while self._tell is not None and not self._later and not self._overdue():
                    self._wake.wait(self._wait_s())
                if self._tell is None:
                    return
                calls, self._later = self._later, []
            for call in calls:
                call()
            self._end_overdue()

    def _wait_s(self) -> float | None:
        return max(0.0, self._deadlines[0][0] - time.monotonic()) if self._deadlines else None

    def _overdue(self) -> bool:
        return bool(self._deadlines) and self._deadlines[0][0] <= time.monotonic()

    def _end_overdue(self) -> None:
        with self.lock:
            while self._overdue():
                job = self._jobs.get(heapq.heappop(self._deadlines)[1])
                if job is not None and job.began_s is None:
                    self.end(job, "late")

    def _end_unbegun(self, job: Job) -> None:
        with self.lock:
            if job.began_s is None:
                self.end(job, job.stopping or "failed")

    def _late(self, job: Job) -> bool:
        return job.began_s is None and time.monotonic() >= job.deadline_s
