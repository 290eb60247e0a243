"""Serves other agents: lets their blocks land, sends them ours, stops our writing for tickets they revoke.

Bytes land straight in their blocks if the write fence is open for their ticket; closing it cuts the connection they
come from. What may not land is read and discarded. There is one thread per connection; a peer's new data connection
ends its old one.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Sequence

from jedlik.core.errors import PeerError
from jedlik.core.ids import WorkerId
from jedlik.core.moves import PathCosts
from jedlik.transfer.connection import CONNECT_S, AgentConnection, receive_blocks, send_blocks, tune
from jedlik.transfer.fences import WriteFence
from jedlik.transfer.hosts import local_facts
from jedlik.transfer.messages import (
    SCHEMA,
    AgentHello,
    AgentReport,
    Get,
    Landed,
    Look,
    Put,
    Refused,
    Sent,
    StopWriting,
    TransportCosts,
    TrialPut,
    Welcome,
    WritesStopped,
)
from jedlik.transfer.peers import Peers
from jedlik.transfer.region import Region, fill_blocks, trial_memory, views_to_read
from jedlik.transfer.transports import AgentState

SINK_BYTES, CHECKSUM_BYTES = 256 << 10, 8
MAX_TRIAL_BYTES = 64 << 20


class AgentServer:
    """The listening socket of an agent, and the connections of other agents."""

    def __init__(self, sock: socket.socket, state: AgentState, peers: Peers) -> None:
        self.state = state
        self.peers = peers
        self._sock = sock
        self._lock = threading.Lock()
        self._connections: set[ServedConnection] = set()
        self._ending: list[ServedConnection] = []
        """Connections that have ended, whose threads were not joined yet."""
        self._closing = False
        self._thread = threading.Thread(target=self._accept, name="jedlik-accept", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def cut(self, worker: WorkerId, use: str | None = None, but: "ServedConnection | None" = None) -> None:
        """End a worker's connections; nothing of theirs lands after this."""
        with self._lock:
            found = [c for c in self._connections if c.worker == worker and use in (None, c.use) and c is not but]
        for served in found:
            served.connection.cut()
        for served in found:
            if served.thread is not threading.current_thread():
                served.thread.join()

    def close(self) -> None:
        """End every connection and stop listening. Nothing lands after this; only then is the address given up."""
        with self._lock:
            self._closing = True
            found = [*self._connections, *self._ending]
        for served in found:
            served.connection.cut()
        for served in found:
            served.thread.join()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join()
        self._sock.close()

    def _accept(self) -> None:
        while not self._closing:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return  # closed
            if not self._serve(sock):
                sock.close()

    def _serve(self, sock: socket.socket) -> bool:
        served = ServedConnection(sock, self)
        with self._lock:
            if not self._closing:
                self._connections.add(served)
                served.thread.start()
            return not self._closing

    def finished(self, served: "ServedConnection") -> None:
        """Note that a connection has ended; called on its thread."""
        with self._lock:
            self._connections.discard(served)
            self._ending = [ending for ending in self._ending if ending.thread.is_alive()]
            self._ending.append(served)


