"""The block pool alone: sharing, eviction order, facts; and random sequences of operations against its invariants."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.errors import Bug
from jedlik.core.ids import BlockId, BlockIndex
from jedlik.core.protocol import Evicted, Stored
from jedlik.core.tokens import pack
from jedlik.kv.hashing import BlockHasher, key_of
from jedlik.kv.pool import BlockPool
from jedlik.kv.runs import Run

HASHER = BlockHasher(b"k" * 16, "r", 2)


def chain(*tokens: int) -> list[BlockId]:
    return list(HASHER.chain(HASHER.root(""), pack(tokens)))


class Table(NamedTuple):
    """What one sequence holds."""

    run: Run | None
    named: list[BlockIndex]
    private: list[BlockIndex]

    @property
    def blocks(self) -> list[BlockIndex]:
        return self.named + self.private


def fill(pool: BlockPool, ids: list[BlockId], piece: int = 3) -> Table:
    """Hold a chain: what is there is shared, the rest taken and published piece by piece."""
    run, table = pool.share(None, ids)
    while rest := ids[len(table) : len(table) + piece]:
        taken = pool.take(len(rest))
        assert taken is not None
        run = pool.publish(run, rest, taken)
        assert run is not None
        table += taken
    return Table(run, table, [])


def let_go(pool: BlockPool, table: Table) -> None:
    pool.release(table.run, table.private)


def test_block_zero_is_never_given_out() -> None:
    pool = BlockPool(4)
    assert sorted(pool.take(3) or []) == [1, 2, 3]
    assert pool.take(1) is None
    with pytest.raises(Bug):
        BlockPool(1)


def test_a_released_chain_stays_and_is_shared_by_identity() -> None:
    pool = BlockPool(10)
    ids = chain(1, 2, 3, 4, 5, 6)
    table = fill(pool, ids)
    let_go(pool, table)
    assert (pool.free_blocks, pool.cached_blocks, pool.held_blocks) == (6, 3, 0)
    assert pool.match([*ids, *chain(9, 9)]) == (3, 0)
    assert pool.match(chain(3, 4)) == (0, 0)
    assert fill(pool, ids).blocks == table.blocks
    assert pool.match(ids) == (3, 3)
    pool.check([table.blocks])


def test_eviction_takes_the_oldest_leaf_first() -> None:
    pool = BlockPool(7)
    old, new = chain(1, 2, 3, 4, 5, 6), chain(7, 8, 9, 10, 11, 12)
    for ids in (old, new):
        let_go(pool, fill(pool, ids))
    let_go(pool, fill(pool, old[:1]))  # its root was used again
    pool.take_changes()
    assert pool.take(4) is not None
    assert pool.take_changes() == [Evicted([key_of(b) for b in (old[2], old[1], new[2], new[1])])]
    pool.check()


def test_changes_are_runs_in_order() -> None:
    pool = BlockPool(4)
    first, second = chain(1, 2, 3, 4), chain(5, 6, 7, 8)
    let_go(pool, fill(pool, first))
    assert pool.take_changes() == [Stored(None, [key_of(b) for b in first])]
    let_go(pool, fill(pool, second, 1))
    assert pool.take_changes() == [
        Stored(None, [key_of(second[0])]),
        Evicted([key_of(first[1])]),
        Stored(key_of(second[0]), [key_of(second[1])]),
    ]
    assert pool.runs() == [Stored(None, [key_of(first[0])]), Stored(None, [key_of(b) for b in second])]


def test_the_second_to_compute_the_same_keeps_its_block_private() -> None:
    pool = BlockPool(4)
    ids = chain(1, 2)
    a, b = pool.take(2) or []
    run = pool.publish(None, ids, [a])
    assert run is not None
    assert pool.publish(None, ids, [b]) is None
    pool.release(None, [b])
    assert pool.free_blocks == 2
    pool.release(run, [])
    assert (pool.free_blocks, pool.cached_blocks) == (2, 1)


def test_a_shared_part_is_cut_off_and_outlives_the_rest() -> None:
    pool = BlockPool(8)
    long, fork = chain(1, 1, 2, 2, 3, 3, 4, 4), chain(1, 1, 2, 2, 9, 9)
    first = fill(pool, long)
    second = fill(pool, fork)
    assert second.blocks[:2] == first.blocks[:2]
    pool.check([first.blocks, second.blocks])
    let_go(pool, first)
    assert pool.match(long) == (4, 2)
    assert (pool.cached_blocks, pool.held_blocks) == (2, 3)
    assert pool.take(4) is not None
    assert pool.match(long) == (2, 2)


def test_misuse_is_a_bug() -> None:
    pool = BlockPool(4)
    table = fill(pool, chain(1, 2))
    let_go(pool, table)
    with pytest.raises(Bug, match="released"):
        let_go(pool, table)


@given(st.integers(3, 14), st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 1), max_size=6)), max_size=60))
def test_random_use_keeps_every_invariant(blocks: int, operations: list[tuple[int, list[int]]]) -> None:
    pool = BlockPool(blocks)
    tables: list[Table] = []
    known: dict[int, int | None] = {}
    for kind, tokens in operations:
        ids = chain(*(t for t in tokens for _ in range(2)))
        if kind < 2:
            found, held = pool.match(ids)
            if len(ids) - held <= pool.available_blocks:
                assert found <= len(ids)
                tables.append(fill(pool, ids, 1 + len(tokens) % 3))
        elif kind == 2 and tables:
            let_go(pool, tables.pop(len(tokens) % len(tables)))
        elif (taken := pool.take(len(tokens))) is not None:
            tables.append(Table(None, [], taken))
        for change in pool.take_changes():
            if isinstance(change, Stored):
                parent = change.parent
                assert parent is None or parent in known
                for key in change.keys:
                    known[key], parent = parent, key
            else:
                for key in change.keys:
                    assert key not in known.values()
                    del known[key]
        assert sum(known) % (1 << 64) == pool.digest
        assert {key for run in pool.runs() for key in run.keys} == set(known)
        pool.check([table.blocks for table in tables])
    for table in tables:
        let_go(pool, table)
    assert pool.held_blocks == 0
