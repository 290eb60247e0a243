"""Gateway and worker drivers over a real unix socket, around the real nodes and the simulated engine."""

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from jedlik.core.config import GatewayConfig, WorkerConfig
from jedlik.core.effects import Deliver
from jedlik.core.errors import Bug, PeerError
from jedlik.core.events import Arrived, WorkerMessage
from jedlik.core.facts import Fact
from jedlik.core.ids import GatewayId, RequestId, StreamId, WorkerId
from jedlik.core.protocol import SCHEMA_VERSION, Card, Counters, Layout
from jedlik.core.requests import Request, Sampling, Stopping
from jedlik.core.step import Step, StepDone
from jedlik.core.tokens import pack
from jedlik.engines.simulated import CAPABILITIES, DEFAULT_COSTS, SimulatedEngine
from jedlik.kv.hashing import BlockHasher, hash_check
from jedlik.kv.prefix_chains import Naming
from jedlik.live.gateway import GatewayDriver
from jedlik.live.links import Cluster, WorkerLinks
from jedlik.live.worker import WorkerDriver
from jedlik.net.addresses import Address, UnixAddress
from jedlik.net.discovery.contract import Record
from jedlik.net.discovery.local import LocalDiscovery, LocalFencer, fence_of
from jedlik.net.streams import Connection, serve
from jedlik.nodes.gateway.node import GatewayNode
from jedlik.nodes.worker.node import WorkerNode
from jedlik.perf.model import LinearModel
from jedlik.telemetry.kv import KvCounts

KEY = b"k" * 32
GATEWAY = GatewayId("gateway@1")
HOST = "here"


def cluster(folder: Path) -> Cluster:
    return Cluster(LocalDiscovery(folder), LocalFencer(HOST), HOST, KEY)


