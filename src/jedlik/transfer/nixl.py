"""The transport `nixl`: moves blocks by RDMA where there is such a network, and by UCX's other means elsewhere.

NIXL is optional: `pip install --no-deps nixl-cu12` (its metadata asks for a CUDA torch that it does not need). Whether
it works is found out by loading it, never from its list of plugins. Only memory of the host is registered so far, not a
GPU's. Calls block (on one host UCX copies inside the call) and belong on threads; errors are exceptions here, never
states.
"""

import contextlib
import importlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jedlik.core.errors import PeerError
from jedlik.core.ids import Handle as Ticket
from jedlik.core.ids import WorkerId
from jedlik.transfer.arena import Arena, parts
from jedlik.transfer.messages import AgentCard, MemoryTier, NixlCard
from jedlik.transfer.region import Mapped, Region
from jedlik.transfer.store import Done, Stop

BACKEND = "UCX"
MODULES = ("nixl_cu13._api", "nixl_cu12._api")
PROGRESS_TICK_US = 100_000
"""The period at which NIXL's progress thread looks for events anyway. Its own default, 0, takes a whole core."""
LONGEST_NAP_S = 0.001
INFINIBAND = Path("/sys/class/infiniband")
"""The kernel's folder of InfiniBand devices.

Where there is none, UCX must not look for them: beside the system's libnl its module crashes the process at exit.
"""
_constructing = threading.Lock()


class NixlEngine:
    """This worker's NIXL agent: its arena registered once, its blocks prepared once."""

    def __init__(self, agent: Any, arena: Arena) -> None:
        """`agent`: a `nixl_agent` with the backend. Raises what NIXL raises."""
        self.agent = agent
        self._arena = arena
        self._registered = agent.register_memory(
            [(arena.device.address, arena.whole.nbytes, 0, "")], "DRAM", backends=[BACKEND]
        )
        self.blocks = agent.prep_xfer_dlist(
            "", block_list(arena.block_bytes, arena.device, arena.host), "DRAM", backends=[BACKEND]
        )
        self.scratch_at = arena.scratch.ctypes.data
        metadata = agent.get_agent_metadata()
        self.card = NixlCard(
            name=agent.name,
            metadata=metadata,
            backend=BACKEND,
            device_at=arena.device.address,
            host_at=arena.host.address,
        )

    def first_index(self, region: Region) -> int | None:
        """Return the index of a region's first block among the prepared ones; None: the region is not registered."""
        if region is self._arena.device:
            return 0
        return self._arena.device.blocks if region is self._arena.host else None

    def close(self) -> None:
        """Release everything, after every transport is closed."""
        self.blocks.release()
        self.agent.deregister_memory(self._registered, backends=[BACKEND])


def open_engine(worker: WorkerId, arena: Arena) -> tuple[NixlEngine | None, str]:
    """Return NIXL where it works here, and the reason where it does not. Its agent's name is never used again."""
    why = "not installed"
    for name in MODULES:
        try:
            api = importlib.import_module(name)
        except ImportError as error:
            why = why if error.name == name.partition(".")[0] else str(error)
            continue
        try:
            return NixlEngine(_agent(api, f"{worker}-{secrets.token_hex(4)}"), arena), ""
        except Exception as error:  # its own kinds, or what its plugins do: then there is no NIXL here
            return None, f"{name.partition('.')[0]} does not work here: {error or type(error).__name__}"
    return None, why


def _agent(api: Any, name: str) -> Any:
    """A NIXL agent whose progress thread does not spin; safe to call from several threads."""
    if not INFINIBAND.exists():
        os.environ.setdefault("UCX_MODULES", "^ib")
    api.logger.setLevel(logging.WARNING)  # what it did right it would say on stdout
    bindings = api.nixlBind
    config = api.nixl_agent_config(
        enable_prog_thread=True, backends=[BACKEND], sync_mode=api.nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT
    )
    with _constructing:
        construct = bindings.nixlAgent
        bindings.nixlAgent = lambda its_name, settings: construct(its_name, _patient(settings))
        try:
            return api.nixl_agent(name, config)
        finally:
            bindings.nixlAgent = construct


def _patient(settings: Any) -> Any:
    settings.pthrDelay = PROGRESS_TICK_US
    return settings


def block_list(block_bytes: int, *regions: Mapped) -> Any:
    """Return descriptors [blocks, 3] (address, length, device) of the regions' blocks, one after the other."""
    starts = np.concatenate([its.address + block_bytes * np.arange(its.blocks, dtype=np.uint64) for its in regions])
    return _descriptors(starts, block_bytes)


def _descriptors(starts: Any, size: int) -> Any:
    starts = starts.astype(np.uint64)
    return np.stack([starts, np.full_like(starts, size), np.zeros_like(starts)], axis=1)


