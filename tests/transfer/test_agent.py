"""Moves inside one worker, and what is told of moves that can't be carried."""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from carrying import HANG_S, Carrying, ids, move

from jedlik.core.errors import ConfigError
from jedlik.core.ids import BlockId, WorkerId
from jedlik.core.moves import CancelMove, Location, Move, PathsMeasured, Revoke, StoredRun, Tier, TierOpened
from jedlik.transfer.store import Buffer, Done, Stop

DEVICE, HOST, DISK = Location("device"), Location("host"), Location("disk")
Make = Callable[..., Carrying]


def test_copies_between_device_and_host(carrying: Make) -> None:
    one = carrying("w0@1")
    one.fill(1)
    one.agent.perform(move(1, DEVICE, [3, 4, 9, 1], HOST, [0, 1, 2, 30]))
    moved = one.ear.moved(1)
    assert (moved.blocks, moved.cause, moved.path, moved.size_bytes) == (4, "", "copy", 4 * 4096)
    assert np.array_equal(one.host[[0, 1, 2, 30]], one.device[[3, 4, 9, 1]])
    assert not one.host[3:30].any()
    one.agent.perform(move(2, HOST, [30, 0], DEVICE, [7, 8]))
    assert one.ear.moved(2).blocks == 2
    assert np.array_equal(one.device[[7, 8]], one.host[[30, 0]])


@pytest.mark.parametrize(
    "wrong",
    [
        move(1, DEVICE, [32], HOST, [0]),
        move(1, DEVICE, [-1], HOST, [0]),
        move(1, DEVICE, [0], HOST, [99]),
        move(1, DEVICE, [0, 1], HOST, [0]),
        move(1, DEVICE, [], HOST, []),
        move(1, DISK, [0], Location("object"), []),
        move(1, Location("device", WorkerId("a@1")), [0], Location("device", WorkerId("b@1")), [0]),
        move(1, DISK, [0], Location("device", WorkerId("b@1")), [0]),
    ],
)
def test_a_move_that_makes_no_sense_fails(carrying: Make, wrong: Move) -> None:
    one = carrying("w0@1")
    one.agent.perform(wrong)
    moved = one.ear.moved(1)
    assert (moved.blocks, moved.cause) == (0, "failed")
    assert not one.device.any()
    assert not one.host.any()


def test_a_tier_that_is_not_there_is_a_miss(carrying: Make) -> None:
    one = carrying("w0@1")
    one.agent.perform(move(1, DISK, [0], DEVICE, [0]))
    assert one.ear.moved(1).cause == "missing"


def test_a_peer_never_met_is_waited_for_until_the_deadline(carrying: Make) -> None:
    one = carrying("w0@1")
    one.agent.perform(move(1, DEVICE, [0], Location("device", WorkerId("w1@1")), [0], deadline_s=0.01))
    assert one.ear.moved(1).cause == "late"


def test_a_dead_peer_ends_what_waits_and_what_comes(carrying: Make) -> None:
    one = carrying("w0@1")
    there = Location("device", WorkerId("w1@1"))
    one.agent.perform(move(1, DEVICE, [0], there, [0]))
    one.agent.met(WorkerId("w1@1"), None)
    assert one.ear.moved(1).cause == "gone"
    one.agent.perform(move(2, DEVICE, [0], there, [0]))
    assert one.ear.moved(2).cause == "gone"


def mappings(one: Carrying) -> int:
    """How often its arena is mapped in this process: by itself, and by whoever reaches it."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "jedlik-kv" in line]
    return sum(int(fields[4]) == one.arena.reference.inode for fields in lines)


def descriptors() -> int:
    """Open ones of this process, but for those of arenas: each mapping has one."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the folder itself
            found += "jedlik-kv" not in os.readlink(f"/proc/self/fd/{name}")
    return found


def test_a_peer_s_arena_is_mapped_when_a_move_needs_it_and_nothing_is_kept_of_a_dead_peer(carrying: Make) -> None:
    one = carrying("w0@1", probe=True)
    before = descriptors()
    for incarnation in range(3):
        name = WorkerId(f"w1@{incarnation}")
        other = carrying(name, probe=True)
        one.agent.met(name, other.agent.address)
        measured = incarnation + 2  # the first was of its own memory
        one.ear.heard(PathsMeasured, lambda told, so=measured: len(one.ear.all(PathsMeasured)) >= so)  # type: ignore[misc]
        assert mappings(other) == 1
        one.agent.perform(move(incarnation, DEVICE, [0], Location("device", name), [0]))
        assert one.ear.moved(incarnation).cause == ""
        assert mappings(other) == 2
        one.agent.met(name, None)
        for thread in threading.enumerate():
            if thread.name.endswith(name) or f"to-{name}" in thread.name:
                thread.join(HANG_S)
        assert mappings(other) == 1
        other.close()
    assert descriptors() == before


