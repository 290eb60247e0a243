"""Probing: the line through the trials, closed ways, and what agents tell."""

import math
from collections.abc import Callable

import pytest
from carrying import WAYS, Carrying

from jedlik.core.errors import PeerError
from jedlik.core.moves import PathCosts, PathsMeasured
from jedlik.transfer.arena import SCRATCH_BYTES
from jedlik.transfer.hosts import local_facts
from jedlik.transfer.transports import SHAPES, probe


def test_the_line_is_found_again() -> None:
    found = probe("x", lambda count, size: 2e-6 * (count - 1) + 1e-10 * count * size)
    assert math.isclose(found.byte_s, 1e-10)
    assert math.isclose(found.block_s, 2e-6 * 127 / 128)


def test_noise_makes_nothing_negative() -> None:
    found = probe("x", lambda count, size: 1.0 if count == 1 else 0.5)
    assert (found.block_s, found.byte_s) == (0.0, 0.5 / SCRATCH_BYTES)


def test_the_best_of_three_counts() -> None:
    times = iter([9.0, 1.0, 5.0] * len(SHAPES))
    assert probe("x", lambda *_: next(times)) == PathCosts("x", 0.0, 1.0 / SCRATCH_BYTES)


def test_a_way_that_fails_is_told_as_closed() -> None:
    def broken(count: int, size: int) -> float:
        raise PeerError("no")

    assert probe("x", broken) == PathCosts("x", 0.0, 0.0, open=False)


@pytest.mark.parametrize("way", WAYS)
def test_agents_measure_what_they_have_when_they_meet(carrying: Callable[..., Carrying], way: str) -> None:
    left, right = (carrying(name, paths=[way], probe=True) for name in ("left@1", "right@1"))
    left.fill(1)
    right.fill(2)
    kept = right.device.copy()
    left.meet(right)
    for path in ("host", way):
        told = left.ear.heard(PathsMeasured, lambda it, path=path: it.paths[0].path == path)  # type: ignore[misc]
        costs = told.paths[0]
        assert costs.open
        assert costs.byte_s > 0
        assert costs.block_s >= 0
    right.ear.heard(PathsMeasured, lambda it: it.paths[0].path == way)
    assert (right.device == kept).all(), "a probe wrote into blocks"
    assert not right.host.any()


def test_facts_of_this_host() -> None:
    facts = local_facts()
    assert facts == local_facts()
    assert "/" in facts.host
    assert [name.partition(":")[0] for name in facts.namespaces] == ["pid", "ipc", "net"]
