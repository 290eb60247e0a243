"""Random interleavings of deaths, late and doubled messages, cancels and faults at the gateway node.

Whatever happens: every stream ends exactly once, its tokens are the worker's, in order, none lost and none doubled, and
nothing is left over. Token p of a stream is a function of p, so continuation after migration shows.
"""

import random
from unittest import mock

from gateway_given import COSTS, EOS, card, facts, gateway, load, of, request
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from jedlik.core.config import GatewayConfig
from jedlik.core.effects import Deliver, GatewayEffect, ToWorkerEffect
from jedlik.core.errors import Fault
from jedlik.core.events import (
    Abandoned,
    Arrived,
    Consumed,
    Cut,
    Drain,
    FromWorker,
    GatewayEvent,
    Woken,
    WorkerJoined,
    WorkerLost,
)
from jedlik.core.facts import Answered, Routed, Suspected
from jedlik.core.ids import Handle, StreamId, WorkerId
from jedlik.core.protocol import Cancel, Finished, Started, Submit, Tokens
from jedlik.core.requests import Request
from jedlik.core.tokens import count
from jedlik.nodes.gateway.node import GatewayNode

LENGTH = 6


class Engine:
    """A worker that gives the token its position asks for; it may go on after it was lost."""

    def __init__(self, worker: WorkerId) -> None:
        self.worker = worker
        self.work: dict[Handle, tuple[Submit, int]] = {}
        self.submits = 0
        self.steps = 0

    def take(self, message: object) -> None:
        if isinstance(message, Submit):
            self.work[message.handle] = (message, count(message.output))
            self.submits = message.number
        elif isinstance(message, Cancel):
            for handle in message.handles:
                self.work.pop(handle, None)

    def step(self, rng: random.Random) -> Tokens | None:
        """One token of some sequences, or a fault instead."""
        message = Tokens(step=self.steps, handles=[], tokens=[], started=[], finished=[])
        for handle, (submit, position) in list(self.work.items()):
            dice = rng.random()
            if dice < 0.3:
                continue
            if dice < 0.36:
                kind = rng.choice(["unavailable", "internal"])
                message.finished.append(Finished(handle, "abort", None, Fault(kind=kind, message="broken")))  # type: ignore[arg-type]
                del self.work[handle]
                continue
            self._give(message, handle, submit, position)
        self.steps += 1
        return message if message.handles or message.finished else None

    def _give(self, message: Tokens, handle: Handle, submit: Submit, position: int) -> None:
        if position == count(submit.output):
            message.started.append(Started(handle, 0, 0.0))
        final = position + 1 == submit.stopping.max_tokens
        token = EOS if final and submit.choice else 100 + position
        message.handles.append(handle)
        message.tokens.append(token)
        self.work[handle] = (submit, position + 1)
        if final:
            reason = "stop" if token == EOS else "length"
            message.finished.append(Finished(handle, reason, token if token == EOS else None))  # type: ignore[arg-type]
            del self.work[handle]


