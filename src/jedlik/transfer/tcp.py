"""The transport `tcp`, to a peer by stream socket: blocks go from their places to their places, each with a checksum.

There is one connection per peer. Where it breaks, a call returns only once it is certain that nothing of it lands any
more: the peer has welcomed a new connection (it ends the old one first), nobody listens there, or the peer has ended.
"""

import threading
import time
from collections.abc import Callable, Sequence

from jedlik.core.errors import PeerError
from jedlik.core.ids import Handle as Ticket
from jedlik.core.moves import Cause
from jedlik.transfer.connection import (
    MAX_PARTS,
    AgentConnection,
    NobodyListens,
    NotWelcome,
    receive_blocks,
    send_blocks,
)
from jedlik.transfer.messages import Get, Landed, MemoryTier, Put, Sent, TrialPut
from jedlik.transfer.region import Region, fill_blocks, trial_memory, views_to_read
from jedlik.transfer.store import Done, Stop

FRAME_BYTES = 8 << 20
"""The bytes of blocks in one message: they are verified and answered together."""
WINDOW = 6
"""The number of messages sent and not yet answered."""
REDIAL_S = 0.2


class TcpTransport:
    """A `Transport` over a stream socket."""

    path = "tcp"
    slice_bytes = 1 << 40

    def __init__(self, dial: Callable[[], AgentConnection], ended: Callable[[], bool]) -> None:
        """`dial` makes a stream that was welcomed; `ended` says whether the peer has, for certain."""
        self._dial = dial
        self._ended = ended
        self._lock = threading.Lock()
        self._connection: AgentConnection | None = None
        self._closed = threading.Event()

    def push(
        self,
        source: Region,
        source_blocks: Sequence[int],
        tier: MemoryTier,
        target_blocks: Sequence[int],
        ticket: Ticket,
        stop: Stop,
    ) -> Done:
        def ask(connection: AgentConnection, first: int, end: int) -> None:
            connection.send(Put(ticket, tier, list(target_blocks[first:end])))
            send_blocks(connection, views_to_read(source, source_blocks[first:end]))

        def take(connection: AgentConnection, first: int, end: int) -> Done:
            answer = connection.receive_answer()
            if not isinstance(answer, Landed):
                raise PeerError(f"{type(answer).__name__} in answer to Put")
            return answer.blocks, answer.cause

        return self._exchange(len(source_blocks), source.block_bytes, ask, take, stop)

    def pull(
        self, tier: MemoryTier, source_blocks: Sequence[int], target: Region, target_blocks: Sequence[int], stop: Stop
    ) -> Done:
        def ask(connection: AgentConnection, first: int, end: int) -> None:
            connection.send(Get(tier, list(source_blocks[first:end])))

        def take(connection: AgentConnection, first: int, end: int) -> Done:
            answer = connection.receive_answer()
            if not isinstance(answer, Sent):
                raise PeerError(f"{type(answer).__name__} in answer to Get")
            return fill_blocks(target, target_blocks[first:end], lambda views: receive_blocks(connection, views))

        return self._exchange(len(source_blocks), target.block_bytes, ask, take, stop)

    def trial(self, count: int, part_bytes: int) -> float:
        payload = [trial_memory(part_bytes).data] * count
        with self._lock:
            connection = self._connected()
            began_s = time.perf_counter()
            try:
                connection.send(TrialPut(count, part_bytes))
                send_blocks(connection, payload)
                connection.receive_answer()
            except PeerError:
                self._drop()
                raise
            return time.perf_counter() - began_s

    def close(self) -> None:
        self._closed.set()
        connection = self._connection
        if connection is not None:
            connection.cut()
        with self._lock:  # whoever was inside comes out now
            self._drop()

    def _exchange(
        self,
        blocks: int,
        block_bytes: int,
        ask: Callable[[AgentConnection, int, int], None],
        take: Callable[[AgentConnection, int, int], Done],
        stop: Stop,
    ) -> Done:
        with self._lock:
            count = [0]
            try:
                return _windowed(self._connected(), count, _frames(blocks, block_bytes), ask, take, stop)
            except NotWelcome as error:
                return 0, error.cause
            except PeerError:
                self._drop()
                self._settle()
                return count[0], "gone"

    def _connected(self) -> AgentConnection:
        if self._connection is None and not self._closed.is_set():
            self._connection = self._dial()
        if self._connection is None or self._closed.is_set():
            raise NobodyListens("the transport is closed")
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _settle(self) -> None:
        """Wait until nothing of the broken stream can land any more."""
        while not self._closed.wait(0) and not self._ended():
            try:
                self._connected()
                return
            except (NobodyListens, NotWelcome):
                return
            except PeerError:
                self._closed.wait(REDIAL_S)


def _frames(blocks: int, block_bytes: int) -> list[tuple[int, int]]:
    step = min(MAX_PARTS - 1, max(1, FRAME_BYTES // block_bytes))
    return [(first, min(blocks, first + step)) for first in range(0, blocks, step)]


def _windowed(
    connection: AgentConnection,
    count: list[int],
    frames: list[tuple[int, int]],
    ask: Callable[[AgentConnection, int, int], None],
    take: Callable[[AgentConnection, int, int], Done],
    stop: Stop,
) -> Done:
    """Ask for frame after frame with a few of them unanswered; `count[0]`: blocks that are there, in a row."""
    cause: Cause = ""
    asked = taken = 0
    while taken < asked or (asked < len(frames) and not cause and not stop()):
        if asked < len(frames) and asked - taken < WINDOW and not cause and not stop():
            ask(connection, *frames[asked])
            asked += 1
            continue
        first, end = frames[taken]
        done, why = take(connection, first, end)
        taken += 1
        if not cause:
            count[0] = first + done
            cause = why
    return count[0], cause or ("" if taken == len(frames) else "cancelled")
