"""Queue depth for stores: the pieces of one read or write, done in parallel by a few threads and the caller's own.

Nothing is touched after `run` returns or raises, and pieces begin in order.
"""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from jedlik.core.moves import Cause
from jedlik.transfer.store import Done, Stop

Piece = Callable[[int], Cause]
"""A call that does piece i and returns why it could not."""


class Parallel:
    """`depth` pieces at a time for one caller; several callers share the helping threads."""

    def __init__(self, depth: int, name: str) -> None:
        self._depth = depth
        self._pool = ThreadPoolExecutor(max(1, depth - 1), thread_name_prefix=f"jedlik-{name}")

    def run(self, pieces: int, piece: Piece, stop: Stop) -> Done:
        """Do pieces; return how many of the first are done, and why not all. None begins after one before it failed."""
        job = _Pieces(pieces, piece, stop)
        helping = [self._pool.submit(job.work) for _ in range(min(self._depth, pieces) - 1)]
        try:
            job.work()
        finally:
            ended = [_ended(future) for future in helping]
        for error in ended:
            if error is not None:
                raise error
        return job.first_bad, job.cause

    def close(self) -> None:
        self._pool.shutdown()


def _ended(future: "Future[None]") -> BaseException | None:
    """Wait for a future, unless it never began; return what it raised."""
    return None if future.cancel() else future.exception()


class _Pieces:
    def __init__(self, pieces: int, piece: Piece, stop: Stop) -> None:
        self.first_bad = pieces
        self.cause: Cause = ""
        self._numbers = itertools.count()  # next() of it is atomic
        self._piece = piece
        self._stop = stop
        self._lock = threading.Lock()

    def work(self) -> None:
        for number in self._numbers:
            if number >= self.first_bad:
                return
            cause: Cause = "cancelled" if self._stop() else self._piece(number)
            if cause:
                with self._lock:
                    if number < self.first_bad:
                        self.first_bad, self.cause = number, cause
