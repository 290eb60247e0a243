"""The block pool alone: sharing, eviction order, facts; and random sequences of operations against its invariants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.errors import Bug
from jedlik.core.ids import BlockId, BlockIndex
from jedlik.core.protocol import Evicted, Stored
from jedlik.core.tokens import pack
from jedlik.kv.hashing import BlockHasher, key_of
from jedlik.kv.pool import BlockPool

HASHER = BlockHasher(b"k" * 16, "r", 2)


def chain(*tokens: int) -> list[BlockId]:
    return list(HASHER.chain(HASHER.root(""), pack(tokens)))


def fill(pool: BlockPool, ids: list[BlockId]) -> list[BlockIndex]:
    """Hold a chain: what is there is shared, the rest taken and published."""
    table: list[BlockIndex] = []
    parent: BlockId | None = None
    for block_id in ids:
        shared = pool.share([block_id])
        if not shared:
            shared = pool.take(1) or []
            assert pool.publish(shared[0], block_id, parent)
        table += shared
        parent = block_id
    return table


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
    pool.release(table)
    assert (pool.free_blocks, pool.cached_blocks, pool.held_blocks) == (6, 3, 0)
    assert pool.match([*ids, *chain(9, 9)]) == (3, 0)
    assert pool.match(chain(3, 4)) == (0, 0)
    assert fill(pool, ids) == table
    assert pool.match(ids) == (3, 3)
    pool.check([table])


def test_eviction_takes_the_oldest_leaf_first() -> None:
    pool = BlockPool(7)
    old, new = chain(1, 2, 3, 4, 5, 6), chain(7, 8, 9, 10, 11, 12)
    for ids in (old, new):
        pool.release(fill(pool, ids))
    pool.release(fill(pool, old[:1]))  # its root was used again
    pool.take_changes()
    assert pool.take(4) is not None
    assert pool.take_changes() == [Evicted([key_of(b) for b in (old[2], old[1], new[2], new[1])])]
    pool.check()


def test_changes_are_runs_in_order() -> None:
    pool = BlockPool(4)
    first, second = chain(1, 2, 3, 4), chain(5, 6, 7, 8)
    pool.release(fill(pool, first))
    assert pool.take_changes() == [Stored(None, [key_of(b) for b in first])]
    pool.release(fill(pool, second))
    assert pool.take_changes() == [
        Stored(None, [key_of(second[0])]),
        Evicted([key_of(first[1])]),
        Stored(key_of(second[0]), [key_of(second[1])]),
    ]
    assert pool.runs() == [Stored(None, [key_of(first[0])]), Stored(None, [key_of(b) for b in second])]


def test_the_second_to_compute_the_same_keeps_its_block_private() -> None:
    pool = BlockPool(4)
    (block_id,) = chain(1, 2)
    a, b = pool.take(2) or []
    assert pool.publish(a, block_id, None)
    assert not pool.publish(b, block_id, None)
    pool.release([b])
    assert pool.free_blocks == 2
    pool.release([a])
    assert (pool.free_blocks, pool.cached_blocks) == (2, 1)


def test_misuse_is_a_bug() -> None:
    pool = BlockPool(4)
    (block,) = pool.take(1) or []
    pool.publish(block, chain(1, 2)[0], None)
    with pytest.raises(Bug, match="published"):
        pool.publish(block, chain(3, 4)[0], None)
    pool.release([block])
    with pytest.raises(Bug, match="released"):
        pool.release([block])


@given(st.integers(3, 14), st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 1), max_size=6)), max_size=60))
def test_random_use_keeps_every_invariant(blocks: int, operations: list[tuple[int, list[int]]]) -> None:
    pool = BlockPool(blocks)
    tables: list[list[BlockIndex]] = []
    known: dict[int, int | None] = {}
    for kind, tokens in operations:
        ids = chain(*(t for t in tokens for _ in range(2)))
        if kind < 2:
            found, held = pool.match(ids)
            if len(ids) - held <= pool.available_blocks:
                assert found <= len(ids)
                tables.append(fill(pool, ids))
        elif kind == 2 and tables:
            pool.release(tables.pop(len(tokens) % len(tables)))
        elif (taken := pool.take(len(tokens))) is not None:
            tables.append(taken)
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
        pool.check(tables)
    for table in tables:
        pool.release(table)
    assert pool.held_blocks == 0
