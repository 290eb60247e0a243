"""The disk tier's formats, and what survives: no disk here."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kept_blocks import MINE, names

from jedlik.core.ids import BlockId
from jedlik.transfer.slots import (
    RECORD_BYTES,
    SlotRecord,
    SlotTable,
    StoreHeader,
    chained,
    pack_record,
    read_header,
    read_records,
    slot_bytes,
    slots_in,
    survivors_of,
)

IDS = st.binary(min_size=16, max_size=16).map(BlockId)
RECORDS = st.builds(
    SlotRecord,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    IDS,
    st.none() | IDS,
    st.binary(min_size=16, max_size=16),
    st.booleans(),
)


@given(st.lists(RECORDS, max_size=5), st.integers(0, 2**64 - 1))
def test_records_come_back(records: list[SlotRecord], epoch: int) -> None:
    log = b"".join(pack_record(record, epoch) for record in records)
    assert len(log) == RECORD_BYTES * len(records)
    assert list(read_records(log, epoch)) == records
    assert list(read_records(log, epoch ^ 1)) == []


@given(st.lists(RECORDS, min_size=1, max_size=4), st.data())
def test_a_damaged_record_is_dropped_and_no_other(records: list[SlotRecord], drawn: st.DataObject) -> None:
    log = bytearray(b"".join(pack_record(record, 7) for record in records))
    bit = drawn.draw(st.integers(0, len(log) * 8 - 1))
    log[bit // 8] ^= 1 << bit % 8
    hit = bit // 8 // RECORD_BYTES
    assert list(read_records(bytes(log), 7)) == [*records[:hit], *records[hit + 1 :]]


@given(st.integers(0, 8 * RECORD_BYTES - 1))
def test_a_damaged_header_is_none(bit: int) -> None:
    header = StoreHeader(4096, MINE, 99)
    packed = bytearray(header.packed())
    assert read_header(bytes(packed)) == header
    packed[bit // 8] ^= 1 << bit % 8
    assert read_header(bytes(packed)) in (None, header)  # the padding after it does not matter
    assert read_header(b"") is None


def test_sizes() -> None:
    assert [slot_bytes(size) for size in (1, 4096, 4097)] == [4096, 4096, 8192]
    assert slots_in(1000, 4096) == 0
    for budget in (1 << 20, 12_345_678):
        slots = slots_in(budget, 5000)
        log = (1 + 2 * slots + 1024 + slots) * RECORD_BYTES  # at its longest, the new one beside it
        assert budget - 2 * 8192 < (64 << 10) + slots * 8192 + log <= budget


def kept(slot: int, generation: int, block: BlockId, parent: BlockId | None, size: int = 4096) -> SlotRecord:
    return SlotRecord(slot, size, generation, block, parent, bytes(16))


def test_the_newest_record_of_a_slot_counts_wherever_it_stands() -> None:
    a, b = names(2)
    found = survivors_of([kept(3, 9, b, None), kept(3, 2, a, None)], 4, 4096)
    assert [(run.parent, run.ids, run.slots) for run in found.runs] == [(None, [b], [3])]
    assert found.next_generation == 10


def test_a_block_in_two_slots_is_where_it_was_written_last() -> None:
    (a,) = names(1)
    assert survivors_of([kept(0, 1, a, None), kept(1, 2, a, None)], 4, 4096).runs[0].slots == [1]


def test_a_forgotten_slot_is_empty_and_its_children_are_orphans() -> None:
    a, b, c = names(3)
    chain = [kept(0, 1, a, None), kept(1, 2, b, a), kept(2, 3, c, b)]
    found = survivors_of([*chain, chain[1]._replace(generation=4, readable=False)], 4, 4096)
    assert [run.ids for run in found.runs] == [[a]]
    assert found.orphans == 1


def test_other_lengths_and_slots_beyond_the_file_are_dropped() -> None:
    a, b = names(2)
    assert survivors_of([kept(4, 1, a, None), kept(0, 2, b, None, size=8192)], 4, 4096).runs == []


def test_chains_fork_into_runs_parents_first() -> None:
    a, b, c, d, e = names(5)
    assert list(chained({e: c, a: None, b: a, c: b, d: b})) == [[a, b], [c, e], [d]]


@given(st.integers(0, 2**32))
def test_what_survives_is_closed_and_complete(seed: int) -> None:
    """Against a model: random forests, written in random order into slots that are written again."""
    rng = random.Random(seed)
    ids = names(30, str(seed))
    parents = {block: None if i == 0 or rng.random() < 0.2 else ids[rng.randrange(i)] for i, block in enumerate(ids)}
    log, slots = [], {}
    for generation in range(60):
        block, slot = rng.choice(ids), rng.randrange(20)
        log.append(kept(slot, generation, block, parents[block]))
        slots[slot] = block
    there = set(slots.values())

    def whole(block: BlockId) -> bool:
        parent = parents[block]
        return block in there and (parent is None or whole(parent))

    rng.shuffle(log)
    found = survivors_of(log, 20, 4096)
    seen: list[BlockId] = []
    for run in found.runs:
        assert run.parent is None or run.parent in seen
        for parent, block, slot in zip([run.parent, *run.ids], run.ids, run.slots, strict=False):
            assert parents[block] == parent
            assert slots[slot] == block
            seen.append(block)
    assert sorted(seen) == sorted(block for block in there if whole(block))
    assert found.orphans == len(there) - len(seen)


def test_the_table_keeps_what_slots_hold() -> None:
    a, b = names(2)
    table = SlotTable(4, [kept(0, 1, a, None)], 7)
    row = table.put(kept(3, 2, b, a))
    assert table.get(3) == kept(3, 2, b, a)
    assert list(read_records(b"".join(table.rows()), 7)) == [kept(0, 1, a, None), kept(3, 2, b, a)]
    assert list(table.rows())[1] == row
    table.clear(0)
    table.put(kept(3, 3, b, a)._replace(readable=False))
    assert (table.get(0), table.get(3), list(table.rows())) == (None, None, [])
    for beyond in (-1, 4):
        with pytest.raises(IndexError):
            table.get(beyond)
