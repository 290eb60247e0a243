"""The transfers in flight: one table of them, and the queues that carry them out.

        perform(Move) ─> InFlight.add ─> TransferQueue.put ─> its thread: begin, advance slice by slice, end ─> Moved
                              │                                                   ▲
                              └── one thread of the table ends what is late and what was stopped before it began

Each transfer is reported once, whatever happens; one that has not begun by its deadline is reported as late. The table
also keeps what the agent's paths cost and which of them failed. Every queue has threads of its own, so a slow disk
delays no hand-off. Within a queue hand-offs and fetches go before offloads, else by number; a long offload gives way
between its slices.
"""

import heapq
import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from jedlik.core.moves import CarrierReport, Cause, Move, Moved
from jedlik.perf.paths import Paths

Notify = Callable[[CarrierReport], None]
BLAMED: frozenset[Cause] = frozenset(("gone", "corrupt", "failed"))
"""Ends of transfers that speak against their path."""
MAX_WAITING = 4096
"""The largest number of transfers in one queue; a transfer that comes on top is late."""


class Transfer:
    """One move, from being asked for to its end. `done`, `path` and `cost_key` belong to the thread that carries it."""

    def __init__(self, move: Move, block_bytes: int) -> None:
        self.move = move
        self.number = move.number
        self.blocks = move.blocks
        self.size_bytes = move.blocks * block_bytes
        self.asked_s = time.monotonic()
        self.deadline_s = self.asked_s + move.deadline_s
        self.began_s: float | None = None
        self.stop_cause: Cause = ""
        """The reason why the transfer is to end soon."""
        self.done = 0
        """How many of the first blocks have arrived."""
        self.path = ""
        self.cost_key = ""
        """The key of the transfer's costs: the path, and the worker at its other end."""
        self.ended = threading.Event()

    def should_stop(self) -> bool:
        """Return whether whoever carries the transfer should end early (a `store.Stop`)."""
        return self.stop_cause != ""

    def next_slice(self, slice_bytes: int) -> slice:
        """Return the positions of the next blocks, as many as fit into so many bytes and at least one."""
        per_block = max(1, self.size_bytes // max(1, self.blocks))
        return slice(self.done, min(self.blocks, self.done + max(1, slice_bytes // per_block)))

    def outcome(self) -> Cause | None:
        """Return how the transfer ends after a slice that went well; None: there are more slices."""
        return "" if self.done == self.blocks else None


class Operation(Protocol):
    """The way in which a transfer is carried out."""

    def advance(self, transfer: Transfer) -> Cause | None:
        """Move the next blocks and count them in `transfer.done`. None: there are more; else how the transfer ended."""


class InFlight:
    """The table of transfers in flight. Every method may be called from any thread."""

    def __init__(self, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self.costs = Paths()
        """The costs of the agent's paths; used only under `lock`."""
        self.lock = threading.RLock()
        self._wake = threading.Condition(self.lock)
        self._transfers: dict[int, Transfer] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._calls: list[Callable[[], None]] = []
        self._notify: Notify | None = None
        self._thread = threading.Thread(target=self._run, name="jedlik-in-flight", daemon=True)

    def start(self, notify: Notify) -> None:
        self._notify = notify
        self._thread.start()

    def add(self, move: Move) -> Transfer:
        transfer = Transfer(move, self.block_bytes)
        with self._wake:
            self._transfers[transfer.number] = transfer
            if transfer.deadline_s < math.inf:
                heapq.heappush(self._deadlines, (transfer.deadline_s, transfer.number))
                self._wake.notify()
        return transfer

    def find(self, number: int) -> Transfer | None:
        with self.lock:
            return self._transfers.get(number)

    def begin(self, transfer: Transfer) -> bool:
        """Return whether to carry a transfer (on); where not, it has been ended."""
        with self.lock:
            if transfer.ended.is_set():
                return False
            cause = transfer.stop_cause or ("late" if _is_late(transfer) else "")
            if cause:
                self.end(transfer, cause)
                return False
            if transfer.began_s is None:
                transfer.began_s = time.monotonic()
            return True

    def stop(self, transfer: Transfer, cause: Cause) -> None:
        """End a transfer: at once (but not inside this call) if it has not begun, else as soon as its carrier looks."""
        with self.lock:
            if not transfer.stop_cause and not transfer.ended.is_set():
                transfer.stop_cause = cause
                if transfer.began_s is None:
                    self.run_soon(lambda: self._end_unbegun(transfer))

    def end(self, transfer: Transfer, cause: Cause) -> None:
        """End a transfer and report it, in the caller's thread; a second end does nothing."""
        now = time.monotonic()
        with self.lock:
            if transfer.ended.is_set():
                return
            del self._transfers[transfer.number]
            self.uncharge(transfer, cause)
            began_s = transfer.began_s if transfer.began_s is not None else now
            ended = Moved(
                number=transfer.number,
                blocks=transfer.done,
                cause=cause,
                path=transfer.path,
                size_bytes=transfer.done * self.block_bytes,
                queued_s=began_s - transfer.asked_s,
                elapsed_s=now - began_s,
            )
            self.report(ended)
            transfer.ended.set()

    def charge(self, transfer: Transfer, path: str, cost_key: str) -> None:
        """Count a transfer on the path that has been chosen for it."""
        with self.lock:
            if not transfer.ended.is_set():
                transfer.path, transfer.cost_key = path, cost_key
                self.costs.began(cost_key, transfer.blocks, transfer.size_bytes)

    def uncharge(self, transfer: Transfer, cause: Cause) -> None:
        """Take a transfer off its path, for this reason."""
        with self.lock:
            if transfer.cost_key:
                now = time.monotonic()
                ok = True if not cause else (False if cause in BLAMED else None)
                elapsed_s = now - (transfer.began_s if transfer.began_s is not None else now)
                key, transfer.cost_key = transfer.cost_key, ""
                self.costs.ended(key, transfer.blocks, transfer.size_bytes, elapsed_s, ok, now)

    def report(self, report: CarrierReport) -> None:
        """Give the worker a report, in the caller's thread; one at a time."""
        with self.lock:
            if self._notify is not None:
                self._notify(report)

    def run_soon(self, call: Callable[[], None]) -> None:
        """Run a call on the table's thread."""
        with self._wake:
            self._calls.append(call)
            self._wake.notify()

    def stop_all(self) -> None:
        """Let every transfer end soon, without a report."""
        with self.lock:
            self._notify = None
            for transfer in self._transfers.values():
                transfer.stop_cause = transfer.stop_cause or "cancelled"

    def abandon(self) -> None:
        """Forget all transfers: no thread carries any of them now."""
        with self.lock:
            for transfer in self._transfers.values():
                transfer.ended.set()
            self._transfers.clear()

    def close(self) -> None:
        """Stop the table's thread; nothing is reported after this. Whoever else reports has been stopped before."""
        with self._wake:
            self._notify = None
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while self._notify is not None and not self._calls and not self._overdue():
                    self._wake.wait(self._wait_s())
                if self._notify is None:
                    return
                calls, self._calls = self._calls, []
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
                transfer = self._transfers.get(heapq.heappop(self._deadlines)[1])
                if transfer is not None and transfer.began_s is None:
                    self.end(transfer, "late")

    def _end_unbegun(self, transfer: Transfer) -> None:
        with self.lock:
            if transfer.began_s is None:
                self.end(transfer, transfer.stop_cause or "failed")


def _is_late(transfer: Transfer) -> bool:
    return transfer.began_s is None and time.monotonic() >= transfer.deadline_s


def _rank(move: Move) -> int:
    """0: a sequence waits for the move. 1: it is an offload."""
    return 0 if move.target.tier == "device" or move.target.worker is not None else 1


class TransferQueue:
    """A queue of transfers, carried by `threads` threads: so many at a time."""

    def __init__(self, name: str, threads: int, in_flight: InFlight) -> None:
        self._in_flight = in_flight
        self._wake = threading.Condition()
        self._waiting: list[tuple[int, int, Transfer, Operation]] = []
        self._closing = self._finishing = False
        self._threads = [
            threading.Thread(target=self._run, name=f"jedlik-{name}-{i}", daemon=True) for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, transfer: Transfer, operation: Operation) -> None:
        """Queue a transfer; returns at once. Where the queue is full the transfer is late."""
        with self._wake:
            if len(self._waiting) < MAX_WAITING and not self._closing:
                self._push(transfer, operation)
                return
        self._in_flight.stop(transfer, "late")

    def close(self) -> None:
        """Drop the transfers that wait and end the one that is carried at its next slice; `join` waits for that."""
        with self._wake:
            self._closing = True
            for *_, transfer, _ in self._waiting:
                transfer.stop_cause = transfer.stop_cause or "cancelled"
            self._wake.notify_all()

    def finish(self) -> None:
        """End the threads after the last transfer that waits: none will come any more. Returns at once."""
        with self._wake:
            self._finishing = True
            self._wake.notify_all()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _push(self, transfer: Transfer, operation: Operation) -> None:
        heapq.heappush(self._waiting, (_rank(transfer.move), transfer.number, transfer, operation))
        self._wake.notify()

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            transfer, operation = taken
            if not self._in_flight.begin(transfer):
                continue
            cause = self._advance(transfer, operation)
            if cause is None:
                with self._wake:
                    self._push(transfer, operation)
            else:
                self._in_flight.end(transfer, cause)

    def _next(self) -> tuple[Transfer, Operation] | None:
        with self._wake:
            while not self._waiting and not self._closing and not self._finishing:
                self._wake.wait()
            if self._closing or not self._waiting:
                return None
            return heapq.heappop(self._waiting)[2:]

    def _advance(self, transfer: Transfer, operation: Operation) -> Cause | None:
        try:
            return operation.advance(transfer)
        except Exception:  # a bug in a transport or a store: shown, and only this transfer fails
            kind, error, trace = sys.exc_info()
            threading.excepthook(threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))
            return "failed"
