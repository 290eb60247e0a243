"""What tests of the transfer layer share: agents with small arenas, and what they told."""

import contextlib
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from jedlik.core.ids import BlockId, Handle, WorkerId
from jedlik.core.moves import CarrierReport, Location, Move, Moved, Revoked
from jedlik.transfer.agent import Agent, AgentOptions
from jedlik.transfer.arena import Arena
from jedlik.transfer.region import Bytes
from jedlik.transfer.store import BlockStore

T = TypeVar("T", bound=CarrierReport)
NO_NIXL = not any(map(importlib.util.find_spec, ("nixl_cu12", "nixl_cu13")))
WAYS = [
    "shm",
    "tcp",
    pytest.param("nixl", marks=pytest.mark.skipif(NO_NIXL, reason="pip install --no-deps nixl-cu12 to test NIXL")),
]
"""Between workers: for the suites that run against all of them."""
HANG_S = 30.0
"""Nothing waits longer: a limit that only catches a hang."""


class Ear:
    """Hears what an agent tells."""

    def __init__(self) -> None:
        self.told: list[CarrierReport] = []
        self._changed = threading.Condition()

    def __call__(self, told: CarrierReport) -> None:
        with self._changed:
            self.told.append(told)
            self._changed.notify_all()

    def moved(self, number: int) -> Moved:
        """Waits for it."""
        return self.heard(Moved, lambda told: told.number == number)

    def revoked(self, worker: str) -> Revoked:
        """Waits for it."""
        return self.heard(Revoked, lambda told: told.worker == worker)

    def heard(self, kind: type[T], wanted: Callable[[T], bool] = lambda _: True) -> T:
        """Waits for the first of this kind that is wanted."""
        found: list[T] = []

        def there() -> bool:
            found.extend(told for told in self.told if isinstance(told, kind) and wanted(told))
            return bool(found)

        with self._changed:
            assert self._changed.wait_for(there, HANG_S), f"never told; told so far: {self.told}"
        return found[0]

    def all(self, kind: type[T]) -> list[T]:
        """Told so far."""
        return [told for told in self.told if isinstance(told, kind)]

    def numbers(self) -> list[int]:
        """Of the moves told so far, sorted."""
        return sorted(told.number for told in self.told if isinstance(told, Moved))


class Carrying:
    """An agent with its arena and its ear. Close it."""

    def __init__(
        self,
        worker: str,
        folder: Path,
        blocks: int = 32,
        block_bytes: int = 4096,
        paths: Sequence[str] = ("shm",),
        stores: Sequence[BlockStore] = (),
        listen: str = "",
        key: bytes = b"",
        tell: Callable[[CarrierReport], None] | None = None,
        probe: bool = False,
    ) -> None:
        self.worker = WorkerId(worker)
        self.arena = Arena(block_bytes, blocks, blocks)
        options = AgentOptions(
            listen=listen or f"unix:{folder}/{worker}.data", paths=tuple(paths), probe=probe, key=key
        )
        self.agent = Agent(self.worker, self.arena, options, stores)
        self.ear = Ear()
        self.agent.start(tell or self.ear)

    def fill(self, seed: int) -> None:
        """Every device block different from every other one."""
        self.device[:] = np.random.default_rng(seed).integers(0, 256, self.device.shape, np.uint8)

    @property
    def device(self) -> Bytes:
        """[blocks, block_bytes]"""
        return self.arena.device.array.reshape(-1, self.arena.block_bytes)

    @property
    def host(self) -> Bytes:
        return self.arena.host.array.reshape(-1, self.arena.block_bytes)

    def meet(self, other: "Carrying") -> None:
        self.agent.met(other.worker, other.agent.address)
        other.agent.met(self.worker, self.agent.address)

    def close(self) -> None:
        self.agent.close()
        self.arena.close()


def ids(count: int) -> list[BlockId]:
    return [BlockId(i.to_bytes(16, "little")) for i in range(count)]


def move(
    number: int,
    source: Location,
    source_blocks: list[int],
    target: Location,
    target_blocks: list[int],
    *,
    deadline_s: float = 60.0,
    ticket: int = 0,
) -> Move:
    names = ids(max(len(source_blocks), len(target_blocks)))
    return Move(
        number=number,
        source=source,
        source_blocks=source_blocks,
        target=target,
        target_blocks=target_blocks,
        ids=names,
        parent=None,
        deadline_s=deadline_s,
        ticket=Handle(ticket),
    )


class OtherWorker:
    """A worker in a process of its own, that may be killed. Close it."""

    def __init__(self, worker: str, folder: Path, path: str, blocks: int, block_bytes: int, seed: int) -> None:
        self.worker = WorkerId(worker)
        script = Path(__file__).with_name("other_worker.py")
        told = [str(value) for value in (worker, folder, path, blocks, block_bytes, seed)]
        self.process = subprocess.Popen(
            [sys.executable, str(script), *told], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.address = self.line()

    def line(self) -> str:
        """What it says next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, *words: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL; returns when it is dead."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
