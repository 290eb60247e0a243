"""The transports to one peer: which there are, what each costs, and which of them a transfer takes.

A `Transport` moves blocks between this worker's memory and one peer's: `shm`, `tcp`, `nixl` (one conformance suite runs
against all of them). The fastest by what is known of each is taken; a transport in use is left only for one that is
clearly faster. One that failed recently is not used (`perf/paths`); where none remains, the transfer has ended as
"gone" and its blocks are a miss.

Costs are measured when a peer is connected first, by trials of three shapes, best of three: seconds = blocks * block_s
+ bytes * byte_s. Trials go into memory that nobody's blocks are in. On a busy machine they are too long; the transfers
that follow correct them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np

from jedlik.core.errors import PeerError
from jedlik.core.ids import Handle as Ticket
from jedlik.core.ids import WorkerId
from jedlik.core.moves import PathCosts, StoredRun
from jedlik.transfer.arena import SCRATCH_BYTES
from jedlik.transfer.connection import AgentConnection, dial
from jedlik.transfer.fences import WriteFences
from jedlik.transfer.inflight import InFlight, Transfer
from jedlik.transfer.messages import AgentCard, AgentHello, MemoryTier
from jedlik.transfer.nixl import NixlEngine, NixlTransport
from jedlik.transfer.region import Copier, Mapped, Region
from jedlik.transfer.shm import ShmTransport
from jedlik.transfer.store import BlockStore, Done, Stop
from jedlik.transfer.tcp import TcpTransport

SWITCH = 0.8
"""Another transport is taken only if it needs less than this share of the time."""
SMALL_BYTES = 64 << 10
SHAPES = ((1, SMALL_BYTES), (SCRATCH_BYTES // SMALL_BYTES, SMALL_BYTES), (1, SCRATCH_BYTES))
"""The shapes of trials, (parts, bytes of each): one small block, many, and as many bytes in one."""
TRIES = 3
READ_BLOCKS = 8
Trial = Callable[[int, int], float]
"""Parts and the bytes of each, to seconds. Raises PeerError."""


class Transport(Protocol):
    """One mechanism that moves blocks to and from one peer.

    Calls block and come from several threads. What happens in the world is an answer, not an exception. "gone": the
    peer has ended or can't be reached. "stale": it takes no (more) writes for that ticket. When a call has returned,
    nothing it began touches either side's blocks any more.
    """

    path: str
    slice_bytes: int
    """The number of bytes to ask for in one call."""

    def push(
        self,
        source: Region,
        source_blocks: Sequence[int],
        tier: MemoryTier,
        target_blocks: Sequence[int],
        ticket: Ticket,
        stop: Stop,
    ) -> Done:
        """Write blocks of our memory into the peer's."""

    def pull(
        self,
        tier: MemoryTier,
        source_blocks: Sequence[int],
        target: Region,
        target_blocks: Sequence[int],
        stop: Stop,
    ) -> Done:
        """Read blocks of the peer's memory into ours."""

    def trial(self, count: int, part_bytes: int) -> float:
        """Return the seconds to push so many parts (at most 8 MiB) into nobody's blocks. Raises PeerError."""

    def close(self) -> None:
        """Close the transport: whoever is inside a call comes out of it."""


class AgentOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of an agent: how it listens, and by which transports it reaches others."""

    listen: str
    """`unix:PATH` in a private directory, or `tcp:HOST:PORT` (port 0: any)."""
    key: bytes = b""
    """The cluster's key; both sides prove it on TCP."""
    paths: tuple[str, ...] = ("shm", "nixl", "tcp")
    """The transports to peers that may be used."""
    probe: bool = True
    """Measure paths, at start and when a peer is connected first."""


class AgentState:
    """The state that the parts of one agent share."""

    def __init__(
        self,
        card: AgentCard,
        options: AgentOptions,
        memory: Mapping[str, Region],
        nixl: NixlEngine | None,
    ) -> None:
        self.card = card
        self.options = options
        self.memory = memory
        self.nixl = nixl
        self.copier = Copier()
        self.fences = WriteFences()
        self.in_flight = InFlight(card.block_bytes)


