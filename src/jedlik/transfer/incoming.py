"""Serves other agents: lets their blocks land, sends them ours, stops writing for tickets they revoke.

Bytes land straight in their blocks if the gate is open for their ticket; closing it cuts the stream they come from.
What may not land is read and thrown away. One thread per connection; a peer's new data stream ends its old one.
"""

import contextlib
import secrets
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

from jedlik.core.authenticate import Handshake
from jedlik.core.errors import PeerError
from jedlik.core.ids import Handle as Ticket
from jedlik.core.ids import WorkerId
from jedlik.transfer.dial import CONNECT_S, prove, tune
from jedlik.transfer.gates import Gate, Gates
from jedlik.transfer.messages import (
    SCHEMA,
    Card,
    Get,
    Hello,
    Landed,
    Links,
    Look,
    Put,
    Refused,
    Sent,
    Stop,
    Stopped,
    Trial,
    Welcome,
    Wire,
)
from jedlik.transfer.region import Region, given_back
from jedlik.transfer.summed import receive_blocks, send_blocks
from jedlik.transfer.tcp import incoming, outgoing

SINK_BYTES, SUM_BYTES = 256 << 10, 8
MAX_TRIAL_BYTES = 64 << 20


class Hosting:
    """What serving needs of this agent."""

    def __init__(
        self,
        card: Card,
        key: bytes,
        memory: Mapping[str, Region],
        gates: Gates,
        answers: "Answers",
    ) -> None:
        self.card = card
        self.key = key
        self.memory = memory
        self.gates = gates
        self.answers = answers


class Answers(Protocol):
    """What only the agent itself can answer. Called from the connections' threads."""

    def greeted(self, card: Card) -> None:
        """Another agent has connected."""

    def stop_writing(self, worker: WorkerId, tickets: list[Ticket]) -> None:
        """Returns when it is certain that we write no more for these tickets of that worker's."""

    def links(self) -> Links:
        """What is known of our ways."""