class Heard:
    """A gateway's telemetry, kept."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.gone: list[WorkerId] = []
        self.kicks: list[tuple[WorkerId, bool]] = []

    def fact(self, fact: Fact) -> None:
        self.facts.append(fact)

    def heard(self, worker: WorkerId, message: WorkerMessage) -> None:
        """Not looked at."""

    def counters(self, worker: WorkerId, counters: Counters) -> None:
        """Not looked at."""

    def lost(self, worker: WorkerId) -> None:
        self.gone.append(worker)

    def delivered(self, deliver: Deliver, now: float) -> None:
        """Not looked at."""

    def kicked(self, worker: WorkerId, reason: str, dead: bool) -> None:
        self.kicks.append((worker, dead))


def card(key: bytes) -> Card:
    return Card(
        schema=SCHEMA_VERSION,
        worker=WorkerId("w@1"),
        name="w",
        model="m",
        revision="r",
        layout=Layout(dtype="bfloat16", layers=2, kv_heads=1, head_dim=8, block_size=16),
        total_blocks=100,
        max_model_len=256,
        max_sequences=8,
        max_step_tokens=64,
        vocab_size=100,
        eos_token_ids=(2,),
        hash_check=hash_check(key),
        capabilities=CAPABILITIES,
    )


def worker_driver(key: bytes = KEY) -> WorkerDriver:
    node = WorkerNode(card(key), WorkerConfig(max_sequences=8), BlockHasher(key, "r", 16))
    engine = SimulatedEngine(LinearModel(DEFAULT_COSTS), 1000.0, range(10, 90))
    return WorkerDriver(node, engine, card(key), KvCounts())


def gateway_driver(folder: Path, heard: Heard) -> GatewayDriver:
    node = GatewayNode(GatewayConfig(), GATEWAY, Naming(KEY))
    return GatewayDriver(GATEWAY, node, cluster(folder), heard)


async def until(true: Callable[[], object], limit_s: float = 60.0) -> None:
    async with asyncio.timeout(limit_s):
        while not true():  # noqa: ASYNC110 - the state is somebody else's
            await asyncio.sleep(0.005)


def run(scenario: Callable[[Path], Awaitable[None]]) -> None:
    with tempfile.TemporaryDirectory(prefix="jt-", dir="/tmp") as folder:
        asyncio.run(asyncio.wait_for(scenario(Path(folder)), 100))


async def announce(folder: Path, address: Address, pid: int | None = None) -> Record:
    fence = fence_of(pid or os.getpid())
    record = Record(id="w@1", name="w", host=HOST, addresses=(address,), lease_s=60.0, fence=fence)
    await LocalDiscovery(folder).announce(record)
    return record


def request(tokens: int) -> Request:
    sampling, stopping = Sampling(seed=3), Stopping(max_tokens=tokens, ignore_eos=True)
    return Request(
        request_id=RequestId("r"),
        first_stream=StreamId(1),
        model="m",
        prompt=pack(range(10, 40)),
        sampling=sampling,
        stopping=stopping,
    )


async def end(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_a_request_goes_through_both_nodes_and_both_drain() -> None:
    async def scenario(folder: Path) -> None:
        worker, heard = worker_driver(), Heard()
        server, address = await serve(UnixAddress(f"{folder}/w.sock"), worker.listener, KEY)
        await announce(folder, address)
        gateway = gateway_driver(folder, heard)
        got: list[Deliver] = []
        gateway.listen(got.append)
        tasks = asyncio.create_task(worker.run()), asyncio.create_task(gateway.run())
        await until(gateway.cards)
        gateway.send(Arrived(request(20)))
        await until(lambda: any(d.ended for d in got))
        assert sum(len(d.tokens) for d in got) == 20
        assert await gateway.drain(5.0)
        assert await worker.drain(5.0)
        server.close()
        await end(*tasks)

    run(scenario)


def test_a_worker_that_leaves_is_lost_once_and_found_again() -> None:
    async def scenario(folder: Path) -> None:
        heard, gateway_task = Heard(), None
        gateway = gateway_driver(folder, heard)
        gateway.listen(lambda deliver: None)
        gateway_task = asyncio.create_task(gateway.run())
        for round_number in (1, 2):
            worker = worker_driver()
            server, address = await serve(UnixAddress(f"{folder}/w.sock"), worker.listener, KEY)
            record = await announce(folder, address)
            worker_task = asyncio.create_task(worker.run())
            await until(gateway.cards)
            await LocalDiscovery(folder).withdraw(record)
            await end(worker_task)
            server.close()
            await until(lambda: not gateway.cards())
            assert heard.gone == [WorkerId("w@1")] * round_number
        await end(gateway_task)

    run(scenario)


def test_a_worker_with_another_key_is_kicked_and_its_process_killed() -> None:
    async def scenario(folder: Path) -> None:
        victim = await asyncio.create_subprocess_exec("sleep", "60")
        worker, heard = worker_driver(b"other" * 7), Heard()
        server, address = await serve(UnixAddress(f"{folder}/w.sock"), worker.listener, KEY)
        await announce(folder, address, victim.pid)
        gateway = gateway_driver(folder, heard)
        gateway.listen(lambda deliver: None)
        tasks = asyncio.create_task(worker.run()), asyncio.create_task(gateway.run())
        assert await victim.wait() == -9
        await until(lambda: heard.kicks == [(WorkerId("w@1"), True)])
        assert not gateway.cards()
        server.close()
        await end(*tasks)

    run(scenario)


class Mute:
    """Takes connections, says nothing."""

    def opened(self, connection: Connection) -> None:
        """Not answered."""

    def received(self, connection: Connection, bodies: list[memoryview]) -> None:
        """Not answered."""

    def lost(self, connection: Connection, reason: str) -> None:
        """Not answered."""


def test_a_worker_that_shows_no_card_is_kicked() -> None:
    async def scenario(folder: Path) -> None:
        victim = await asyncio.create_subprocess_exec("sleep", "60")
        server, address = await serve(UnixAddress(f"{folder}/w.sock"), Mute, KEY)
        await announce(folder, address, victim.pid)
        heard = Heard()
        links = WorkerLinks(GATEWAY, cluster(folder), lambda event: None, heard.kicked, card_s=0.05)
        task = asyncio.create_task(links.run())
        assert await victim.wait() == -9
        await until(lambda: heard.kicks == [(WorkerId("w@1"), True)])
        server.close()
        await end(task)

    run(scenario)


class BrokenEngine:
    """Says that a step ended which nobody asked for."""

    def start(self, on_done: Callable[[StepDone], None]) -> None:
        asyncio.get_running_loop().call_soon(on_done, StepDone(step_id=99, lanes=[], tokens=[], elapsed_s=0.0))

    def submit(self, step: object) -> None:
        """Never called."""

    def close(self) -> None:
        """Nothing to stop."""


def test_a_bug_ends_the_worker() -> None:
    async def scenario(folder: Path) -> None:
        node = WorkerNode(card(KEY), WorkerConfig(max_sequences=8), BlockHasher(KEY, "r", 16))
        driver = WorkerDriver(node, BrokenEngine(), card(KEY), KvCounts())
        with pytest.raises(Bug):
            await driver.run()

    run(scenario)


def test_a_worker_whose_engine_failed_stops_running() -> None:
    class Failing:
        """Every step fails."""

        def start(self, on_done: Callable[[StepDone], None]) -> None:
            self._on_done = on_done

        def submit(self, step: Step) -> None:
            asyncio.get_running_loop().call_soon(
                self._on_done, StepDone(step_id=step.step_id, lanes=[], tokens=[], elapsed_s=0.0, error="no memory")
            )

        def close(self) -> None:
            """Nothing to stop."""

    async def scenario(folder: Path) -> None:
        node = WorkerNode(card(KEY), WorkerConfig(max_sequences=8), BlockHasher(KEY, "r", 16))
        worker, heard = WorkerDriver(node, Failing(), card(KEY), KvCounts()), Heard()
        server, address = await serve(UnixAddress(f"{folder}/w.sock"), worker.listener, KEY)
        await announce(folder, address)
        gateway = gateway_driver(folder, heard)
        gateway.listen(lambda deliver: None)
        tasks = asyncio.create_task(worker.run()), asyncio.create_task(gateway.run())
        await until(gateway.cards)
        gateway.send(Arrived(request(20)))
        with pytest.raises(PeerError, match="no memory"):
            await tasks[0]
        await until(lambda: heard.gone)
        await end(*tasks)
        server.close()

    run(scenario)
