"""Moves take the time of their path, one after the other; end once, with a cause; nothing lands where it may not."""

import msgspec
import pytest

from jedlik.core.config import NetworkConfig
from jedlik.core.ids import BlockId, Handle, WorkerId
from jedlik.core.moves import (
    DEVICE,
    CancelMove,
    CarrierReport,
    Location,
    Move,
    Moved,
    PathsMeasured,
    Revoke,
    Revoked,
    StoredRun,
    Tier,
    TierOpened,
)
from jedlik.core.protocol import Card, Layout, TierSize
from jedlik.sim.carrier import Carriers
from jedlik.sim.heap import Heap
from worker_world import make_card

SIZE = 1000
NETWORK = NetworkConfig(
    kv_bandwidth_bytes_s=1e6,
    kv_block_s=0.0,
    local_bandwidth_bytes_s=1e7,
    local_block_s=0.0,
    host_bandwidth_bytes_s=1e6,
    host_block_s=0.001,
    disk_bandwidth_bytes_s=1e5,
    disk_block_s=0.0,
    object_bandwidth_bytes_s=1e5,
    object_block_s=0.0,
)
"""A block takes a millisecond to other hosts, 0.1 on the same, 2 to host memory, 10 to disk and objects."""
A, B, C = WorkerId("a@1"), WorkerId("b@1"), WorkerId("c@1")
HOSTS = {A: "x", B: "y", C: "x"}


