"""Workers that ask workers, over real sockets: what is said arrives in order, what can't be said is told as a loss."""

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from jedlik.core.effects import (
    ToClient,
    ToWorkerEffect,
    WorkerEffect,
)
from jedlik.core.errors import Bug
from jedlik.core.events import ClientJoined, ClientLost, FromClient, FromWorker, WorkerEvent, WorkerLost
from jedlik.core.facts import Fact
from jedlik.core.ids import BlockId, GatewayId, Handle, RequestId, WorkerId
from jedlik.core.moves import (
    DEVICE,
    CancelMove,
    CarrierReport,
    Location,
    Move,
    Moved,
    Order,
    PathCosts,
    PathsMeasured,
    Revoke,
    Revoked,
)
from jedlik.core.protocol import (
    SCHEMA_VERSION,
    Cancel,
    Card,
    Count,
    Counters,
    Granted,
    Layout,
    Load,
    Push,
    Reserve,
    State,
    Submit,
)
from jedlik.core.requests import Sampling, Stopping
from jedlik.core.step import Step, StepDone
from jedlik.core.tokens import pack
from jedlik.engines.simulated import CAPABILITIES
from jedlik.kv.hashing import hash_check
from jedlik.live.links import Cluster, Counted, LinkEvent, WorkerLinks
from jedlik.live.peers import PeerLinks
from jedlik.live.worker import WorkerDriver, WorkerTransfers
from jedlik.net.addresses import Address, UnixAddress
from jedlik.net.discovery.contract import Record
from jedlik.net.discovery.local import LocalDiscovery, LocalFencer, fence_of
from jedlik.net.streams import Connection, serve

KEY = b"k" * 32
HOST = "here"
LAYOUT = Layout(dtype="bfloat16", layers=2, kv_heads=1, head_dim=8, block_size=16)


def cluster(folder: Path) -> Cluster:
    return Cluster(LocalDiscovery(folder), LocalFencer(HOST), HOST, KEY)


def card(name: str, revision: str = "r") -> Card:
    return Card(
        schema=SCHEMA_VERSION,
        worker=WorkerId(f"{name}@1"),
        name=name,
        model="m",
        revision=revision,
        layout=LAYOUT,
        total_blocks=100,
        max_model_len=256,
        max_sequences=8,
        max_step_tokens=64,
        vocab_size=100,
        eos_token_ids=(2,),
        hash_check=hash_check(KEY),
        capabilities=CAPABILITIES,
    )


SUBMIT = Submit(
    handle=Handle(7),
    request_id=RequestId("r"),
    choice=0,
    attempt=1,
    prompt=pack(range(40)),
    output=b"",
    sampling=Sampling(seed=1),
    stopping=Stopping(max_tokens=0),
    tenant="",
    salt="",
    priority=0,
    budget_s=None,
    output_hint=None,
    number=1,
    push=Push(LAYOUT, 0),
)


class Idle:
    """An engine that is asked for nothing."""

    def start(self, on_done: Callable[[StepDone], None]) -> None:
        """Nothing to start."""

    def submit(self, step: Step) -> None:
        raise AssertionError(step)

    def close(self) -> None:
        """Nothing to stop."""


class Carrying:
    """A carrier that keeps what it is told, and tells `answers` from a thread of its own."""

    def __init__(self) -> None:
        self.performed: list[Order] = []
        self.known: list[tuple[WorkerId, str | None]] = []
        self.closed = False
        self._tell: Callable[[CarrierReport], None] | None = None

    def start(self, tell: Callable[[CarrierReport], None]) -> None:
        self._tell = tell

    def perform(self, effect: Order) -> None:
        self.performed.append(effect)

    def met(self, worker: WorkerId, address: str | None) -> None:
        self.known.append((worker, address))

    def close(self) -> None:
        self.closed = True

    async def tell(self, event: CarrierReport) -> None:
        assert self._tell is not None
        await asyncio.to_thread(self._tell, event)


class Counting:
    """Telemetry, kept."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.submits: list[Submit] = []
        self.told = Counters([])

    def fact(self, fact: Fact) -> None:
        self.facts.append(fact)

    def asked(self, submit: Submit) -> None:
        self.submits.append(submit)

    def counters(self) -> Counters:
        return self.told


class Written:
    """What a test's node does with an event: the test writes it down beforehand."""

    def __init__(self, answer: Callable[[WorkerEvent], list[WorkerEffect]] = lambda event: []) -> None:
        self.events: list[WorkerEvent] = []
        self._answer = answer

    def handle(self, event: WorkerEvent, now: float) -> list[WorkerEffect]:
        self.events.append(event)
        return self._answer(event)

    def of(self, *kinds: type) -> list[WorkerEvent]:
        return [event for event in self.events if isinstance(event, kinds)]


