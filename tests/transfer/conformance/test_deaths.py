"""Every way between workers, when the other one is killed, hangs, or comes back as another incarnation."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from carrying import WAYS, Carrying, OtherWorker, move

from jedlik.core.ids import Handle
from jedlik.core.moves import Location, Moved, Revoke, Revoked

BLOCKS, BLOCK_BYTES = 16, 1 << 20
EVERYTHING = list(range(BLOCKS))
DEVICE = Location("device")
Spawn = Callable[..., OtherWorker]


@pytest.fixture(params=WAYS)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def spawn(tmp_path: Path, path: str) -> Iterator[Spawn]:
    made: list[OtherWorker] = []

    def make(worker: str, seed: int = 5) -> OtherWorker:
        made.append(OtherWorker(worker, tmp_path, path, BLOCKS, BLOCK_BYTES, seed))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def here(carrying: Callable[..., Carrying], path: str) -> Carrying:
    return carrying("here@1", blocks=BLOCKS, block_bytes=BLOCK_BYTES, paths=[path])


def test_killed_while_being_pushed_to(here: Carrying, spawn: Spawn) -> None:
    other = spawn("other@1")
    here.fill(1)
    here.agent.met(other.worker, other.address)
    last = 200
    for number in range(1, last + 1):
        there = Location("device", other.worker)
        here.agent.perform(move(number, DEVICE, EVERYTHING, there, EVERYTHING, ticket=number))
    assert here.ear.moved(2).cause == ""
    other.kill()
    assert here.ear.moved(last).cause == "gone"
    for number in range(1, last + 1):
        moved = here.ear.moved(number)
        assert (moved.cause, moved.blocks) == ("", BLOCKS) or (moved.cause == "gone" and moved.blocks <= BLOCKS)
    assert here.ear.numbers() == list(range(1, last + 1))


def test_killed_while_being_pulled_from(here: Carrying, spawn: Spawn) -> None:
    other = spawn("other@1", seed=5)
    here.agent.met(other.worker, other.address)
    last = 200
    for number in range(1, last + 1):
        here.agent.perform(move(number, Location("device", other.worker), EVERYTHING, DEVICE, EVERYTHING))
    assert here.ear.moved(1).cause == ""
    other.kill()
    assert here.ear.moved(last).cause == "gone"
    whole = np.random.default_rng(5).integers(0, 256, here.device.shape, np.uint8)
    assert np.array_equal(here.device[:1], whole[:1])
    assert here.ear.numbers() == list(range(1, last + 1))


def test_killed_while_pushing_then_revoked_then_nothing_lands(here: Carrying, spawn: Spawn) -> None:
    other = spawn("other@1")
    here.agent.met(other.worker, other.address)
    other.say("met", here.worker, here.agent.address)
    other.say("push", 1, 300, here.worker, 9)
    assert other.line() == f"1 {BLOCKS} ok"
    other.kill()
    here.agent.perform(Revoke(other.worker, [Handle(9)]))
    assert here.ear.revoked(other.worker).tickets == [9]
    here.device[:] = 0
    here.agent.perform(move(1, DEVICE, [0], Location("host"), [0]))  # some more of the agent's time
    here.ear.moved(1)
    assert not here.device.any()


def test_a_hung_worker_is_revoked_when_it_answers(here: Carrying, spawn: Spawn, path: str) -> None:
    other = spawn("other@1")
    here.agent.met(other.worker, other.address)
    other.say("met", here.worker, here.agent.address)
    other.say("push", 1, 400, here.worker, 9)
    assert other.line() == f"1 {BLOCKS} ok"
    os.kill(other.process.pid, signal.SIGSTOP)
    here.agent.perform(Revoke(other.worker, [Handle(9)]))
    if path == "tcp":  # whatever it sends, we are the ones who let it land
        here.ear.revoked(other.worker)
    else:
        here.agent.perform(move(1, DEVICE, [0], Location("host"), [0]))
        here.ear.moved(1)
        assert not any(isinstance(told, Revoked) for told in here.ear.told), "it could still write"
    os.kill(other.process.pid, signal.SIGCONT)
    here.ear.revoked(other.worker)
    here.device[:] = 0
    lines = [other.line() for _ in range(399)]
    assert "400 0 stale" in lines
    assert sorted(int(line.split()[0]) for line in lines) == list(range(2, 401))
    assert not here.device.any()


def test_a_hung_worker_that_is_killed_is_revoked(here: Carrying, spawn: Spawn) -> None:
    other = spawn("other@1")
    here.agent.met(other.worker, other.address)
    other.say("met", here.worker, here.agent.address)
    other.say("push", 1, 400, here.worker, 9)
    assert other.line() == f"1 {BLOCKS} ok"
    os.kill(other.process.pid, signal.SIGSTOP)
    here.agent.perform(Revoke(other.worker, [Handle(9)]))
    other.kill()
    here.ear.revoked(other.worker)
    here.device[:] = 0
    here.agent.perform(move(1, DEVICE, [0], Location("host"), [0]))
    here.ear.moved(1)
    assert not here.device.any()


def test_a_restarted_worker_is_another_one(here: Carrying, spawn: Spawn) -> None:
    here.fill(1)
    first = spawn("other@1")
    here.agent.met(first.worker, first.address)
    here.agent.perform(move(1, DEVICE, [0], Location("device", first.worker), [0], ticket=1))
    assert here.ear.moved(1).cause == ""
    first.kill()
    second = spawn("other@2")
    here.agent.perform(move(2, DEVICE, [0], Location("device", first.worker), [0], ticket=1))
    assert here.ear.moved(2).cause == "gone"
    here.agent.met(second.worker, second.address)
    here.agent.perform(move(3, DEVICE, [0], Location("device", second.worker), [1], ticket=1))
    assert here.ear.moved(3).cause == ""
    here.agent.perform(move(4, Location("device", second.worker), [1], Location("host"), [2]))
    assert here.ear.moved(4).cause == ""
    assert np.array_equal(here.host[2], here.device[0])


def test_a_death_is_noticed_by_who_waits_for_nothing(here: Carrying, spawn: Spawn) -> None:
    other = spawn("other@1")
    here.agent.met(other.worker, other.address)
    here.agent.perform(move(1, DEVICE, [0], Location("device", other.worker), [0], ticket=1))
    here.ear.moved(1)
    other.kill()
    here.agent.perform(move(2, DEVICE, [0], Location("device", other.worker), [0], ticket=1))
    moved = here.ear.heard(Moved, lambda told: told.number == 2)
    assert (moved.cause, moved.blocks) == ("gone", 0)