class ServedConnection:
    """One connection that another agent made."""

    def __init__(self, sock: socket.socket, server: AgentServer) -> None:
        self.connection = AgentConnection(sock)
        self.worker: WorkerId | None = None
        self.use = ""
        self._server = server
        self._state = server.state
        self.thread = threading.Thread(target=self._run, name="jedlik-serving", daemon=True)

    def _run(self) -> None:
        try:
            fence = self._greet()
            while fence is not None:
                self._answer(self.connection.receive_request(), fence)
        except PeerError:
            pass  # it has gone, or sends nonsense: whoever it is connects again
        finally:
            self.connection.close()
            self._server.finished(self)

    def _greet(self) -> WriteFence | None:
        sock = self.connection.sock
        sock.settimeout(CONNECT_S)
        tune(sock)
        self.connection.prove(self._state.options.key, client=False)
        hello = self.connection.receive_request()
        if not isinstance(hello, AgentHello):
            raise PeerError(f"{type(hello).__name__} before AgentHello")
        if (refused := self._refusal(hello)) is not None:
            self.connection.send(refused)
            return None
        sock.settimeout(None)
        if hello.use == "look":
            self._report()
            return None
        self.worker, self.use = hello.card.worker, hello.use
        if hello.use == "data":
            self._server.cut(self.worker, "data", but=self)
        fence = self._state.fences.of(self.worker)
        self._server.peers.of(self.worker).heard(hello.card)
        stopped = fence.expose(self._exposes(hello))
        self.connection.send(Welcome(self._state.card, stopped))
        return fence

    def _report(self) -> None:
        """Answer an agent that only asks for the costs of transports."""
        self.connection.send(Welcome(self._state.card, []))
        if not isinstance(self.connection.receive_request(), Look):
            raise PeerError("an agent that connects to look may only look")
        in_flight = self._state.in_flight
        with in_flight.lock:
            costs = in_flight.costs.costs(time.monotonic())
        keys = [(cost, *cost.path.partition(" ")[::2]) for cost in costs]
        found = [TransportCosts(to, PathCosts(path, cost.block_s, cost.byte_s, cost.open)) for cost, path, to in keys]
        self.connection.send(AgentReport(local_facts(), found))

    def _refusal(self, hello: AgentHello) -> Refused | None:
        card = self._state.card
        if hello.card.schema != SCHEMA:
            return Refused("failed", f"agent of schema {hello.card.schema}, this is {SCHEMA}: run the same release")
        if hello.to != card.worker:
            return Refused("stale", f"{hello.to} is not here; {card.worker} is")
        if hello.card.block_bytes != card.block_bytes and hello.use != "look":
            text = f"blocks of {hello.card.block_bytes} bytes, here of {card.block_bytes}: layouts differ"
            return Refused("stale", text)
        return None

    def _exposes(self, hello: AgentHello) -> bool:
        """Whether the other agent, with our card, can write here by itself."""
        ours, theirs = self._state.card, hello.card
        by_memory = ours.arena is not None and ours.process.host == theirs.process.host
        return by_memory or (ours.nixl is not None and theirs.nixl is not None)

    def _answer(self, request: object, fence: WriteFence) -> None:
        match request:
            case Put():
                self.connection.send(self._put(request, fence))
            case Get():
                region = self._region(request.tier, request.blocks)
                self.connection.send(Sent())
                send_blocks(self.connection, views_to_read(region, request.blocks))
            case TrialPut():
                self._trial(request)
            case StopWriting() if self.worker is not None:
                self._server.peers.of(self.worker).stop_writing(request.tickets)
                self.connection.send(WritesStopped(request.tickets))
            case _:
                raise PeerError(f"{type(request).__name__} is not expected here")

    def _region(self, tier: str, blocks: Sequence[int]) -> Region:
        region = self._state.memory[tier]
        if blocks and (min(blocks) < 0 or max(blocks) >= region.blocks):
            raise PeerError(f"blocks beyond the {region.blocks} of {tier}")
        return region

    def _put(self, put: Put, fence: WriteFence) -> Landed:
        region = self._region(put.tier, put.blocks)
        if not fence.enter(self.connection, put.ticket):
            self._discard(len(put.blocks) * (region.block_bytes + CHECKSUM_BYTES))
            return Landed(0, "stale")
        try:
            done, cause = fill_blocks(region, put.blocks, lambda views: receive_blocks(self.connection, views))
        finally:
            still_open = fence.leave(self.connection)
        return Landed(done, cause) if still_open else Landed(0, "stale")

    def _discard(self, size: int) -> None:
        trash = memoryview(bytearray(min(size, SINK_BYTES)))
        while size:
            some = trash[: min(size, SINK_BYTES)]
            self.connection.receive_into(some)
            size -= len(some)

    def _trial(self, trial: TrialPut) -> None:
        if trial.parts * trial.part_bytes > MAX_TRIAL_BYTES or trial.parts < 0 or trial.part_bytes < 0:
            raise PeerError(f"a trial of {trial.parts} x {trial.part_bytes} bytes is too large")
        done, cause = receive_blocks(self.connection, [trial_memory(trial.part_bytes).data] * trial.parts)
        self.connection.send(Landed(done, cause))
