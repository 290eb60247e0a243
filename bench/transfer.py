"""Ways between workers against the plain copy of the same shape, in one run, interleaved round by round.

    .venv/bin/python bench/transfer.py [shm] [tcp] [unix] [nixl] [--rounds 15]

shm against memcpy (one `memmove` per run of neighbours); tcp (on loopback; unix: on a unix socket) against a plain
socket (sendall and recv_into of the same runs: no checksum, no tickets); nixl against NIXL used bare. The other worker
is another process. 64 MiB a move, in blocks of 64 KiB and 1 MiB, in a row and in random slots. Printed: the median of
the rounds' ratios (their quartiles), and medians in GB/s. Floors: shm 0.9 (1 MiB in a row), 0.8 random; tcp 0.9 (1
MiB), 0.7 (64 KiB); nixl 0.95.
"""

import argparse
import contextlib
import ctypes
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import msgspec

from jedlik.core.ids import Handle, WorkerId
from jedlik.core.moves import CarrierReport, Location, Move, Moved
from jedlik.transfer.agent import Agent, AgentOptions
from jedlik.transfer.arena import Arena, attach
from jedlik.transfer.connection import dial, listen, tune
from jedlik.transfer.messages import AgentCard, AgentHello
from jedlik.transfer.nixl import open_engine
from jedlik.transfer.processes import start_ticks, this_process
from jedlik.transfer.region import Mapped, paired_runs

MOVE_BYTES = 64 << 20
DEVICE, OTHER = Location("device"), WorkerId("other@1")
Times = tuple[float, float]
Trial = Callable[[list[int], list[int]], float]


