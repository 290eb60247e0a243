"""Small simulations for tests: one model, requests drawn by a seed, and every invariant checked at the end."""

from collections.abc import Iterator, Sequence
from functools import partial
from random import Random
from typing import cast

from jedlik.core.config import FaultConfig, GatewayConfig, NetworkConfig, WorkerConfig
from jedlik.core.effects import Deliver, GatewayEffect, StreamEnded
from jedlik.core.events import Arrived, GatewayEvent
from jedlik.core.ids import GatewayId, StreamId, WorkerId
from jedlik.core.protocol import StepCosts
from jedlik.core.requests import Request
from jedlik.perf.model import LinearModel
from jedlik.routing.policies.named import make
from jedlik.sim.engine import PATTERN, TEXT, place_in_text
from jedlik.sim.outcome import SimulationRun
from jedlik.sim.process import GatewayProcess
from jedlik.sim.setup import Setup, SimPool
from jedlik.sim.workload.offered import Offered, OfferedText, Workload
from jedlik.sim.world import Simulation

COSTS = StepCosts(
    base_s=0.008, prefill_token_s=3.5e-5, prefill_pair_s=1.4e-9, decode_sequence_s=3.1e-5, context_token_s=1.5e-8
)
"""About a 32B model on two H200."""
WORKER = WorkerConfig(block_size=64, max_sequences=64, max_step_tokens=2048)


class Listed:
    """Requests known beforehand."""

    def __init__(self, offered: Sequence[Offered]) -> None:
        self._offered = sorted(offered, key=lambda o: o.at_s)
        self.total: int | None = len(offered)

    def arrivals(self) -> Iterator[Offered]:
        return iter(self._offered)

    def ended(self, offered: Offered, now_s: float) -> Sequence[Offered]:
        return ()


class Conversations:
    """Closed loop: each turn's prompt is the one before and more, sent a while after its answer."""

    def __init__(self, seed: int, talks: int, turns: int, think_s: float = 0.3, over_s: float = 5.0) -> None:
        self._seed, self._talks, self._turns, self._think_s, self._over_s = seed, talks, turns, think_s, over_s
        self.total: int | None = talks * turns

    def arrivals(self) -> Iterator[Offered]:
        rng = Random(self._seed)
        for at_s in sorted(rng.uniform(0.0, self._over_s) for _ in range(self._talks)):
            yield self._turn(at_s, rng.randrange(1 << 20), 0, [])

    def ended(self, offered: Offered, now_s: float) -> Sequence[Offered]:
        talk, turn = cast(tuple[int, int], offered.then)
        if turn + 1 == self._turns:
            return ()
        return (self._turn(now_s + self._think_s, talk, turn + 1, list(offered.text.ids)),)

    def _turn(self, at_s: float, talk: int, turn: int, said: list[int]) -> Offered:
        rng = Random(self._seed + 31 * talk + turn)
        ids = said + [1000 * turn + piece for piece in range(rng.randint(2, 12))]
        text = OfferedText(talk, ids, 64, 64 * len(ids))
        return Offered(at_s=at_s, text=text, output_tokens=rng.randint(10, 80), session=str(talk), then=(talk, turn))


def drawn(
    seed: int,
    requests: int = 200,
    rate: float = 10.0,
    prefixes: int = 8,
    prefix_pieces: int = 20,
    own_pieces: int = 30,
    outputs: tuple[int, int] = (2, 200),
) -> Listed:
    """Requests at random times, that share prefixes of 64-token pieces."""
    rng = Random(seed)
    at, offered = 0.0, []
    for number in range(requests):
        at += rng.expovariate(rate)
        stem = rng.randrange(prefixes)
        shared = [stem * 1000 + i for i in range(rng.randint(1, prefix_pieces))]
        own = [1_000_000 + number * 1000 + i for i in range(rng.randint(1, own_pieces))]
        tokens = 64 * (len(shared) + len(own)) - rng.randrange(64)
        text = OfferedText(0, [*shared, *own], 64, tokens)
        offered.append(Offered(at_s=at, text=text, output_tokens=rng.randint(*outputs), session=str(stem)))
    return Listed(offered)


