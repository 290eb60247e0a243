"""All requests share one system prompt: its holder must not become the only worker, nor everybody compute it anew."""

from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from jedlik.sim.outcome import SimulationRun
from jedlik.sim.workload.offered import Offered, OfferedText
from sim_world import Listed, a_setup, run

SYSTEM = 100
"""Pieces of 64 tokens: two hundred milliseconds of prefill."""


def one_system_prompt(seed: int, requests: int, rate: float) -> Listed:
    def offered() -> Iterator[Offered]:
        rng, at_s = Random(seed), 0.0
        for number in range(requests):
            at_s += rng.expovariate(rate)
            ids = [*range(SYSTEM), *range(10_000 + 10 * number, 10_000 + 10 * number + rng.randint(1, 4))]
            yield Offered(at_s=at_s, text=OfferedText(0, ids, 64, 64 * len(ids)), output_tokens=rng.randint(30, 120))

    return Listed(list(offered()))


def hit_rate(result: SimulationRun) -> float:
    return sum(o.cached_tokens for o in result.outcomes) / sum(o.prompt_tokens for o in result.outcomes)


@pytest.mark.parametrize("gateways", [1, 4])
@pytest.mark.parametrize(("rate", "most"), [(10.0, 0.65), (40.0, 0.35)])
def test_load_is_spread_and_the_prompt_is_computed_about_once_a_worker(rate: float, most: float, gateways: int) -> None:
    """The more load, the more workers hold it; a few compute it side by side at the beginning."""
    result = run(a_setup(4, gateways=gateways), one_system_prompt(1, 200, rate))
    assert all(o.ok and o.attempts == 1 for o in result.outcomes)
    served = Counter(o.worker for o in result.outcomes)
    assert max(served.values()) < most * 200
    possible = SYSTEM / (SYSTEM + 2.5)
    assert hit_rate(result) > possible - 0.1
    waited = sorted(o.ttft_s or 0.0 for o in result.outcomes)
    assert waited[len(waited) * 3 // 4] < 0.1  # less than half of what computing it takes


def test_replicas_come_with_load_not_with_workers() -> None:
    """A trickle is served by whoever has the prompt; sixteen workers do not all have to compute it."""
    result = run(a_setup(16), one_system_prompt(2, 40, 1.0))
    computed = sum(o.cached_tokens == 0 for o in result.outcomes)
    assert computed <= 6
    assert hit_rate(result) > 0.8


def test_a_burst_on_a_cold_prompt_does_not_pile_up_on_one_worker() -> None:
    result = run(a_setup(4), one_system_prompt(3, 80, 4000.0))
    served = Counter(o.worker for o in result.outcomes)
    assert all(o.ok for o in result.outcomes)
    assert max(served.values()) <= 0.5 * 80