def worker(name: str, folder: str, block_bytes: int, path: str) -> tuple[Agent, Arena]:
    """Twice as many blocks as move at a time, so that random slots are sparse."""
    arena = Arena(block_bytes, 2 * MOVE_BYTES // block_bytes)
    listen = "tcp:127.0.0.1:0" if path == "tcp" else f"unix:{folder}/{name}"
    way = "tcp" if path == "unix" else path
    return Agent(WorkerId(name), arena, AgentOptions(listen=listen, key=b"key", paths=(way,), probe=False)), arena


def other(folder: str, block_bytes: int, path: str) -> None:
    """The other worker's process: until stdin ends."""
    agent, arena = worker("other@1", folder, block_bytes, path)
    agent.start(lambda told: None)
    plain, address = listen("tcp:127.0.0.1:0" if path == "tcp" else f"unix:{folder}/plain")
    threading.Thread(target=sink, args=(plain, arena.device), daemon=True).start()
    print(agent.address, arena.reference.process.pid, arena.reference.fd, arena.reference.inode, address, flush=True)
    sys.stdin.read()
    agent.close()


def sink(listening: socket.socket, region: Mapped) -> None:
    """The plain socket's far side: the same slots, in the same order, one answer at the end."""
    sock, _ = listening.accept()
    tune(sock)
    count = MOVE_BYTES // region.block_bytes
    while order := sock.recv(8 * count, socket.MSG_WAITALL):
        slots = [int.from_bytes(order[i : i + 8], "little") for i in range(0, len(order), 8)]
        for view in region.run_views(slots):
            sock.recv_into(view, 0, socket.MSG_WAITALL)
        sock.sendall(b"k")


@contextlib.contextmanager
def pair(block_bytes: int, path: str) -> Iterator[tuple[Agent, Arena, list[str]]]:
    with tempfile.TemporaryDirectory() as folder:
        told = [sys.executable, __file__, "--other", folder, str(block_bytes), path]
        process = subprocess.Popen(told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        words = process.stdout.readline().split()
        agent, arena = worker("here@1", folder, block_bytes, path)
        arena.device.array[:] = 7
        yield agent, arena, words
        agent.close()
        process.stdin.close()
        process.wait()


class Ours:
    """A move through the agent, from `perform` to `Moved`."""

    def __init__(self, agent: Agent, address: str) -> None:
        self._agent = agent
        self._number = 0
        self._told = threading.Event()
        self._moved: Moved | None = None
        agent.start(self._tell)
        agent.met(OTHER, address)

    def __call__(self, sources: list[int], targets: list[int]) -> float:
        self._number += 1
        self._told.clear()
        began_s = time.perf_counter()
        there = Location("device", OTHER)
        self._agent.perform(
            Move(
                number=self._number,
                source=DEVICE,
                source_blocks=sources,
                target=there,
                target_blocks=targets,
                ids=[],
                parent=None,
                deadline_s=60.0,
                ticket=Handle(1),
            )
        )
        self._told.wait()
        elapsed_s = time.perf_counter() - began_s
        assert self._moved is not None
        assert self._moved.cause == "", self._moved
        return elapsed_s

    def _tell(self, told: CarrierReport) -> None:
        if isinstance(told, Moved):
            self._moved = told
            self._told.set()


def memcpy(source: Mapped, target: Mapped) -> Trial:
    """`memmove` per run of neighbours, lists prepared before the clock starts."""
    move, size = ctypes.memmove, source.block_bytes

    def copy(sources: list[int], targets: list[int]) -> float:
        runs = [
            (target.address + to * size, source.address + first * size, count * size)
            for first, to, count in paired_runs(sources, targets)
        ]
        began_s = time.perf_counter()
        for to, first, length in runs:
            move(to, first, length)
        return time.perf_counter() - began_s

    return copy


def bare_nixl(address: str, arena: Arena) -> Trial:
    """A NIXL agent of its own that writes into the other worker's memory: prepared lists, one transfer, polled."""
    wire, welcome = dial(
        address,
        b"key",
        AgentHello(
            AgentCard(worker=WorkerId("bare"), process=this_process(), block_bytes=0, device_blocks=0, host_blocks=0),
            OTHER,
            "look",
        ),
    )
    wire.close()
    engine, why = open_engine(WorkerId("bare"), arena)
    theirs = welcome.card.nixl
    if engine is None or theirs is None:
        raise SystemExit(f"no NIXL: {why}")
    agent, size = engine.agent, arena.block_bytes
    agent.add_remote_agent(theirs.metadata)
    blocks = [(theirs.device_at + i * size, size, 0) for i in range(welcome.card.device_blocks)]
    remote = agent.prep_xfer_dlist(theirs.name, blocks, "DRAM", backends=[theirs.backend])

    def copy(sources: list[int], targets: list[int]) -> float:
        began_s = time.perf_counter()
        handle = agent.make_prepped_xfer("WRITE", engine.blocks, sources, remote, targets, backends=[theirs.backend])
        state = agent.transfer(handle)
        while state == "PROC":
            state = agent.check_xfer_state(handle)
        elapsed_s = time.perf_counter() - began_s
        assert state == "DONE"
        handle.release()
        return elapsed_s

    return copy


def plain_socket(address: str, source: Mapped) -> Trial:
    kind, _, where = address.partition(":")
    sock = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    tune(sock)
    sock.connect(where if kind == "unix" else ("127.0.0.1", int(where.rpartition(":")[2])))

    def copy(sources: list[int], targets: list[int]) -> float:
        order = b"".join(slot.to_bytes(8, "little") for slot in targets)
        views = source.run_views(sources)
        began_s = time.perf_counter()
        sock.sendall(order)
        for view in views:
            sock.sendall(view)
        sock.recv(1)
        return time.perf_counter() - began_s

    return copy


def measure(path: str, rounds: int) -> None:
    for block_bytes in (1 << 20, 64 << 10):
        with pair(block_bytes, path) as (agent, arena, words):
            ours = Ours(agent, words[0])
            bare = baseline(path, arena, words)
            for slots in ("in a row", "random"):
                compare(path, block_bytes, slots, ours, bare, rounds)


def baseline(path: str, arena: Arena, words: list[str]) -> Trial:
    if path in ("tcp", "unix"):
        return plain_socket(words[4], arena.device)
    if path == "nixl":
        return bare_nixl(words[0], arena)
    theirs = arena.reference
    pid, fd, inode = map(int, words[1:4])
    process = type(theirs.process)(theirs.process.host, pid, start_ticks(pid) or 0)
    reference = msgspec.structs.replace(theirs, process=process, fd=fd, inode=inode)
    return memcpy(arena.device, attach(reference).device)


def compare(path: str, block_bytes: int, slots: str, ours: Trial, bare: Trial, rounds: int) -> None:
    count, rng = MOVE_BYTES // block_bytes, random.Random(1)
    results: list[Times] = []
    for number in range(rounds + 2):
        sources, targets = list(range(count)), list(range(count))
        if slots == "random":
            sources, targets = (rng.sample(range(2 * count), count) for _ in range(2))
        pairs = [(ours, bare), (bare, ours)][number % 2]
        taken = {trial: trial(sources, targets) for trial in pairs}
        results.append((taken[ours], taken[bare]))
    results = results[2:]  # page tables, connections
    ratios = statistics.quantiles([bare_s / ours_s for ours_s, bare_s in results], n=4)
    speeds = [MOVE_BYTES / statistics.median(times) / 1e9 for times in zip(*results, strict=True)]
    print(
        f"{path:5} {block_bytes >> 10:5} KiB {slots:9} ratio {ratios[1]:.2f} ({ratios[0]:.2f} to {ratios[2]:.2f})   "
        f"{speeds[0]:.2f} GB/s, plain {speeds[1]:.2f} GB/s",
        flush=True,
    )


def main() -> None:
    if sys.argv[1:2] == ["--other"]:
        other(sys.argv[2], int(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="*", default=["shm", "tcp"])
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {MOVE_BYTES >> 20} MiB a move, {asked.rounds} rounds")
    for path in asked.paths:
        measure(path, asked.rounds)


if __name__ == "__main__":
    main()
