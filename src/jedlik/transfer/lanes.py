"""Queues of moves, each with threads of its own: a slow disk delays no hand-off.

Within a lane hand-offs and fetches go before offloads, else by number; a long offload gives way between its slices.
"""

import heapq
import sys
import threading
from typing import Protocol

from jedlik.core.moves import Cause, Move
from jedlik.transfer.ledger import Board, Job

MAX_WAITING = 4096
"""Moves in one lane; what comes on top is late."""


class Work(Protocol):
    """How a job is carried."""

    def carry(self, job: Job) -> Cause | None:
        """Move its next blocks and count them in `job.done`. None: there are more; else how it ended."""


def rank(move: Move) -> int:
    """0: somebody waits for it. 1: an offload."""
    return 0 if move.target.tier == "device" or move.target.worker is not None else 1


class Lane:
    """`threads` jobs at a time."""

    def __init__(self, name: str, threads: int, board: Board) -> None:
        self._board = board
        self._wake = threading.Condition()
        self._waiting: list[tuple[int, int, Job, Work]] = []
        self._closing = self._finishing = False
        self._threads = [
            threading.Thread(target=self._run, name=f"jedlik-{name}-{i}", daemon=True) for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, job: Job, work: Work) -> None:
        """Returns at once."""
        with self._wake:
            if len(self._waiting) < MAX_WAITING and not self._closing:
                heapq.heappush(self._waiting, (rank(job.move), job.number, job, work))
                self._wake.notify()
                return
        self._board.stop(job, "late")

    def close(self) -> None:
        """What waits is dropped, what runs ends at its next slice."""
        with self._wake:
            self._closing = True
            for *_, job, _ in self._waiting:
                job.stopping = job.stopping or "cancelled"
            self._wake.notify_all()

    def finish(self) -> None:
        """No job will come any more: its threads end after the last that waits. Returns at once."""
        with self._wake:
            self._finishing = True
            self._wake.notify_all()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            job, work = taken
            if not self._board.begin(job):
                continue
            cause = self._carry(job, work)
            if cause is None:
                self._again(job, work)
            else:
                self._board.end(job, cause)

    def _next(self) -> tuple[Job, Work] | None:
        with self._wake:
            while not self._waiting and not self._closing and not self._finishing:
                self._wake.wait()
            if self._closing or not self._waiting:
                return None
            return heapq.heappop(self._waiting)[2:]

    def _again(self, job: Job, work: Work) -> None:
        with self._wake:
            heapq.heappush(self._waiting, (rank(job.move), job.number, job, work))
            self._wake.notify()

    def _carry(self, job: Job, work: Work) -> Cause | None:
        try:
            return work.carry(job)
        except Exception:  # a bug in a path or a store: shown, and only this move fails
            kind, error, trace = sys.exc_info()
            threading.excepthook(threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))
            return "failed"