def a_setup(
    workers: int = 3,
    kv_tokens: int = 64 * 2000,
    gateways: int = 1,
    faults: Sequence[FaultConfig] = (),
    worker: WorkerConfig = WORKER,
    gateway: GatewayConfig = GatewayConfig(),  # noqa: B008 - a frozen value
    network: NetworkConfig = NetworkConfig(),  # noqa: B008 - a frozen value
    step_by_step: bool = False,
    seed: int = 0,
    start_s: float = 5.0,
) -> Setup:
    pool = SimPool(
        name="p",
        count=workers,
        profile="test",
        model=LinearModel(COSTS),
        gpus=2.0,
        kv_tokens=kv_tokens,
        start_s=start_s,
    )
    return Setup(
        model="m",
        pools=(pool,),
        worker=worker,
        gateway=gateway,
        policy=partial(make, gateway.policy),
        gateways=gateways,
        network=network,
        faults=tuple(faults),
        step_by_step=step_by_step,
        seed=seed,
    )


def run(setup: Setup, workload: Workload) -> SimulationRun:
    """Simulate; check every answer, token by token, and every node that is up."""
    simulation = Simulation(setup, workload)
    result = play(simulation)
    assert len(result.outcomes) == result.offered
    return result


def play(simulation: Simulation) -> SimulationRun:
    """As `run`, of a simulation that may be cut before the last answer."""
    clients = Watch()
    for gateway in simulation.network.gateways.values():
        clients.watch(gateway)
    result = simulation.run()
    check_nodes(simulation)
    clients.check()
    return result


def check_nodes(simulation: Simulation) -> None:
    """Every node that is up is sound."""
    for gateway in simulation.network.gateways.values():
        gateway.node.check()
    for worker in simulation.network.workers.values():
        worker.node.check()


class Watch:
    """What clients are told, stream by stream."""

    def __init__(self) -> None:
        self._asked: dict[StreamId, Request] = {}
        self._told: dict[StreamId, list[int]] = {}
        self._ended: dict[StreamId, StreamEnded] = {}

    def watch(self, gateway: GatewayProcess) -> None:
        """From now on."""
        handle = gateway._handle

        def watched(event: GatewayEvent, now: float) -> list[GatewayEffect]:
            if isinstance(event, Arrived):
                self._asked[event.request.first_stream] = event.request
            effects = handle(event, now)
            for effect in effects:
                if isinstance(effect, Deliver):
                    self._take(effect)
            return effects

        gateway._handle = watched

    def _take(self, deliver: Deliver) -> None:
        for stream, token in zip(deliver.streams, deliver.tokens, strict=True):
            assert stream not in self._ended
            self._told.setdefault(stream, []).append(token)
        for ended in deliver.ended:
            assert ended.stream not in self._ended
            self._ended[ended.stream] = ended

    def check(self) -> None:
        """Answers are what they are without any fault; of one that ended early, a beginning."""
        for stream, request in self._asked.items():
            ended, told = self._ended.get(stream), self._told.get(stream, [])
            begin = place_in_text(request.sampling.seed, 0, 0) % PATTERN
            assert told == TEXT[begin : begin + len(told)]
            if ended is not None and ended.fault is None:
                assert (ended.reason, len(told)) == ("length", request.stopping.max_tokens)


def index_differs(simulation: Simulation) -> set[tuple[GatewayId, WorkerId]]:
    """Which gateways' indices are not what workers that are up have in their caches: facts are under way, or lost."""
    wrong = set()
    for name, gateway in simulation.network.gateways.items():
        index = gateway.node._index
        for worker, process in simulation.network.workers.items():
            keys = {key for run in process.node._pool.runs() for key in run.keys}
            bit = index._feeds[worker][0].bit
            believed = {key for run in index._closed.forest if run.mask & bit for key in run.keys}
            if not index.synced(worker) or believed != keys:
                wrong.add((name, worker))
    return wrong
