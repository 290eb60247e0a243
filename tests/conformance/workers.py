"""Workers for the conformance suite, each behind a unix socket: on a thread of the tests' process, or in its own.

To run the suite against another worker, name its socket: JEDLIK_CONFORMANCE=unix:/run/w.sock pytest tests/conformance.
The suite needs a worker with a block size of 8 and room for 256 tokens in a sequence.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import pytest

from jedlik.core.config import ServeConfig, WorkerConfig
from jedlik.core.protocol import Card
from jedlik.engines.simulated import CAPABILITIES, DEFAULT_COSTS, SimulatedEngine
from jedlik.kv.hashing import BlockHasher
from jedlik.live.rundir import make
from jedlik.live.worker import StepEngine, WorkerDriver
from jedlik.models import tiny
from jedlik.net.addresses import parse
from jedlik.net.discovery.local import read
from jedlik.net.streams import serve
from jedlik.nodes.worker.node import WorkerNode
from jedlik.perf.model import LinearModel
from jedlik.serve.process import ProcessConfig
from jedlik.telemetry.kv import KvCounts
from worker_world import KEY, make_card

FOREIGN = os.environ.get("JEDLIK_CONFORMANCE")
BLOCKS, BLOCK_SIZE, MAX_MODEL_LEN, MAX_SEQUENCES = 80, 8, 256, 8
START_S = 60.0
WORKER = WorkerConfig(
    load_period_s=0.001,
    heartbeat_s=0.2,
    block_size=BLOCK_SIZE,
    max_sequences=MAX_SEQUENCES,
    max_step_tokens=32,
)


class Served(Protocol):
    """A worker that listens."""

    address: str

    def drain(self) -> None:
        """Tell it to admit nothing more, and to leave when it has finished what runs. Returns at once."""


class Made(NamedTuple):
    """An engine and the card of its worker."""

    engine: StepEngine
    card: Card


class LiveWorker:
    """A worker node over an engine on a thread of this process, served as a worker process serves it."""

    def __init__(self, make_engine: Callable[[], Made], run_ahead: bool) -> None:
        self._folder = tempfile.mkdtemp(prefix="jw-")
        self.address = f"unix:{self._folder}/w.sock"
        self._make_engine = make_engine
        self._config = msgspec.structs.replace(WORKER, run_ahead=run_ahead)
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live worker")
        self._thread.start()
        assert self._listening.wait(START_S)

    def drain(self) -> None:
        self._loop.call_soon_threadsafe(self._draining.set)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has drained, and its loop is closed
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(START_S)
        shutil.rmtree(self._folder)
        self.node.check()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._work())

    async def _work(self) -> None:
        self._draining, self._closing = asyncio.Event(), asyncio.Event()
        engine, card = self._make_engine()
        hasher = BlockHasher(KEY, card.revision, self._config.block_size)
        self.node = WorkerNode(card, self._config, hasher)
        driver = WorkerDriver(self.node, engine, card, KvCounts())
        server, _ = await serve(parse(self.address), driver.listener, KEY)
        running = asyncio.create_task(driver.run())
        waits = [asyncio.create_task(event.wait()) for event in (self._draining, self._closing)]
        self._listening.set()
        await asyncio.wait((running, *waits), return_when=asyncio.FIRST_COMPLETED)
        if self._draining.is_set():
            assert await driver.drain(START_S), "the worker did not finish what ran"
        server.close()
        for task in (running, *waits):
            task.cancel()
        await asyncio.gather(running, *waits, return_exceptions=True)


class ProcessWorker:
    """A worker process, started as the supervisor starts it."""

    def __init__(self, engine: str, model: Path, kv_cache_bytes: int) -> None:
        self._run = make(None, os.getpid())
        config = ServeConfig(
            model=str(model),
            engine=engine,
            workers=1,
            device="cpu",
            dtype="float32",
            max_model_len=MAX_MODEL_LEN,
            kv_cache_bytes=kv_cache_bytes,
            threads=1,
            deterministic=True,
            speedup=1e6,
            drain_s=START_S,
            worker=WORKER,
        )
        process = ProcessConfig(
            name="worker-0",
            incarnation="1",
            run_dir=str(self._run.path),
            parent_pid=os.getpid(),
            cluster_key=KEY,
            config=config,
            model_path=str(model),
            model_name="tiny",
        )
        path = self._run.config("worker-0")
        self._run.write_private(path, msgspec.json.encode(process))
        self._drains = False
        self._process = subprocess.Popen([sys.executable, "-m", "jedlik.serve.worker_process", str(path)])
        self.address = self._announced()

    def drain(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._drains = True

    def close(self) -> None:
        if not self._drains:  # a second signal could come when Python has given up its handlers
            self._process.terminate()
        code = self._process.wait(START_S)
        self._run.remove()
        assert code == 0, code

    def _announced(self) -> str:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            for path in self._run.records.glob("*.json"):
                return str(read(path).addresses[0])
            assert self._process.poll() is None, self._run.last_words("worker-0")
            time.sleep(0.02)
        raise AssertionError("the worker process never announced itself")


class ForeignWorker:
    """A worker that somebody else started."""

    def __init__(self, address: str) -> None:
        self.address = address

    def drain(self) -> None:
        pytest.skip("how this worker drains is not known here")

    def close(self) -> None:
        """It is not ours to end."""


def simulated() -> Made:
    card = make_card(total_blocks=BLOCKS, block_size=BLOCK_SIZE, max_model_len=MAX_MODEL_LEN)
    card = msgspec.structs.replace(card, capabilities=CAPABILITIES, max_sequences=MAX_SEQUENCES)
    return Made(SimulatedEngine(LinearModel(DEFAULT_COSTS), 1e6, range(100, 200)), card)


def torch(folder: Path) -> Callable[[], Made]:
    from jedlik.engines.torch.engine import TorchEngine
    from jedlik.engines.torch.options import EngineOptions
    from jedlik.engines.torch.pool import allocate

    options = EngineOptions(
        cache_dir=str(folder / "kernels"),
        device="cpu",
        dtype="float32",
        block_size=BLOCK_SIZE,
        max_sequences=MAX_SEQUENCES,
        max_model_len=MAX_MODEL_LEN,
        deterministic=True,
        native=False,
    )

    def make() -> Made:
        engine = TorchEngine(_model(folder), options, lambda _, device: allocate(1 << 20, device))
        facts = engine.facts
        blocks = min(facts.total_blocks, BLOCKS)
        card = make_card(total_blocks=blocks, block_size=BLOCK_SIZE, max_model_len=MAX_MODEL_LEN)
        return Made(
            engine,
            msgspec.structs.replace(
                card,
                layout=facts.layout,
                vocab_size=facts.vocab_size,
                eos_token_ids=(),
                capabilities=facts.capabilities,
            ),
        )

    return make


def _model(folder: Path) -> Path:
    model = folder / "model"
    if not model.exists():
        model.mkdir()
        tiny.write(model)
    return model


def _started(kind: str, folder: Path) -> "LiveWorker | ProcessWorker | ForeignWorker":
    if FOREIGN is not None:
        return ForeignWorker(FOREIGN)
    if kind.startswith("torch"):
        pytest.importorskip("torch", reason="the torch extra is not installed")
    if kind.endswith("process"):
        engine = kind.split()[0]
        number_bytes = 2 if engine == "simulated" else 4
        block_bytes = tiny.LAYERS * 2 * BLOCK_SIZE * tiny.KV_HEADS * tiny.HEAD_DIM * number_bytes
        return ProcessWorker(engine, _model(folder), BLOCKS * block_bytes)
    make_engine = torch(folder) if kind.startswith("torch") else simulated
    return LiveWorker(make_engine, run_ahead="without run-ahead" not in kind)


KINDS = (
    ["foreign"]
    if FOREIGN is not None
    else [
        "simulated",
        "simulated without run-ahead",
        "simulated process",
        "torch",
        "torch without run-ahead",
        "torch process",
    ]
)


@contextlib.contextmanager
def started(kind: str, folder: Path) -> "Iterator[Served]":
    """A worker of a kind, for as long as the context is entered."""
    worker = _started(kind, folder)
    try:
        yield worker
    finally:
        worker.close()
