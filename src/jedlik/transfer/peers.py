"""Other workers' agents: a control connection to each, the ways to it, the moves that wait for it, and its death.

Dead is only what certainly is: the process has ended (seen by pid and start time), or `met` said so. A peer that merely
does not answer keeps its moves until their deadlines, and its revocations until it has answered or is dead.
"""

import contextlib
import os
import select
import threading
from typing import Protocol

from jedlik.core.errors import Bug, PeerError
from jedlik.core.ids import Handle as Ticket
from jedlik.core.ids import WorkerId
from jedlik.core.moves import Cause, Revoked
from jedlik.transfer.dial import NotWelcome, dial
from jedlik.transfer.gates import Gates
from jedlik.transfer.lanes import Lane
from jedlik.transfer.ledger import Job, Ledger
from jedlik.transfer.messages import Card, Hello, MemoryTier, Stop, Stopped, Welcome, Wire
from jedlik.transfer.processes import Pulse
from jedlik.transfer.region import Region
from jedlik.transfer.route import Route
from jedlik.transfer.ways import PeerWork, Ways

RETRY_S = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Waits between attempts to connect; the last one again and again."""
PRUNE_JOBS = 64


class Ours:
    """What peers need of this agent."""

    def __init__(
        self,
        card: Card,
        key: bytes,
        ledger: Ledger,
        gates: Gates,
        calls: "Calls",
    ) -> None:
        self.card = card
        self.key = key
        self.ledger = ledger
        self.gates = gates
        self.calls = calls


class Calls(Protocol):
    """What a peer asks its agent to do, on the peer's thread."""

    def routes(self, peer: "Peer") -> list[Route]:
        """The ways to a peer that has just welcomed us, best guess first."""

    def welcomed(self, peer: "Peer") -> None:
        """We are connected (again)."""

    def ended(self, peer: "Peer") -> None:
        """It is dead."""