class PeerTransports:
    """The transports to one peer, best guess first, and the tickets that the peer takes no writes for."""

    def __init__(self, worker: WorkerId, state: AgentState, dead: Callable[[], bool]) -> None:
        """`dead` says whether the peer has certainly ended."""
        self.open: list[Transport] = []
        self.address: str | None = None
        """The address of the peer's agent."""
        self.blocks: dict[str, int] = {}
        """The number of blocks in each of the peer's memories."""
        self.stopped: set[Ticket] = set()
        self.dead = dead
        self._worker = worker
        self._state = state
        self._preferred = ""

    def connect(self, card: AgentCard) -> list[Transport]:
        """Make every transport that works to the peer of this card."""
        state, paths = self._state, self._state.options.paths
        self.blocks = {"device": card.device_blocks, "host": card.host_blocks}
        found: list[Transport] = []
        if "shm" in paths and card.arena is not None and self._maps(card):
            try:
                found.append(ShmTransport(card.arena, self.dead, state.copier))
            except PeerError:
                pass  # another transport then: same host, but its memory is not for us (user, namespace)
        if state.nixl is not None and card.nixl is not None:
            try:
                found.append(NixlTransport(state.nixl, card, self.dead))
            except PeerError:
                pass  # no common network: another transport then
        if "tcp" in paths:
            found.append(TcpTransport(self._data_connection, self.dead))
        return found

    def measure(self) -> list[PathCosts]:
        """Measure every transport by trials."""
        measured = []
        for transport in self.open:
            costs = probe(transport.path, transport.trial)
            with self._state.in_flight.lock:
                keyed = PathCosts(self.cost_key(costs.path), costs.block_s, costs.byte_s, costs.open)
                self._state.in_flight.costs.measured(keyed)
            measured.append(costs)
        return measured

    def cost_key(self, path: str) -> str:
        """Return the key of a transport's costs."""
        return f"{path} {self._worker}"

    def choose(self, transfer: Transfer, tried: set[str]) -> Transport | None:
        """Return the transport to take now, not one of those tried; None: there is none (any more)."""
        blocks, now = transfer.blocks - transfer.done, time.monotonic()
        known: dict[str, float] = {}
        usable: dict[str, Transport] = {}
        in_flight = self._state.in_flight
        with in_flight.lock:
            for transport in self.open:
                key = self.cost_key(transport.path)
                if transport.path in tried or not in_flight.costs.usable(key, now):
                    continue
                usable[transport.path] = transport
                seconds = in_flight.costs.seconds(key, blocks, blocks * in_flight.block_bytes)
                if seconds is not None:
                    known[transport.path] = seconds
        if not usable:
            return None
        best = min(known, key=lambda path: (known[path], path)) if known else next(iter(usable))
        used = self._preferred
        if used in usable and (used not in known or best not in known or known[best] >= SWITCH * known[used]):
            best = used
        self._preferred = best
        return usable[best]

    def close(self) -> None:
        transports, self.open = self.open, []
        for transport in transports:
            transport.close()

    def _maps(self, card: AgentCard) -> bool:
        """Whether all memory of the peer is in an arena of this host (a GPU's is not)."""
        arena = card.arena
        same_host = card.process.host == self._state.card.process.host
        return same_host and arena is not None and arena.device_blocks == card.device_blocks

    def _data_connection(self) -> AgentConnection:
        if self.address is None:
            raise PeerError(f"the address of {self._worker} is not known")
        hello = AgentHello(self._state.card, self._worker, "data")
        connection, welcome = dial(self.address, self._state.options.key, hello)
        self.stopped.update(welcome.stopped)
        return connection


def probe(path: str, trial: Trial) -> PathCosts:
    """Measure a path; where a trial fails the path is closed."""
    try:
        times = [min(trial(*shape) for _ in range(TRIES)) for shape in SHAPES]
    except PeerError:
        return PathCosts(path, 0.0, 0.0, open=False)
    return fitted(path, times)


def fitted(path: str, times: Sequence[float]) -> PathCosts:
    """Return the costs that fit the seconds of each shape: a block's from many small ones, a byte's from a large one.

    Noise must not make either negative: a large copy that took longer than the same bytes in blocks costs bytes only.
    """
    _, many, large = times
    blocks, size_bytes = SHAPES[1][0], SCRATCH_BYTES
    byte_s = min(many, large) / size_bytes
    block_s = max(0.0, many - large) / blocks
    return PathCosts(path, block_s, byte_s)


class CopyTrial:
    """Trials of copies inside this worker, in memory of their own."""

    def __init__(self, copier: Copier) -> None:
        self._copier = copier
        self._source, self._target = (np.ones(SCRATCH_BYTES, np.uint8) for _ in range(2))

    def __call__(self, count: int, part_bytes: int) -> float:
        source, target = (Mapped(array[: count * part_bytes], part_bytes) for array in (self._source, self._target))
        order = list(range(count))
        began_s = time.perf_counter()
        self._copier.copy(source, order[::2] + order[1::2], target, order)
        return time.perf_counter() - began_s


def reading_costs(store: BlockStore, runs: Sequence[StoredRun], block_bytes: int) -> PathCosts | None:
    """Measure the reading of a store's first blocks, best of three; None: it holds none, or they could not be read."""
    if not runs:
        return None
    ids, slots = runs[0].ids[:READ_BLOCKS], runs[0].slots[:READ_BLOCKS]
    buffers = [memoryview(bytearray(block_bytes)) for _ in ids]
    times = []
    for _ in range(TRIES):
        began_s = time.perf_counter()
        done, _ = store.read(slots, ids, buffers, lambda: False)
        times.append(time.perf_counter() - began_s)
        if done < len(ids):
            return None
    return PathCosts(store.kind, 0.0, min(times) / (len(ids) * block_bytes))