class Worker:
    """One worker: driver, node that only listens, carrier."""

    def __init__(self, folder: Path, name: str, node: Written | None = None, revision: str = "r") -> None:
        self.node, self.carrier, self.telemetry = node or Written(), Carrying(), Counting()
        self.card, self.folder = card(name, revision), folder
        peers = PeerLinks(self.card, cluster(folder), self.carrier.met, card_s=0.3)
        transfers = WorkerTransfers(self.carrier, peers)
        self.driver = WorkerDriver(self.node, Idle(), self.card, self.telemetry, transfers=transfers)

    async def begin(self, pid: int | None = None) -> None:
        self.server, address = await serve(
            UnixAddress(f"{self.folder}/{self.card.name}.sock"), self.driver.listener, KEY
        )
        self.record = await announce(self.folder, self.card.name, address, pid)
        self.task = asyncio.create_task(self.driver.run())

    async def end(self) -> None:
        await LocalDiscovery(self.folder).withdraw(self.record)
        self.server.close()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def announce(folder: Path, name: str, address: Address, pid: int | None = None) -> Record:
    record = Record(
        id=f"{name}@1", name=name, host=HOST, addresses=(address,), data=UnixAddress(f"data of {name}"), lease_s=60.0,
        fence=fence_of(pid or os.getpid()),
    )  # fmt: skip
    await LocalDiscovery(folder).announce(record)
    return record


async def until(true: Callable[[], object], limit_s: float = 60.0) -> None:
    async with asyncio.timeout(limit_s):
        while not true():  # noqa: ASYNC110 - the state is somebody else's
            await asyncio.sleep(0.005)


def run(scenario: Callable[[Path], Awaitable[None]]) -> None:
    with tempfile.TemporaryDirectory(prefix="jt-", dir="/tmp") as folder:
        asyncio.run(asyncio.wait_for(scenario(Path(folder)), 100))


A, B = WorkerId("a@1"), WorkerId("b@1")


def asking(*messages: Submit | Reserve | Cancel) -> Written:
    """A node that says these to B when its first gateway joins, and more of them is never said."""

    def answer(event: WorkerEvent) -> list[WorkerEffect]:
        if isinstance(event, ClientJoined):
            return [ToWorkerEffect(B, message) for message in messages]
        return []

    return Written(answer)


def test_what_is_said_before_the_connection_is_up_arrives_in_order_and_answers_come_back() -> None:
    def granting(event: WorkerEvent) -> list[WorkerEffect]:
        if isinstance(event, FromClient) and isinstance(event.message, Submit):
            return [ToClient(event.client, Granted(event.message.handle, 0, 39))]
        return []

    async def scenario(folder: Path) -> None:
        said: list[Submit | Reserve | Cancel] = [SUBMIT, Reserve(Handle(7), 0, [1, 2]), Cancel([Handle(7)])]
        a, b = Worker(folder, "a", asking(*said)), Worker(folder, "b", Written(granting))
        await b.begin()
        await a.begin()
        await until(lambda: b.carrier.known)
        a.driver.joined(GatewayId("g@1"), Connection(a.driver.listener(), None), True)
        await until(lambda: len(b.node.of(FromClient)) == 3)
        assert b.node.of(ClientJoined, FromClient) == [
            ClientJoined(GatewayId(A), follows=False),
            *(FromClient(GatewayId(A), message) for message in said),
        ]
        await until(lambda: a.node.of(FromWorker))
        assert a.node.of(FromWorker) == [FromWorker(B, Granted(Handle(7), 0, 39))]
        assert a.telemetry.submits == [SUBMIT]
        await a.end()
        await until(lambda: b.node.of(ClientLost))
        await b.end()

    run(scenario)


def test_a_worker_that_ends_is_told_lost_and_dead_and_then_unknown() -> None:
    async def scenario(folder: Path) -> None:
        a, b = Worker(folder, "a", asking(SUBMIT)), Worker(folder, "b")
        body = await asyncio.create_subprocess_exec("sleep", "60")
        await b.begin(body.pid)
        await a.begin()
        a.driver.joined(GatewayId("g@1"), Connection(a.driver.listener(), None), True)
        await until(lambda: b.node.of(FromClient))
        assert a.carrier.known == [(B, "unix:data of b")]
        await b.end()
        await until(lambda: a.node.of(WorkerLost))
        assert a.carrier.known == [(B, "unix:data of b")]  # its record is withdrawn, its process lives
        body.kill()
        await body.wait()
        await until(lambda: len(a.carrier.known) == 2)
        assert a.carrier.known[1] == (B, None)
        a.driver.joined(GatewayId("g@1"), Connection(a.driver.listener(), None), True)
        assert len(a.node.of(WorkerLost)) == 2  # at once
        await a.end()
        assert a.carrier.closed

    run(scenario)


def test_a_record_nobody_answers_for_is_a_loss() -> None:
    async def scenario(folder: Path) -> None:
        a = Worker(folder, "a", asking(SUBMIT))
        await announce(folder, "b", UnixAddress(f"{folder}/nobody.sock"))
        await a.begin()
        a.driver.joined(GatewayId("g@1"), Connection(a.driver.listener(), None), True)
        await until(lambda: a.node.of(WorkerLost))
        assert "cannot connect" in str(a.node.of(WorkerLost)[0])
        await a.end()

    run(scenario)