class NixlTransport:
    """A `Transport` through NIXL."""

    path = "nixl"
    slice_bytes = 64 << 20

    def __init__(self, engine: NixlEngine, theirs: AgentCard, dead: Callable[[], bool]) -> None:
        """Connect to the peer. Raises PeerError."""
        if theirs.nixl is None or theirs.nixl.backend != BACKEND:
            raise PeerError("the peer has no NIXL that we can talk to")
        self._engine, self._theirs, self._dead = engine, theirs, dead
        self._card = theirs.nixl
        self._lock = threading.Lock()
        self._closing = False
        self._blocks: Any = None
        self.why = ""
        """The error that NIXL raised last."""
        size, device, host = theirs.block_bytes, theirs.device_blocks, theirs.host_blocks
        self._scratch_at = self._card.device_at + parts(size, device, host).scratch_at
        starts = [self._card.device_at + size * np.arange(device), self._card.host_at + size * np.arange(host)]
        self._list = _descriptors(np.concatenate(starts), size)
        try:
            self._connect()
        except Exception as error:  # NIXL's own kinds have no root
            raise PeerError(f"NIXL can't reach {theirs.worker}: {error}") from error

    def push(
        self,
        source: Region,
        source_blocks: Sequence[int],
        tier: MemoryTier,
        target_blocks: Sequence[int],
        ticket: Ticket,
        stop: Stop,
    ) -> Done:
        return self._transfer("WRITE", source, source_blocks, tier, target_blocks)

    def pull(
        self, tier: MemoryTier, source_blocks: Sequence[int], target: Region, target_blocks: Sequence[int], stop: Stop
    ) -> Done:
        return self._transfer("READ", target, target_blocks, tier, source_blocks)

    def trial(self, count: int, part_bytes: int) -> float:
        """Write into the scratch of the peer's arena."""
        agent, starts = self._engine.agent, part_bytes * np.arange(count)
        try:
            local = agent.get_xfer_descs(_descriptors(self._engine.scratch_at + starts, part_bytes), "DRAM")
            remote = agent.get_xfer_descs(_descriptors(self._scratch_at + starts, part_bytes), "DRAM")
            with self._lock:
                self._connect()
                began_s = time.perf_counter()
                self._carry(agent.initialize_xfer("WRITE", local, remote, self._card.name, backends=[BACKEND]))
                return time.perf_counter() - began_s
        except Exception as error:
            raise PeerError(f"NIXL to {self._theirs.worker}: {error}") from error

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        with self._lock:
            self._disconnect()

    def _connect(self) -> None:
        """Connect where that isn't done. Raises what NIXL raises."""
        agent = self._engine.agent
        if self._blocks is None:
            agent.add_remote_agent(self._card.metadata)
            agent.make_connection(self._card.name, [BACKEND])
            self._blocks = agent.prep_xfer_dlist(self._card.name, self._list, "DRAM", backends=[BACKEND])

    def _disconnect(self) -> None:
        """An error may have broken the connection: the next call makes another one."""
        blocks, self._blocks = self._blocks, None
        with contextlib.suppress(Exception):  # where the peer has gone nothing needs an answer
            if blocks is not None:
                blocks.release()
            self._engine.agent.remove_remote_agent(self._card.name)

    def _transfer(
        self, operation: str, region: Region, ours: Sequence[int], tier: MemoryTier, theirs: Sequence[int]
    ) -> Done:
        first = self._engine.first_index(region)
        if first is None:
            return 0, "failed"
        offset = 0 if tier == "device" else self._theirs.device_blocks
        agent = self._engine.agent
        with self._lock:
            if self._closing or self._dead():
                return 0, "gone"
            try:
                self._connect()
                handle = agent.make_prepped_xfer(
                    operation,
                    self._engine.blocks,
                    np.array(ours, np.int32) + np.int32(first),
                    self._blocks,
                    np.array(theirs, np.int32) + np.int32(offset),
                    backends=[BACKEND],
                )
                self._carry(handle)
            except Exception as error:  # NIXL's own kinds have no root; whatever it is, the blocks have not arrived
                self.why = f"{type(error).__name__}: {error}"
                connected = self._blocks is not None and "Disconnect" not in self.why
                self._disconnect()
                return 0, "failed" if connected and not self._dead() else "gone"
        return (0, "gone") if self._dead() else (len(ours), "")

    def _carry(self, handle: Any) -> None:
        """Wait until the transfer has ended. Raises what NIXL raises, or PeerError when the peer has died meanwhile."""
        agent, nap_s = self._engine.agent, 20e-6
        try:
            state = agent.transfer(handle)
            while state == "PROC":
                time.sleep(nap_s)
                nap_s = min(LONGEST_NAP_S, 1.5 * nap_s)
                if self._closing or self._dead():
                    raise PeerError("the peer has died, or this agent closes")
                state = agent.check_xfer_state(handle)
        finally:
            with contextlib.suppress(Exception):  # not while it can't be cancelled; released with the agent then
                handle.release()
        if state != "DONE":
            raise PeerError(f"NIXL ended in state {state}")
