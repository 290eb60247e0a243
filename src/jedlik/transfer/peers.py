"""Other workers' agents: a control connection to each, the transfers that wait for it, and its death.

A peer is dead only where that is certain: its process has ended (seen by pid and start time), or `met` said so. A peer
that merely does not answer keeps its transfers until their deadlines, and its revocations until it has answered or is
dead.
"""

import contextlib
import os
import select
import threading
from collections.abc import Callable

from jedlik.core.errors import Bug, PeerError
from jedlik.core.ids import Handle as Ticket
from jedlik.core.ids import WorkerId
from jedlik.core.moves import Cause, PathsMeasured, Revoked
from jedlik.transfer.connection import AgentConnection, NotWelcome, dial
from jedlik.transfer.inflight import Transfer, TransferQueue
from jedlik.transfer.messages import AgentCard, AgentHello, MemoryTier, StopWriting, Welcome, WritesStopped
from jedlik.transfer.operations import PeerExchange
from jedlik.transfer.processes import ProcessWatch
from jedlik.transfer.transports import AgentState, PeerTransports

RETRY_S = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
"""The waits between attempts to connect; the last one again and again."""
PRUNE_TRANSFERS = 64


class PeerAgent:
    """The agent of one incarnation of another worker."""

    def __init__(self, worker: WorkerId, state: AgentState, on_end: Callable[[WorkerId], None]) -> None:
        """`on_end` is called on this peer's thread when it is dead."""
        self.worker = worker
        self.transports = PeerTransports(worker, state, self.dead)
        self._state = state
        self._in_flight = state.in_flight
        self._on_end = on_end
        self._lock = threading.Lock()
        self._process: ProcessWatch | None = None
        self._ended = self._reported_dead = self._closing = self._measured = False
        self._refused: Cause = ""
        self._parked: list[tuple[Transfer, PeerExchange]] = []
        self._transfers: dict[int, Transfer] = {}
        self._prune_at = PRUNE_TRANSFERS
        self._revoked: list[list[Ticket]] = []
        self._connection: AgentConnection | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._queue = TransferQueue(f"to-{worker}", 1, state.in_flight)
        self._thread = threading.Thread(target=self._run, name=f"jedlik-peer-{worker}", daemon=True)
        self._thread.start()

    def met(self, address: str | None) -> None:
        """Learn where the agent listens; None: its process has ended."""
        with self._lock:
            if address is None:
                self._reported_dead = True
                if self._connection is not None:
                    self._connection.cut()
            else:
                self.transports.address = address
        self._wake()

    def heard(self, card: AgentCard) -> None:
        """Learn from the agent's card which process it is."""
        with self._lock:
            if self._process is None:
                self._process = ProcessWatch(card.process)
        self._wake()

    def dead(self) -> bool:
        """Return whether the peer has certainly ended."""
        process = self._process
        return self._reported_dead or self._ended or (process is not None and process.dead())

    def submit(self, transfer: Transfer, operation: PeerExchange, *, pushing: bool) -> None:
        """Carry a transfer as soon as there is a transport. Returns at once."""
        with self._lock:
            if self._ended or self._refused:
                self._in_flight.stop(transfer, self._refused or "gone")
                return
            if pushing and transfer.move.ticket in self.transports.stopped:
                self._in_flight.stop(transfer, "stale")
                return
            self._transfers[transfer.number] = transfer
            if len(self._transfers) > self._prune_at:
                self._prune()
            if not self.transports.open:
                self._parked.append((transfer, operation))
                return
        self._queue.put(transfer, operation)

    def _prune(self) -> None:
        """Forget the transfers that have ended. Done now and then, so that it costs little however many wait."""
        self._transfers = {number: known for number, known in self._transfers.items() if not known.ended.is_set()}
        self._parked = [(known, its) for known, its in self._parked if not known.ended.is_set()]
        self._prune_at = 2 * len(self._transfers) + PRUNE_TRANSFERS

    def revoke(self, tickets: list[Ticket]) -> None:
        """Report `Revoked` once the peer has stopped writing for these tickets, or is dead."""
        with self._lock:
            self._revoked.append(tickets)
        self._wake()

    def stop_writing(self, tickets: list[Ticket]) -> None:
        """Write no more for these tickets of the peer's. Returns when that is certain."""
        with self._lock:
            self.transports.stopped.update(tickets)
            concerned = [t for t in self._transfers.values() if t.move.ticket in self.transports.stopped]
        for transfer in concerned:
            self._in_flight.stop(transfer, "stale")
        for transfer in concerned:
            transfer.ended.wait()

    def close(self) -> None:
        """Stop; `join` waits for it."""
        self._closing = True
        self.transports.close()
        self._queue.close()
        with self._lock:
            if self._connection is not None:
                self._connection.cut()
        self._wake()

    def join(self) -> None:
        self._queue.join()
        self._thread.join()
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        """Nobody waits for anything any more."""
        with self._lock:
            if self._wake_fd >= 0:
                os.close(self._wake_fd)
                self._wake_fd = -1
        if self._process is not None:
            self._process.close()

    def _wake(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def _run(self) -> None:
        attempts = 0
        while not self._closing:
            if self.dead():
                self._end()
                return
            if self.transports.address is None or self._refused:
                self._wait(None)
                continue
            try:
                self._talk(self._connect())
                attempts = 0
            except NotWelcome as error:
                self._refuse(error.cause)
            except PeerError:
                if not self._closing and not self.dead():
                    self._wait(RETRY_S[min(attempts, len(RETRY_S) - 1)])
                    attempts += 1

    def _connect(self) -> AgentConnection:
        if self.transports.address is None:
            raise Bug("a peer without an address is not connected to")
        hello = AgentHello(self._state.card, self.worker, "control")
        connection, welcome = dial(self.transports.address, self._state.options.key, hello)
        with self._lock:
            self._connection = connection
            self.transports.stopped.update(welcome.stopped)
        self._welcomed(welcome)
        return connection

    def _welcomed(self, welcome: Welcome) -> None:
        """Make and measure the transports to the peer, once, and queue the transfers that waited for them."""
        self.heard(welcome.card)
        if not self.transports.open:
            found = self.transports.connect(welcome.card)
            with self._lock:
                self.transports.open = found
                parked, self._parked = self._parked, []
            for transfer, operation in parked:
                self._queue.put(transfer, operation)
        if self._state.options.probe and not self._measured:
            self._measured = True
            self._in_flight.report(PathsMeasured(self.transports.measure()))

    def _talk(self, connection: AgentConnection) -> None:
        """Ask what is to be asked, until the connection or the peer ends."""
        try:
            while not self._closing and not self.dead():
                if self._revoked:
                    self._ask_to_stop(connection)
                else:
                    self._wait(None, connection)
        finally:
            with self._lock:
                self._connection = None
            connection.close()

    def _ask_to_stop(self, connection: AgentConnection) -> None:
        tickets = self._revoked[0]
        connection.send(StopWriting(tickets))
        answer = connection.receive_answer()
        if not isinstance(answer, WritesStopped):
            raise PeerError(f"{type(answer).__name__} in answer to StopWriting")
        with self._lock:
            self._revoked.pop(0)
        self._in_flight.report(Revoked(self.worker, tickets))

    def _wait(self, timeout_s: float | None, connection: AgentConnection | None = None) -> None:
        """Wait until something happens. Raises PeerError when the connection ends."""
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        process = self._process
        if process is not None and process.fileno() >= 0:
            poll.register(process.fileno(), select.POLLIN)
        if connection is not None:
            poll.register(connection.sock, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)]
        if self._wake_fd in ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
        if connection is not None and connection.sock.fileno() in ready:
            raise PeerError("the peer closed its control connection")

    def _refuse(self, cause: Cause) -> None:
        """Another incarnation is at the peer's address, or its blocks are not like ours. It may live all the same."""
        with self._lock:
            self._refused = cause or "failed"
            parked, self._parked = self._parked, []
        for transfer, _ in parked:
            self._in_flight.stop(transfer, self._refused)

    def _end(self) -> None:
        """The peer is dead."""
        self._state.fences.of(self.worker).shut()
        with self._lock:
            self._ended = True
            parked, self._parked = self._parked, []
            revoked, self._revoked = self._revoked, []
        self.transports.close()
        self._queue.finish()
        for transfer, _ in parked:
            self._in_flight.stop(transfer, "gone")
        for tickets in revoked:
            self._in_flight.report(Revoked(self.worker, tickets))
        self._on_end(self.worker)
        self._close_descriptors()


class Peers:
    """The agents of all other workers that this agent has heard of."""

    def __init__(self, state: AgentState, on_end: Callable[[WorkerId], None]) -> None:
        """`on_end` is called on the thread of a peer that is dead."""
        self._state = state
        self._on_end = on_end
        self._lock = threading.Lock()
        self._peers: dict[WorkerId, PeerAgent] = {}

    def of(self, worker: WorkerId) -> PeerAgent:
        """Return the agent of a worker; made at the first call."""
        with self._lock:
            if worker not in self._peers:
                self._peers[worker] = PeerAgent(worker, self._state, self._on_end)
            return self._peers[worker]

    def all(self) -> list[PeerAgent]:
        """Return every peer's agent."""
        with self._lock:
            return list(self._peers.values())

    def submit(self, transfer: Transfer, worker: WorkerId, memory_tier: str, peer_tier: MemoryTier) -> None:
        """Carry a transfer to or from a peer's memory. Returns at once."""
        peer, pushing = self.of(worker), transfer.move.target.worker == worker
        memory = self._state.memory[memory_tier]
        operation = PeerExchange(peer.transports, self._state.in_flight, memory, peer_tier, pushing=pushing)
        peer.submit(transfer, operation, pushing=pushing)