class World:
    """Workers, clients and time around one node."""

    def __init__(self, seed: int, promises: bool = False) -> None:
        self.rng = random.Random(seed)
        self.promises = promises
        config = GatewayConfig(max_attempts=50, no_worker_wait_s=5.0, migration_wait_s=5.0, ack_every_tokens=2)
        if promises:
            config = replace(config, slo_ttft_s=self.rng.choice([0.4, 0.5]), slo_itl_s=0.02)
        self.node: GatewayNode = gateway(config=config)
        self.routed: list[Routed] = []
        self.now = 0.0
        self.engines: dict[WorkerId, Engine] = {}
        self.dead: list[Engine] = []
        self.joined = 0
        self.requests: list[Request] = []
        self.output: dict[int, list[int]] = {}
        self.ends: dict[int, str] = {}
        self.answered: list[Answered] = []
        self.silenced: set[int] = set()
        """Streams of which nothing more may be heard."""

    def tell(self, event: GatewayEvent) -> None:
        self.now += 0.01
        self.perform(self.node.handle(event, self.now))
        self.node.check()
        self.node.cards()  # kept from now on: the next check compares

    def perform(self, effects: list[GatewayEffect]) -> None:
        for message in of(ToWorkerEffect, effects):
            if message.worker in self.engines:
                self.engines[message.worker].take(message.message)
        for deliver in of(Deliver, effects):
            for stream, token in zip(deliver.streams, deliver.tokens, strict=True):
                assert stream not in self.ends
                assert stream not in self.silenced
                self.output[stream].append(token)
            for end in deliver.ended:
                assert end.stream not in self.ends, "ended twice"
                assert end.stream not in self.silenced
                self.ends[end.stream] = end.reason
        self.answered += facts(Answered, effects)
        self.routed += facts(Routed, effects)
        for worker in [s.worker for s in facts(Suspected, effects) if s.health in ("gone", "fenced")]:
            self.dead.append(self.engines.pop(worker))

    def act(self) -> None:
        """Something happens."""
        actions = [self.join, self.lose, self.arrive, self.arrive, self.step, self.step, self.step, self.step]
        self.rng.choice([*actions, self.haunt, self.cancel, self.consume, self.report, self.pass_time])()

    def join(self) -> None:
        if len(self.engines) < 4:
            self.joined += 1
            worker = WorkerId(f"w@{self.joined}")
            self.engines[worker] = Engine(worker)
            self.tell(WorkerJoined(card(worker)))

    def lose(self) -> None:
        if self.engines and self.rng.random() < 0.5:
            self.tell(WorkerLost(self.rng.choice(list(self.engines)), "died"))

    def arrive(self) -> None:
        number = len(self.requests)
        choices = self.rng.choice([1, 1, 2])
        length = self.rng.choice([12, 100, 300, 390]) if self.promises else 12
        ask = request(f"r{number}", range(number, number + length), 10 * number, self.rng.randint(1, LENGTH), choices)
        self.requests.append(ask)
        self.output.update({10 * number + choice: [] for choice in range(choices)})
        self.tell(Arrived(ask))

    def step(self) -> None:
        if self.engines:
            self._step(self.rng.choice(list(self.engines.values())))

    def haunt(self) -> None:
        """A lost worker's messages still arrive."""
        if self.dead:
            self._step(self.rng.choice(self.dead))

    def _step(self, engine: Engine) -> None:
        message = engine.step(self.rng)
        if message is not None:
            self.tell(FromWorker(engine.worker, message))

    def cancel(self) -> None:
        live = [s for s in self.output if s not in self.ends and s not in self.silenced]
        if live and self.rng.random() < 0.5:
            stream = self.rng.choice(live)
            if self.rng.random() < 0.5:
                self.silenced.add(stream)
                self.tell(Cut(StreamId(stream), len(self.output[stream])))
            else:
                ask = self.requests[stream // 10]
                self.silenced |= {ask.first_stream + c for c in range(ask.choices)} - self.ends.keys()
                self.tell(Abandoned(ask.request_id))

    def consume(self) -> None:
        if self.output:
            stream = self.rng.choice(list(self.output))
            self.tell(Consumed(StreamId(stream), len(self.output[stream])))

    def report(self) -> None:
        for engine in list(self.engines.values()):
            report = load(engine.submits, running=len(engine.work))
            if self.promises:
                report = replace(report, costs=COSTS, waiting_tokens=self.rng.choice([0, 0, 0, 900]))
            self.tell(FromWorker(engine.worker, report))

    def pass_time(self) -> None:
        self.now += self.rng.choice([0.1, 1.0, 2.0])
        self.tell(Woken())

    def settle(self) -> None:
        """The world calms down: there is a worker, and it finishes everything."""
        self.tell(Drain())
        while self.answered_streams() < len(self.output):
            self.join()
            self.step()
            self.tell(Woken())

    def answered_streams(self) -> int:
        return len(self.ends.keys() | self.silenced)


@given(st.integers(min_value=0, max_value=2**32))
def test_streams_end_exactly_once_and_tokens_are_neither_lost_nor_doubled(seed: int) -> None:
    _run(World(seed))


def test_the_same_holds_where_requests_wait_and_are_refused() -> None:
    held, shed = 0, set[str]()
    with mock.patch("jedlik.routing.estimates.ENOUGH_REQUESTS", 0):  # it may refuse from the start
        for seed in range(60):
            world = World(seed, promises=True)
            _run(world)
            held += sum(bool(routed.deferred and not routed.shed) for routed in world.routed)
            shed |= {routed.shed for routed in world.routed}
            assert all(routed.attempt == 1 for routed in world.routed if routed.deferred)
    assert held > 20
    assert {"late", "long"} <= shed


def _run(world: World) -> None:
    for _ in range(120):
        world.act()
    world.settle()
    for ask in world.requests:
        for choice in range(ask.choices):
            _judge(world, ask, choice)
    assert len(world.answered) == len(world.output)
    health = world.node.health()
    assert (health["in_flight"], health["parked"], health["waiting"]) == (0, 0, 0)
    assert all(w["attempts"] == 0 for w in health["workers"])  # type: ignore[attr-defined]
    world.node.check()
    world.node.cards()  # kept from now on: the next check compares


def _judge(world: World, ask: Request, choice: int) -> None:
    """What a client got is a prefix of the truth; all of it where the stream ended well."""
    stream, limit = ask.first_stream + choice, ask.stopping.max_tokens
    truth = [100 + position for position in range(limit)]
    if choice:
        truth[-1] = EOS
    got = world.output[stream]
    assert got == truth[: len(got)]
    if world.ends.get(stream) in ("stop", "length"):
        assert got == truth
        assert world.ends[stream] == ("stop" if choice else "length")


def test_usage_counts_each_delivered_token_once() -> None:
    world = World(3)
    world.join()
    world.arrive()
    for _ in range(3):
        world.step()
    world.tell(WorkerLost(next(iter(world.engines)), "died"))
    world.settle()
    answers = world.answered
    assert [a.output_tokens for a in answers] == [len(output) for output in world.output.values()]
    assert answers[0].attempts > 1
