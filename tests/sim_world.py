"""Small simulations for tests: one model, requests drawn by a seed, and every invariant checked at the end."""

from collections.abc import Iterator, Sequence
from functools import partial
from random import Random

from jedlik.core.config import FaultConfig, GatewayConfig, NetworkConfig, WorkerConfig
from jedlik.core.protocol import StepCosts
from jedlik.perf.model import LinearModel
from jedlik.routing.policies.named import make
from jedlik.sim.outcome import Run
from jedlik.sim.setup import Pool, Setup
from jedlik.sim.workload.offered import Offered, Text
from jedlik.sim.world import Simulation

COSTS = StepCosts(0.008, 3.5e-5, 1.4e-9, 3.1e-5, 1.5e-8)
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
        text = Text(0, [*shared, *own], 64, tokens)
        offered.append(Offered(at, text, rng.randint(*outputs), session=str(stem)))
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
    pool = Pool("p", workers, "test", LinearModel(COSTS), 2.0, kv_tokens, start_s)
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


def run(setup: Setup, workload: Listed) -> Run:
    """Simulate, then check every node that is up."""
    simulation = Simulation(setup, workload)
    result = simulation.run()
    for gateway in simulation.network.gateways.values():
        gateway.node.check()
    for worker in simulation.network.workers.values():
        worker.node.check()
    assert len(result.outcomes) == result.offered
    return result