class Mute:
    """Takes connections, says nothing."""

    def opened(self, connection: Connection) -> None:
        """Not answered."""

    def received(self, connection: Connection, bodies: list[memoryview]) -> None:
        """Not answered."""

    def lost(self, connection: Connection, reason: str) -> None:
        """Not answered."""


def test_a_worker_that_shows_no_card_is_a_loss_and_lives() -> None:
    async def scenario(folder: Path) -> None:
        a = Worker(folder, "a", asking(SUBMIT))
        server, address = await serve(UnixAddress(f"{folder}/b.sock"), Mute, KEY)
        await announce(folder, "b", address)
        await a.begin()
        a.driver.joined(GatewayId("g@1"), Connection(a.driver.listener(), None), True)
        await until(lambda: a.node.of(WorkerLost))
        assert "no card" in str(a.node.of(WorkerLost)[0])
        server.close()
        await a.end()

    run(scenario)


def test_a_worker_of_another_revision_is_asked_for_nothing() -> None:
    async def scenario(folder: Path) -> None:
        a, b = Worker(folder, "a", asking(SUBMIT)), Worker(folder, "b", revision="other")
        await b.begin()
        await a.begin()
        a.driver.joined(GatewayId("g@1"), Connection(a.driver.listener(), None), True)
        await until(lambda: a.node.of(WorkerLost))
        assert "another model revision" in str(a.node.of(WorkerLost)[0])
        assert b.node.of(FromClient) == []
        await a.end()
        await b.end()

    run(scenario)


MOVE = Move(
    number=1,
    source=DEVICE,
    source_blocks=[1],
    target=Location("device", B),
    target_blocks=[2],
    ids=[BlockId(b"x" * 16)],
    parent=None,
    deadline_s=1.0,
    ticket=Handle(7),
)


def test_moves_go_to_the_carrier_and_what_it_tells_from_a_thread_to_the_node() -> None:
    wanted: list[Order] = [MOVE, CancelMove(1), Revoke(B, [Handle(7)])]
    told: Sequence[CarrierReport] = [
        Moved(number=1, blocks=1, path="shm"),
        Revoked(B, [Handle(7)]),
        PathsMeasured([PathCosts("shm", 1e-6, 1e-9)]),
    ]

    async def scenario(folder: Path) -> None:
        node = Written(lambda event: list(wanted) if isinstance(event, ClientJoined) else [])
        a = Worker(folder, "a", node)
        await a.begin()
        await until(lambda: node.events)
        a.driver.joined(GatewayId("g@1"), Connection(a.driver.listener(), None), True)
        assert a.carrier.performed == wanted
        for event in told:
            await a.carrier.tell(event)
        await until(lambda: len(node.events) >= 5)
        assert node.events[2:] == told
        await a.end()
        await a.carrier.tell(Moved(number=2, blocks=0, cause="gone"))
        await asyncio.sleep(0)
        assert node.events[2:] == told  # nobody is told any more

    run(scenario)


def test_a_move_without_a_carrier_is_a_bug() -> None:
    async def scenario(folder: Path) -> None:
        node = Written(lambda event: [MOVE])
        driver = WorkerDriver(node, Idle(), card("a"), Counting())
        with pytest.raises(Bug, match="nothing here can"):
            await driver.run()

    run(scenario)


def test_counters_travel_with_load_reports_when_they_have_changed() -> None:
    load = Load(
        steps=0,
        step_age_s=0.0,
        step_predicted_s=None,
        running=0,
        waiting=0,
        waiting_tokens=0,
        context_tokens=0,
        held_blocks=0,
        cached_blocks=0,
        last_submit=0,
    )

    def reporting(event: WorkerEvent) -> list[WorkerEffect]:
        gateways = [GatewayId("g@1")] if isinstance(event, FromClient | ClientJoined) else []
        return [ToClient(gateway, message) for gateway in gateways for message in (State(1), load)]

    async def scenario(folder: Path) -> None:
        b = Worker(folder, "b", Written(reporting))
        await b.begin(os.getpid())
        heard: list[LinkEvent] = []
        links = WorkerLinks(GatewayId("g@1"), cluster(folder), heard.append, lambda *_: None)
        task = asyncio.create_task(links.run())

        def counted() -> list[Counters]:
            return [event.counters for event in heard if isinstance(event, Counted)]

        def loads() -> int:
            return sum(isinstance(event, FromWorker) and event.message == load for event in heard)

        await until(counted)
        links.send(B, Cancel([]))
        await until(lambda: loads() == 2)
        assert counted() == [Counters([])]
        b.telemetry.told = Counters([Count("jedlik_handoff_tokens", (), (5.0,))])
        links.send(B, Cancel([]))
        await until(lambda: loads() == 3 and len(counted()) == 2)
        assert counted()[1] == b.telemetry.told
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await b.end()

    run(scenario)
