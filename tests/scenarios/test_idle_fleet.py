"""A fleet with next to nothing to do: equal workers get equal shares, though they have learnt unequal step times."""

from collections import Counter
from random import Random

import pytest
from msgspec.structs import astuple, replace

from jedlik.core.config import GatewayConfig
from jedlik.core.protocol import StepCosts
from jedlik.perf.model import LinearModel
from jedlik.routing.policies.named import POLICIES
from jedlik.sim.setup import Setup
from jedlik.sim.workload.offered import Offered, OfferedText
from sim_world import COSTS, Listed, a_setup, run

REQUESTS = 100
NOISE = 0.08
"""Step times differ by so much, either way, and each cost by itself."""


def noisy(workers: int, seed: int, gateway: GatewayConfig, gateways: int = 1) -> Setup:
    """Workers of one kind, each with step times of its own."""
    setup, rng = a_setup(workers, gateway=gateway, gateways=gateways), Random(seed)
    pool = setup.pools[0]

    def costs() -> StepCosts:
        return StepCosts.of(cost * rng.uniform(1 - NOISE, 1 + NOISE) for cost in astuple(COSTS))

    pools = tuple([replace(pool, name=f"p{n}", count=1, model=LinearModel(costs())) for n in range(workers)])
    return replace(setup, pools=pools)


def trickle(seed: int) -> Listed:
    """Prompts that share nothing, one after the other has been answered."""
    rng, offered = Random(seed), []
    for number in range(REQUESTS):
        pieces = rng.randint(1, 40)
        text = OfferedText(number, list(range(pieces)), 64, 64 * pieces)
        offered.append(Offered(at_s=3.0 * number, text=text, output_tokens=rng.randint(2, 20)))
    return Listed(offered)


@pytest.mark.parametrize("workers", [2, 3, 8])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("slo_ttft_s", [None, 2.0])
def test_nobody_gets_much_more_than_its_share(policy: str, workers: int, slo_ttft_s: float | None) -> None:
    gateway = GatewayConfig(policy=policy, slo_ttft_s=slo_ttft_s, slo_itl_s=None if slo_ttft_s is None else 0.05)
    result = run(noisy(workers, 7, gateway), trickle(7))
    shares = Counter(o.worker for o in result.outcomes)
    assert all(o.ok for o in result.outcomes)
    assert len(shares) == workers
    assert max(shares.values()) <= 1.2 * REQUESTS / workers + 3


def test_several_gateways_spread_alike() -> None:
    result = run(noisy(2, 8, GatewayConfig(), gateways=3), trickle(8))
    assert max(Counter(o.worker for o in result.outcomes).values()) <= 0.6 * REQUESTS


def test_what_is_cached_still_decides() -> None:
    """A prompt that one worker holds goes there, whoever is idle."""
    text = OfferedText(0, list(range(30)), 64, 64 * 30)
    result = run(
        noisy(4, 9, GatewayConfig()), Listed([Offered(at_s=3.0 * n, text=text, output_tokens=10) for n in range(20)])
    )
    assert len({o.worker for o in result.outcomes}) == 1
    assert sum(o.cached_tokens == 0 for o in result.outcomes) == 1