class Peer:
    """One incarnation of another worker."""

    def __init__(self, worker: WorkerId, ours: Ours) -> None:
        self.worker = worker
        self.address: str | None = None
        self.card: Card | None = None
        """Once it has welcomed us."""
        self.ways = Ways(worker, ours.ledger, self.dead)
        self._ours = ours
        self._lock = threading.Lock()
        self._pulse: Pulse | None = None
        self._ended = self._told_dead = self._closing = False
        self._refused: Cause = ""
        self._parked: list[tuple[Job, PeerWork]] = []
        self._jobs: dict[int, Job] = {}
        self._prune_at = PRUNE_JOBS
        self._revoked: list[list[Ticket]] = []
        self._wire: Wire | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lane = Lane(f"to-{worker}", 1, ours.ledger)
        self._thread = threading.Thread(target=self._run, name=f"jedlik-peer-{worker}", daemon=True)
        self._thread.start()

    def met(self, address: str | None) -> None:
        """Where it listens; None: it has ended."""
        with self._lock:
            if address is None:
                self._told_dead = True
                wire = self._wire
                if wire is not None:
                    wire.cut()
            else:
                self.address = address
        self._wake()

    def heard(self, card: Card) -> None:
        """It connected to us: which process it is."""
        with self._lock:
            if self._pulse is None:
                self._pulse = Pulse(card.process)
        self._wake()

    def dead(self) -> bool:
        """For certain."""
        pulse = self._pulse
        return self._told_dead or self._ended or (pulse is not None and pulse.dead())

    def submit(self, job: Job, memory: Region, tier: MemoryTier, *, pushing: bool) -> None:
        """Carry it as soon as there is a way. Returns at once."""
        work = PeerWork(self.ways, memory, tier, pushing=pushing)
        with self._lock:
            if self._ended or self._refused:
                self._ours.ledger.stop(job, self._refused or "gone")
                return
            if pushing and job.move.ticket in self.ways.stopped:
                self._ours.ledger.stop(job, "stale")
                return
            self._jobs[job.number] = job
            if len(self._jobs) > self._prune_at:
                self._prune()
            if not self.ways.routes:
                self._parked.append((job, work))
                return
        self._lane.put(job, work)

    def _prune(self) -> None:
        """Forget what has ended. Now and then, so that it costs little however much waits."""
        self._jobs = {number: known for number, known in self._jobs.items() if not known.over.is_set()}
        self._parked = [(known, its) for known, its in self._parked if not known.over.is_set()]
        self._prune_at = 2 * len(self._jobs) + PRUNE_JOBS

    def revoke(self, tickets: list[Ticket]) -> None:
        """Tell `Revoked` once it has stopped writing for these, or is dead."""
        with self._lock:
            self._revoked.append(tickets)
        self._wake()

    def stop_writing(self, tickets: list[Ticket]) -> None:
        """It asks us to. Returns when it is certain."""
        with self._lock:
            self.ways.stopped.update(tickets)
            concerned = [job for job in self._jobs.values() if job.move.ticket in self.ways.stopped]
        for job in concerned:
            self._ours.ledger.stop(job, "stale")
        for job in concerned:
            job.over.wait()

    def close(self) -> None:
        """Stop; `join` waits."""
        self._closing = True
        self.ways.close()
        self._lane.close()
        with self._lock:
            if self._wire is not None:
                self._wire.cut()
        self._wake()

    def join(self) -> None:
        self._lane.join()
        self._thread.join()
        self._let_go()

    def _let_go(self) -> None:
        """Close the descriptors: nobody waits for anything any more."""
        with self._lock:
            if self._wake_fd >= 0:
                os.close(self._wake_fd)
                self._wake_fd = -1
        if self._pulse is not None:
            self._pulse.close()

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
            if self.address is None or self._refused:
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

    def _connect(self) -> Wire:
        if self.address is None:
            raise Bug("a peer without an address is not connected to")
        wire, welcome = dial(self.address, self._ours.key, Hello(self._ours.card, self.worker, "control"))
        with self._lock:
            self._wire = wire
            self.ways.stopped.update(welcome.stopped)
        self._welcomed(welcome)
        return wire

    def _welcomed(self, welcome: Welcome) -> None:
        """Make the ways to it, once, and let go what waited for them."""
        self.heard(welcome.card)
        if not self.ways.routes:
            self.card = card = welcome.card
            self.ways.blocks = {"device": card.device_blocks, "host": card.host_blocks}
            routes = self._ours.calls.routes(self)
            with self._lock:
                self.ways.routes = routes
                parked, self._parked = self._parked, []
            for job, work in parked:
                self._lane.put(job, work)
        self._ours.calls.welcomed(self)

    def _talk(self, wire: Wire) -> None:
        """Ask what is to be asked, until the connection or the peer ends."""
        try:
            while not self._closing and not self.dead():
                if self._revoked:
                    self._ask_to_stop(wire)
                else:
                    self._wait(None, wire)
        finally:
            with self._lock:
                self._wire = None
            wire.close()

    def _ask_to_stop(self, wire: Wire) -> None:
        tickets = self._revoked[0]
        wire.send(Stop(tickets))
        answer = wire.receive_answer()
        if not isinstance(answer, Stopped):
            raise PeerError(f"{type(answer).__name__} in answer to Stop")
        with self._lock:
            self._revoked.pop(0)
        self._ours.ledger.say(Revoked(self.worker, tickets))

    def _wait(self, timeout_s: float | None, wire: Wire | None = None) -> None:
        """Until something happens. Raises PeerError when the wire ends."""
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        pulse = self._pulse
        if pulse is not None and pulse.fileno() >= 0:
            poll.register(pulse.fileno(), select.POLLIN)
        if wire is not None:
            poll.register(wire.sock, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)]
        if self._wake_fd in ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
        if wire is not None and wire.sock.fileno() in ready:
            raise PeerError("the peer closed its control connection")

    def _refuse(self, cause: Cause) -> None:
        """Another incarnation is at its address, or its blocks are not like ours. It may live all the same."""
        with self._lock:
            self._refused = cause or "failed"
            parked, self._parked = self._parked, []
        for job, _ in parked:
            self._ours.ledger.stop(job, self._refused)

    def _end(self) -> None:
        """It is dead."""
        self._ours.gates.of(self.worker).shut()
        with self._lock:
            self._ended = True
            parked, self._parked = self._parked, []
            revoked, self._revoked = self._revoked, []
        self.ways.close()
        self._lane.finish()
        for job, _ in parked:
            self._ours.ledger.stop(job, "gone")
        for tickets in revoked:
            self._ours.ledger.say(Revoked(self.worker, tickets))
        self._ours.calls.ended(self)
        self._let_go()
