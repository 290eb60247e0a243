"""Fetch or recompute, by arithmetic: checked against every other way of cutting, and never slower than computing."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jedlik.core.moves import PathCosts
from jedlik.core.protocol import StepCosts
from jedlik.moving.fetch_plan import LEAST_GAIN_S, LEAST_GAIN_SHARE, Depth, Part, plan
from jedlik.perf.paths import Paths
from jedlik.perf.step import prefill_s

SIZE, BLOCK_BYTES, STEP = 16, 1 << 20, 512
COSTS = StepCosts(base_s=0.005, prefill_token_s=1e-4, prefill_pair_s=0.0, decode_sequence_s=0.0, context_token_s=0.0)
"""10,000 tokens a second: a block takes 1.6 ms."""
FAST, SLOW, MIDDLE = 1e-10, 1e-8, 1e-9
"""Seconds per byte; a block takes 0.1, 10 and 1 ms."""


def paths(**byte_s: float) -> Paths:
    known = Paths()
    for name, seconds in byte_s.items():
        known.measured(PathCosts(name, 0.0, seconds))
    return known


def planned(
    known: Paths, *depths: tuple[str, int], device: int = 0, tokens: int = 1601, costs: StepCosts | None = COSTS
) -> list[Part]:
    given_depths = [Depth(*depth) for depth in depths]
    return plan(
        device,
        given_depths,
        tokens,
        block_size=SIZE,
        block_bytes=BLOCK_BYTES,
        costs=costs,
        paths=known,
        now=0.0,
        max_step_tokens=STEP,
    )


def test_a_fast_tier_is_fetched_from_and_a_slow_one_is_not() -> None:
    known = paths(host=FAST, disk=SLOW)
    assert planned(known, ("host", 80)) == [Part("host", 0, 80)]
    assert planned(known, ("disk", 80)) == []
    assert planned(known, ("host", 80), ("disk", 100)) == [Part("host", 0, 80)]
    assert planned(known) == []


def test_the_rest_comes_from_the_tier_that_holds_more() -> None:
    known = paths(host=FAST, disk=MIDDLE)
    assert planned(known, ("host", 60), ("disk", 90)) == [Part("host", 0, 60), Part("disk", 60, 90)]
    assert planned(known, ("host", 90), ("disk", 60)) == [Part("host", 0, 90)]
    assert planned(known, ("host", 60), ("disk", 90), device=70) == [Part("disk", 70, 90)]


def test_the_nearer_of_two_tiers_alike_is_taken() -> None:
    known = paths(host=FAST, disk=FAST)
    assert planned(known, ("host", 80), ("disk", 80)) == [Part("host", 0, 80)]
    assert planned(known, ("disk", 80), ("host", 80)) == [Part("disk", 0, 80)]


def test_a_cheaper_tier_farther_away_is_taken() -> None:
    known = paths(host=MIDDLE, disk=FAST)
    assert planned(known, ("host", 80), ("disk", 90)) == [Part("disk", 0, 90)]
    assert planned(known, ("host", 90), ("disk", 60)) == [Part("disk", 0, 60), Part("host", 60, 90)]


def test_the_last_token_is_always_computed() -> None:
    known = paths(host=FAST)
    assert planned(known, ("host", 100), tokens=1601) == [Part("host", 0, 100)]
    assert planned(known, ("host", 100), tokens=1600) == [Part("host", 0, 99)]
    assert planned(known, ("host", 100), tokens=1600, device=99) == []
    assert planned(known, ("host", 1), tokens=16) == []


def test_a_queue_on_the_path_counts() -> None:
    known = paths(host=FAST, disk=MIDDLE)
    known.began("host", 10_000, 10_000 * BLOCK_BYTES)  # for a second
    assert planned(known, ("host", 80)) == []
    assert planned(known, ("host", 80), ("disk", 80)) == [Part("disk", 0, 80)]


def test_what_gains_hardly_anything_is_computed() -> None:
    """A tenth of the prefill saved, and a millisecond, are not worth the risk."""
    flat = StepCosts(base_s=0.0, prefill_token_s=1e-4, prefill_pair_s=0.0, decode_sequence_s=0.0, context_token_s=0.0)
    saved_s = 80 * SIZE * 1e-4
    just_enough_s = (1 - LEAST_GAIN_SHARE) * saved_s - LEAST_GAIN_S
    for factor, parts in ((0.99, [Part("disk", 0, 80)]), (1.01, [])):
        known = paths(disk=factor * just_enough_s / (80 * BLOCK_BYTES))
        assert planned(known, ("disk", 80), costs=flat) == parts


def test_a_part_is_cut_where_a_step_less_is_needed() -> None:
    """Steps of this engine cost much, whatever they hold: fetching pays only as far as it saves one."""
    steps = StepCosts(base_s=1.0, prefill_token_s=1e-6, prefill_pair_s=0.0, decode_sequence_s=0.0, context_token_s=0.0)
    known = paths(disk=0.02 / BLOCK_BYTES)
    assert planned(known, ("disk", 60), costs=steps) == [Part("disk", 0, 37)]  # of 1601 tokens 1009 are left: 2 steps
    assert planned(known, ("disk", 30), costs=steps) == [Part("disk", 0, 5)]
    assert planned(known, ("disk", 3), costs=steps) == []
    known = paths(disk=0.04 / BLOCK_BYTES)  # the first step is saved by 5 blocks, each further one costs 32
    assert planned(known, ("disk", 60), costs=steps) == [Part("disk", 0, 5)]


def test_a_closed_path_is_left_out() -> None:
    known = paths(host=FAST, disk=MIDDLE)
    for _ in range(3):
        known.began("host", 1, 1)
        known.ended("host", 1, 1, 0.0, False, 0.0)
    assert planned(known, ("host", 80), ("disk", 80)) == [Part("disk", 0, 80)]


def test_unknown_paths_are_left_alone_but_host_memory() -> None:
    assert planned(Paths(), ("disk", 80), ("object", 80)) == []
    assert planned(Paths(), ("host", 80), ("disk", 90)) == [Part("host", 0, 80)]


def test_an_unknown_engine_is_taken_for_a_fast_one() -> None:
    known = paths(host=SLOW, disk=MIDDLE, object=FAST)
    assert planned(known, ("disk", 80), costs=None) == []
    assert planned(known, ("host", 80), costs=None) == [Part("host", 0, 80)]
    assert planned(known, ("object", 80), costs=None) == [Part("object", 0, 80)]


def gain_s(parts: list[Part], known: Paths, device: int, tokens: int, costs: StepCosts) -> float:
    """What is to be made as large as possible, written down a second time."""

    def rest_s(blocks: int) -> float:
        return prefill_s(costs, tokens - blocks * SIZE, blocks * SIZE, 4 * SIZE)

    if not parts:
        return 0.0
    moving_s = sum(known.seconds(p.path, p.last - p.first, (p.last - p.first) * BLOCK_BYTES) or 0.0 for p in parts)
    saved_s = rest_s(device) - rest_s(parts[-1].last)
    return (1 - LEAST_GAIN_SHARE) * saved_s - moving_s - LEAST_GAIN_S * len(parts)


def every_way(depths: list[Depth], device: int, most: int) -> list[list[Part]]:
    """All of them, for tiers in any order."""
    ways: list[list[Part]] = [[]]
    for order in permutations(depths):
        open_ways: list[list[Part]] = [[]]
        for path, blocks in order:
            longer = []
            for parts in open_ways:
                first = parts[-1].last if parts else device
                longer += [[*parts, Part(path, first, last)] for last in range(first + 1, min(blocks, most) + 1)]
            open_ways += longer
        ways += open_ways
    return ways


COST = st.floats(0.0, 1e-3)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.floats(0.0, 0.02), COST, st.floats(0.0, 1e-6)),
    st.lists(st.tuples(st.integers(0, 24), st.floats(0.0, 2e-8), st.integers(0, 20)), max_size=2),
    st.integers(0, 12),
    st.integers(1, 24 * SIZE),
)
def test_no_other_way_is_better_and_none_is_worse_than_computing(
    engine: tuple[float, float, float], tiers: list[tuple[int, float, int]], device: int, tokens: int
) -> None:
    costs, known, step = StepCosts.of([*engine, 0.0, 0.0]), Paths(), 4 * SIZE
    depths = []
    for number, (blocks, byte_s, queue) in enumerate(tiers):
        known.measured(PathCosts(f"t{number}", 0.0, byte_s))
        known.began(f"t{number}", queue, queue * BLOCK_BYTES)
        depths.append(Depth(f"t{number}", blocks))
    device = min(device, (tokens - 1) // SIZE)
    parts = plan(
        device,
        depths,
        tokens,
        block_size=SIZE,
        block_bytes=BLOCK_BYTES,
        costs=costs,
        paths=known,
        now=0.0,
        max_step_tokens=step,
    )
    at = device
    for part in parts:
        assert at == part.first < part.last <= min((tokens - 1) // SIZE, dict(depths)[part.path])
        at = part.last
    best = max(gain_s(way, known, device, tokens, costs) for way in every_way(depths, device, (tokens - 1) // SIZE))
    assert gain_s(parts, known, device, tokens, costs) == pytest.approx(best, abs=1e-12)
    assert best >= 0.0