def card(worker: WorkerId, host: str = "") -> Card:
    tiers = tuple(TierSize(tier, 100) for tier in ("host", "disk", "object"))
    layout = Layout(dtype="float8", layers=1, kv_heads=1, head_dim=SIZE // 8, block_size=4)
    name = worker.partition("@")[0]
    return msgspec.structs.replace(
        make_card(), worker=worker, name=name, layout=layout, host=host, tiers=tiers, handoffs=("slots",)
    )


class Yard:
    """Three workers, two of them on one host."""

    def __init__(self) -> None:
        self.heap = Heap()
        self.cut: set[tuple[WorkerId, WorkerId]] = set()
        self.carriers = Carriers(self.heap, NETWORK, lambda one, other: (one, other) not in self.cut, None)
        self.told: list[tuple[float, WorkerId, CarrierReport]] = []
        for worker, host in HOSTS.items():
            self.start(card(worker, host))

    def start(self, new: Card) -> None:
        def tell(told: CarrierReport) -> None:
            self.told.append((round(self.heap.now, 6), new.worker, told))

        self.carriers.add(new, tell)

    def move(self, worker: WorkerId, move: Move) -> None:
        self.carriers.alive[worker].perform(move)

    def ends(self) -> list[tuple[float, int, int, str]]:
        """(when, number, blocks, cause) of all moves that ended."""
        self.heap.run()
        return [(at, told.number, told.blocks, told.cause) for at, _, told in self.told if isinstance(told, Moved)]


def push(number: int, target: WorkerId, blocks: int = 1, deadline_s: float = 10.0, ticket: int = 7) -> Move:
    indices = list(range(1, blocks + 1))
    return Move(
        number=number,
        source=DEVICE,
        source_blocks=indices,
        target=Location("device", target),
        target_blocks=indices,
        ids=[],
        parent=None,
        deadline_s=deadline_s,
        ticket=Handle(ticket),
    )


def own(number: int, source: Tier, target: Tier, slots: list[int], ids: str, parent: str = "") -> Move:
    """`ids` are letters, one a block."""
    names = [BlockId(letter.encode()) for letter in ids]
    above = BlockId(parent.encode()) if parent else None
    return Move(
        number=number,
        source=Location(source),
        source_blocks=slots,
        target=Location(target),
        target_blocks=slots,
        ids=names,
        parent=above,
        deadline_s=10.0,
    )


def test_moves_of_one_path_wait_for_each_other_and_are_told_what_they_took() -> None:
    yard = Yard()
    for number, blocks in ((1, 3), (2, 2)):
        yard.move(A, push(number, B, blocks))
    yard.move(A, push(3, C, 5))
    assert yard.ends() == [(0.0005, 3, 5, ""), (0.003, 1, 3, ""), (0.005, 2, 2, "")]
    _, _, second = yard.told[-1]
    assert isinstance(second, Moved)
    assert (second.path, second.size_bytes) == ("nixl", 2 * SIZE)
    assert (second.queued_s, second.elapsed_s) == pytest.approx((0.003, 0.002))


def test_ways_in_and_out_of_a_tier_and_different_tiers_do_not_wait_for_each_other() -> None:
    yard = Yard()
    yard.move(A, own(1, "device", "host", [1], "p"))
    yard.move(A, own(2, "host", "device", [2], "q"))
    yard.move(A, own(3, "device", "disk", [1], "p"))
    yard.move(A, own(4, "host", "disk", [2], "q"))
    assert yard.ends() == [(0.002, 1, 1, ""), (0.002, 2, 1, ""), (0.01, 3, 1, ""), (0.02, 4, 1, "")]


def test_what_has_not_begun_in_time_never_does() -> None:
    yard = Yard()
    yard.move(A, push(1, B, 5))
    yard.move(A, push(2, B, 1, deadline_s=0.004))
    yard.move(A, push(3, B, 1, deadline_s=0.006))
    assert yard.ends() == [(0.004, 2, 0, "late"), (0.005, 1, 5, ""), (0.006, 3, 1, "")]


def test_what_is_cancelled_before_it_begins_ends_at_once_and_what_has_begun_goes_on() -> None:
    yard = Yard()
    yard.move(A, push(1, B, 5))
    yard.move(A, push(2, B, 1))
    yard.move(A, push(3, B, 1))
    for number in (1, 2, 99):
        yard.carriers.alive[A].perform(CancelMove(number))
    assert yard.ends() == [(0.0, 2, 0, "cancelled"), (0.005, 1, 5, ""), (0.006, 3, 1, "")]


def test_a_target_that_is_gone_gets_nothing() -> None:
    yard = Yard()
    yard.move(A, push(1, B, 5))
    yard.move(A, push(2, B, 5))
    yard.move(A, push(3, C, 1))
    yard.heap.at(0.001, yard.carriers.remove, B)
    assert yard.ends() == [(0.0001, 3, 1, ""), (0.005, 1, 0, "gone"), (0.005, 2, 0, "gone")]


def test_a_worker_that_has_ended_moves_nothing_and_hears_nothing() -> None:
    yard = Yard()
    for number in (1, 2):
        yard.move(A, push(number, B, 5))
    yard.heap.at(0.001, yard.carriers.remove, A)
    assert yard.ends() == []


def test_a_frozen_worker_ends_what_is_under_way_and_begins_nothing() -> None:
    yard = Yard()
    for number in (1, 2):
        yard.move(A, push(number, B, 5))
    yard.move(A, push(3, B, 5, deadline_s=0.5))
    yard.heap.at(0.001, yard.carriers.alive[A].freeze)
    yard.heap.at(1.0, yard.carriers.alive[A].thaw)
    assert yard.ends() == [(0.005, 1, 5, ""), (0.5, 3, 0, "late"), (1.005, 2, 5, "")]


def test_a_link_that_is_cut_holds_its_moves_and_no_others() -> None:
    yard = Yard()
    d = WorkerId("d@1")
    yard.start(card(d, "z"))
    yard.cut.add((A, B))
    yard.move(A, push(1, B, 5))
    yard.move(A, push(2, d, 1))

    def heal() -> None:
        yard.cut.clear()
        yard.carriers.go()

    yard.heap.at(1.0, heal)
    assert yard.ends() == [(0.001, 2, 1, ""), (1.005, 1, 5, "")]


def test_a_ticket_that_is_revoked_is_written_no_more() -> None:
    """Between hosts at once; other tickets of the same writer go on."""
    yard = Yard()
    yard.move(A, push(1, B, 5))
    yard.move(A, push(2, B, 5))
    yard.move(A, push(3, B, 1, ticket=8))
    yard.heap.at(0.001, yard.carriers.alive[B].perform, Revoke(A, [Handle(7)]))
    assert yard.ends() == [(0.005, 1, 0, "stale"), (0.005, 2, 0, "stale"), (0.006, 3, 1, "")]
    assert (0.001, B, Revoked(A, [Handle(7)])) in yard.told


def test_memory_that_is_shared_is_revoked_only_when_the_writer_is_dead() -> None:
    yard = Yard()
    yard.move(A, push(1, C, 5))
    yard.carriers.alive[C].perform(Revoke(A, [Handle(7)]))
    yard.heap.at(0.3, yard.carriers.remove, A)
    assert yard.ends() == [(0.0005, 1, 5, "")]
    assert yard.told[-1] == (0.3, C, Revoked(A, [Handle(7)]))
    yard.carriers.alive[C].perform(Revoke(A, [Handle(9)]))
    yard.heap.run()
    assert yard.told[-1] == (0.3, C, Revoked(A, [Handle(9)]))


def test_a_worker_learns_at_its_start_what_its_paths_take_and_what_is_on_its_disk() -> None:
    yard = Yard()
    yard.move(A, own(1, "device", "disk", [5, 6, 3], "pqr"))
    yard.move(A, own(2, "host", "disk", [7], "s", parent="q"))
    yard.move(A, own(3, "host", "disk", [9], "z", parent="y"))
    yard.move(A, own(4, "device", "disk", [4], "t", parent="s"))
    yard.ends()
    yard.move(A, own(5, "device", "disk", [4], "u"))
    yard.heap.run(yard.heap.now + 0.005)  # while this one is written
    yard.carriers.remove(A)
    paths, disk, objects = yard.carriers.first_words(card(WorkerId("a@2")))
    assert isinstance(paths, PathsMeasured)
    assert [path.path for path in paths.paths] == ["shm", "nixl", "host", "disk", "object"]
    assert isinstance(disk, TierOpened)
    named = {name: slot for run in disk.runs for name, slot in zip(run.ids, run.slots, strict=True)}
    assert named == {b"p": 5, b"q": 6, b"r": 3, b"s": 7}  # z follows what is not there, t was being overwritten
    assert disk.runs[0] == StoredRun(None, [BlockId(b"p"), BlockId(b"q")], [5, 6])
    assert objects == TierOpened("object", [])


def test_a_plain_worker_is_told_nothing() -> None:
    plain = make_card()
    assert list(Yard().carriers.first_words(plain)) == []


def test_what_a_disk_or_store_does_not_hold_is_missing() -> None:
    yard = Yard()
    yard.move(A, own(1, "device", "disk", [1, 2], "pq"))
    yard.move(A, own(2, "device", "object", [1, 2], "pq"))
    yard.ends()
    yard.told.clear()
    yard.move(A, own(3, "disk", "device", [1, 2, 3], "pqr"))
    yard.move(A, own(4, "disk", "device", [2, 1], "pq"))
    yard.move(
        B,
        Move(
            number=1,
            source=Location("object"),
            source_blocks=[],
            target=DEVICE,
            target_blocks=[4, 5],
            ids=[BlockId(b"q"), BlockId(b"x")],
            parent=None,
            deadline_s=1.0,
        ),
    )
    assert [end[1:] for end in yard.ends()] == [(1, 1, "missing"), (3, 2, "missing"), (4, 0, "missing")]