class Incoming:
    """The listening socket and its connections."""

    def __init__(self, sock: socket.socket, hosting: Hosting) -> None:
        self._sock = sock
        self._hosting = hosting
        self._lock = threading.Lock()
        self._servings: set[Serving] = set()
        self._ending: list[Serving] = []
        """Out of work, their threads not joined yet."""
        self._closing = False
        self._thread = threading.Thread(target=self._accept, name="jedlik-accept", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def cut(self, worker: WorkerId, use: str | None = None, but: "Serving | None" = None) -> None:
        """End a worker's connections; nothing of theirs lands after this."""
        with self._lock:
            found = [s for s in self._servings if s.worker == worker and use in (None, s.use) and s is not but]
        for serving in found:
            serving.wire.cut()
        for serving in found:
            if serving.thread is not threading.current_thread():
                serving.thread.join()

    def close(self) -> None:
        """Nothing lands after this; only then is the address given up."""
        with self._lock:
            self._closing = True
            servings = [*self._servings, *self._ending]
        for serving in servings:
            serving.wire.cut()
        for serving in servings:
            serving.thread.join()
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
        serving = Serving(sock, self)
        with self._lock:
            if not self._closing:
                self._servings.add(serving)
                serving.thread.start()
            return not self._closing

    def finished(self, serving: "Serving") -> None:
        with self._lock:
            self._servings.discard(serving)
            self._ending = [ending for ending in self._ending if ending.thread.is_alive()]
            self._ending.append(serving)

    @property
    def hosting(self) -> Hosting:
        return self._hosting


class Serving:
    """One connection of another agent."""

    def __init__(self, sock: socket.socket, owner: Incoming) -> None:
        self.wire = Wire(sock)
        self.worker: WorkerId | None = None
        self.use = ""
        self._owner = owner
        self._ours = owner.hosting
        self.thread = threading.Thread(target=self._run, name="jedlik-serving", daemon=True)

    def _run(self) -> None:
        try:
            gate = self._greet()
            while gate is not None:
                self._answer(self.wire.receive_request(), gate)
        except PeerError:
            pass  # it has gone, or talks nonsense: whoever it is connects again
        finally:
            self.wire.close()
            self._owner.finished(self)

    def _greet(self) -> Gate | None:
        sock = self.wire.sock
        sock.settimeout(CONNECT_S)
        tune(sock)
        if sock.family != socket.AF_UNIX:
            prove(sock, Handshake(self._ours.key, secrets.token_bytes(32), client=False))
        hello = self.wire.receive_request()
        if not isinstance(hello, Hello):
            raise PeerError(f"{type(hello).__name__} before Hello")
        if (refused := self._refusal(hello)) is not None:
            self.wire.send(refused)
            return None
        sock.settimeout(None)
        if hello.use == "look":
            self._show()
            return None
        self.worker, self.use = hello.card.worker, hello.use
        if hello.use == "data":
            self._owner.cut(self.worker, "data", but=self)
        gate = self._ours.gates.of(self.worker)
        self._ours.answers.greeted(hello.card)
        stopped = gate.expose(self._exposes(hello))
        self.wire.send(Welcome(self._ours.card, stopped))
        return gate

    def _show(self) -> None:
        self.wire.send(Welcome(self._ours.card, []))
        if not isinstance(self.wire.receive_request(), Look):
            raise PeerError("who looks may only look")
        self.wire.send(self._ours.answers.links())

    def _refusal(self, hello: Hello) -> Refused | None:
        card = self._ours.card
        if hello.card.schema != SCHEMA:
            return Refused("failed", f"agent of schema {hello.card.schema}, this is {SCHEMA}: run the same release")
        if hello.to != card.worker:
            return Refused("stale", f"{hello.to} is not here; {card.worker} is")
        if hello.card.block_bytes != card.block_bytes and hello.use != "look":
            text = f"blocks of {hello.card.block_bytes} bytes, here of {card.block_bytes}: layouts differ"
            return Refused("stale", text)
        return None

    def _exposes(self, hello: Hello) -> bool:
        """Whether with our card it can write here by itself."""
        ours, theirs = self._ours.card, hello.card
        by_memory = ours.arena is not None and ours.process.host == theirs.process.host
        return by_memory or (ours.nixl is not None and theirs.nixl is not None)

    def _answer(self, request: object, gate: Gate) -> None:
        match request:
            case Put():
                self.wire.send(self._put(request, gate))
            case Get():
                self._get(request)
            case Trial():
                self._trial(request)
            case Stop() if self.worker is not None:
                self._ours.answers.stop_writing(self.worker, request.tickets)
                self.wire.send(Stopped(request.tickets))
            case _:
                raise PeerError(f"{type(request).__name__} is not expected here")

    def _region(self, tier: str, blocks: Sequence[int]) -> Region:
        region = self._ours.memory[tier]
        if blocks and (min(blocks) < 0 or max(blocks) >= region.blocks):
            raise PeerError(f"blocks beyond the {region.blocks} of {tier}")
        return region

    def _put(self, put: Put, gate: Gate) -> Landed:
        region = self._region(put.tier, put.blocks)
        if not gate.enter(self.wire, put.ticket):
            self._sink(len(put.blocks) * (region.block_bytes + SUM_BYTES))
            return Landed(0, "stale")
        try:
            done, cause = incoming(self.wire, region, put.blocks)
        finally:
            still_open = gate.leave(self.wire)
        return Landed(done, cause) if still_open else Landed(0, "stale")

    def _sink(self, size: int) -> None:
        trash = memoryview(bytearray(min(size, SINK_BYTES)))
        while size:
            some = trash[: min(size, SINK_BYTES)]
            self.wire.receive_into(some)
            size -= len(some)

    def _get(self, get: Get) -> None:
        region = self._region(get.tier, get.blocks)
        self.wire.send(Sent())
        send_blocks(self.wire, outgoing(region, get.blocks))

    def _trial(self, trial: Trial) -> None:
        if trial.parts * trial.part_bytes > MAX_TRIAL_BYTES or trial.parts < 0 or trial.part_bytes < 0:
            raise PeerError(f"a trial of {trial.parts} x {trial.part_bytes} bytes is too large")
        done, cause = receive_blocks(self.wire, [given_back(trial.part_bytes).data] * trial.parts)
        self.wire.send(Landed(done, cause))