def test_cancelling_what_has_not_begun(carrying: Make) -> None:
    one = carrying("w0@1")
    one.agent.perform(move(1, DEVICE, [0], Location("device", WorkerId("w1@1")), [0]))
    one.agent.perform(CancelMove(1))
    one.agent.perform(CancelMove(1))
    one.agent.perform(CancelMove(7))
    assert one.ear.moved(1).cause == "cancelled"
    assert one.ear.numbers() == [1]


def test_who_can_not_write_here_is_revoked_at_once(carrying: Make) -> None:
    one = carrying("w0@1")
    one.agent.perform(Revoke(WorkerId("w1@1"), [one_ticket := 5]))  # type: ignore[list-item]
    assert one.ear.revoked("w1@1").tickets == [one_ticket]


class Shelf:
    """A store in memory that can be held up."""

    kind: Tier = "disk"

    def __init__(self, error: str = "") -> None:
        self.notes = ["a shelf"]
        self.kept: dict[int, tuple[BlockId, bytes]] = {}
        self.parents: list[BlockId | None] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()
        self.closed = False
        self._error = error

    def open(self) -> list[StoredRun]:
        if self._error:
            raise ConfigError(self._error)
        return [StoredRun(None, ids(1), [0])]

    def write(
        self,
        slots: Sequence[int],
        ids: Sequence[BlockId],
        parent: BlockId | None,
        buffers: Sequence[Buffer],
        stop: Stop,
    ) -> Done:
        self.entered.set()
        self.parents.append(parent)
        assert self.free.wait(HANG_S)
        for i, (slot, name, buffer) in enumerate(zip(slots, ids, buffers, strict=True)):
            if stop():
                return i, "cancelled"
            self.kept[slot] = (name, bytes(buffer))
        return len(slots), ""

    def read(self, slots: Sequence[int], ids: Sequence[BlockId], buffers: Sequence[Buffer], stop: Stop) -> Done:
        for i, (slot, name, buffer) in enumerate(zip(slots, ids, buffers, strict=True)):
            if self.kept.get(slot, (None, b""))[0] != name:
                return i, "missing"
            buffer[:] = self.kept[slot][1]
        return len(slots), ""

    def close(self) -> None:
        self.closed = True


def test_a_store_is_opened_written_read_and_closed(carrying: Make, capsys: pytest.CaptureFixture[str]) -> None:
    shelf = Shelf()
    one = carrying("w0@1", stores=[shelf])
    assert one.ear.heard(TierOpened) == TierOpened("disk", [StoredRun(None, ids(1), [0])])
    one.fill(2)
    one.agent.perform(move(1, DEVICE, [5, 2], DISK, [7, 8]))
    assert one.ear.moved(1).path == "file"
    assert shelf.kept == {7: (ids(2)[0], bytes(one.device[5])), 8: (ids(2)[1], bytes(one.device[2]))}
    one.agent.perform(move(2, DISK, [7, 9], HOST, [1, 2]))
    moved = one.ear.moved(2)
    assert (moved.blocks, moved.cause) == (1, "missing")
    assert np.array_equal(one.host[1], one.device[5])
    one.close()
    assert shelf.closed
    assert "a shelf" in capsys.readouterr().err


def test_a_store_that_can_not_be_opened_is_said_and_missed(carrying: Make, capsys: pytest.CaptureFixture[str]) -> None:
    one = carrying("w0@1", stores=[Shelf("no permission: use another folder")])
    one.agent.perform(move(1, DEVICE, [0], DISK, [0]))
    assert one.ear.moved(1).cause == "missing"
    one.close()
    assert "no disk tier: no permission: use another folder" in capsys.readouterr().err


def test_fetches_go_before_offloads_and_deadlines_hold_behind_a_stuck_store(carrying: Make) -> None:
    shelf = Shelf()
    one = carrying("w0@1", stores=[shelf])
    one.ear.heard(TierOpened)
    shelf.free.clear()
    for number in (1, 2, 3):  # two threads carry the first two; the third waits
        one.agent.perform(move(number, DEVICE, [0], DISK, [number], deadline_s=0.2 if number == 3 else 60.0))
    assert shelf.entered.wait(HANG_S)
    assert one.ear.moved(3).cause == "late"
    one.agent.perform(move(4, DEVICE, [1], DISK, [4]))
    one.agent.perform(move(5, DISK, [9], DEVICE, [9]))
    shelf.free.set()
    one.ear.moved(4)
    order = [told.number for told in one.ear.told if hasattr(told, "number")]
    assert order.index(5) < order.index(4)


def test_cancelling_what_is_being_written(carrying: Make) -> None:
    shelf = Shelf()
    one = carrying("w0@1", stores=[shelf])
    one.ear.heard(TierOpened)
    shelf.free.clear()
    one.agent.perform(move(1, DEVICE, [0, 1], DISK, [0, 1]))
    assert shelf.entered.wait(HANG_S)
    one.agent.perform(CancelMove(1))
    shelf.free.set()
    moved = one.ear.moved(1)
    assert (moved.blocks, moved.cause) == (0, "cancelled")
