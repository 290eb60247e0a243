"""The block pool alone: sharing, eviction, facts, restoring; and random operations against its invariants."""

from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jedlik.core.errors import Bug
from jedlik.core.ids import BlockId, BlockIndex
from jedlik.core.moves import StoredRun
from jedlik.core.protocol import Evicted, Stored
from jedlik.core.tokens import pack
from jedlik.kv.eviction import OrderName, Run
from jedlik.kv.hashing import BlockHasher, key_of
from jedlik.kv.pool import BlockPool

ORDERS: tuple[OrderName, ...] = ("lru", "s3fifo")
TOKENS = st.lists(st.integers(0, 1), max_size=6)
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


def test_lookup_tells_where_a_chain_is_without_holding_it() -> None:
    pool = BlockPool(8)
    long, fork = chain(1, 1, 2, 2, 3, 3, 4, 4), chain(1, 1, 2, 2, 9, 9)
    table = fill(pool, long)
    assert pool.lookup(fork) == table.blocks[:2]
    let_go(pool, table)
    let_go(pool, fill(pool, fork))
    assert pool.lookup(long) == table.blocks
    assert pool.lookup(chain(7, 7)) == pool.lookup([]) == []
    assert pool.held_blocks == 0


@pytest.mark.parametrize("order", ORDERS)
def test_a_dropped_chain_goes_first_but_for_what_others_begin_with(order: OrderName) -> None:
    pool = BlockPool(10, order)
    old, final, follow = chain(8, 8, 9, 9), chain(1, 1, 2, 2, 3, 3, 4, 4), chain(1, 1, 2, 2, 5, 5)
    let_go(pool, fill(pool, old))
    let_go(pool, fill(pool, follow))
    last = fill(pool, final)
    let_go(pool, last)
    pool.drop(last.run)
    pool.check([])
    pool.take_changes()
    assert pool.take(2 + pool.free_blocks) is not None
    assert pool.take_changes() == [Evicted([key_of(b) for b in (final[3], final[2])])]
    assert pool.match(follow) == (3, 0)
    held = fill(pool, old)
    pool.drop(held.run)  # somebody holds it: nothing is dropped
    assert pool.take(3) is not None
    assert pool.match(old) == (2, 2)
    pool.drop(None)
    pool.check()


@pytest.mark.parametrize("order", ORDERS)
def test_a_dropped_chain_of_several_runs_goes_leaf_first(order: OrderName) -> None:
    pool = BlockPool(6, order)
    beginning, whole = chain(1, 1, 2, 2), chain(1, 1, 2, 2, 3, 3)
    let_go(pool, fill(pool, chain(9, 9)))
    first, last = fill(pool, beginning), fill(pool, whole)
    let_go(pool, first)
    let_go(pool, last)
    pool.drop(last.run)
    pool.check([])
    pool.take_changes()
    assert pool.take(1 + 3) is not None
    assert pool.take_changes() == [Evicted([key_of(b) for b in reversed(whole)])]


@pytest.mark.parametrize("order", ORDERS)
def test_dropped_and_asked_for_again_is_dropped_no_more(order: OrderName) -> None:
    pool = BlockPool(5, order)
    wanted, other = chain(1, 1, 2, 2), chain(3, 3, 4, 4)
    table = fill(pool, wanted)
    let_go(pool, table)
    pool.drop(table.run)
    let_go(pool, fill(pool, other))
    let_go(pool, fill(pool, wanted))
    assert pool.take(2) is not None
    assert (pool.match(wanted), pool.match(other)) == ((2, 0), (0, 0))


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_not_as_it_should_be_is_forgotten_with_all_that_follows(order: OrderName) -> None:
    pool = BlockPool(12, order)
    long, fork, other = chain(1, 1, 2, 2, 3, 3, 4, 4), chain(1, 1, 2, 2, 9, 9), chain(7, 7, 8, 8)
    for ids in (long, fork, other):
        let_go(pool, fill(pool, ids))
    pool.take_changes()
    pool.forget(chain(1, 1, 2, 2, 5, 5), 2)  # that is not here
    pool.forget(long, 4)
    pool.forget([], 0)
    assert pool.take_changes() == []
    pool.forget(long, 3)
    assert (pool.match(long), pool.match(fork)) == ((3, 0), (3, 0))
    held = fill(pool, other)
    pool.forget(other, 1)
    assert pool.match(other) == (2, 2)
    let_go(pool, held)
    pool.take_changes()
    pool.forget(long, 1)
    assert (pool.match(long), pool.match(fork), pool.match(other)) == ((1, 0), (1, 0), (2, 0))
    (gone,) = pool.take_changes()
    assert isinstance(gone, Evicted)
    assert sorted(gone.keys) == sorted(key_of(b) for b in (long[1], long[2], fork[2]))
    assert gone.keys[-1] == key_of(long[1])
    pool.forget(long, 0)
    assert (pool.cached_blocks, pool.free_blocks) == (2, 9)
    pool.check([])


def test_s3fifo_keeps_what_is_read_again_from_what_passes_once() -> None:
    """Where the least recently used goes first, a scan of twice the pool leaves nothing."""
    hot = chain(1, 1, 2, 2, 3, 3)
    kept: dict[OrderName, int] = {}
    for order in ORDERS:
        pool = BlockPool(17, order)
        for _ in range(2):
            let_go(pool, fill(pool, hot))
        for at in range(32):
            let_go(pool, fill(pool, chain(1000 + at, at)))
            pool.check([])
        kept[order] = pool.match(hot)[0]
    assert kept == {"lru": 0, "s3fifo": 3}


@pytest.mark.parametrize(("reads", "spared"), [(2, 0), (3, 1), (4, 2), (5, 3), (20, 3)])
def test_s3fifo_spares_what_was_read_often_a_few_times(reads: int, spared: int) -> None:
    pool = BlockPool(9, "s3fifo")
    old, new = chain(1, 1, 2, 2, 3, 3, 4, 4), chain(5, 5, 6, 6, 7, 7, 8, 8)
    for ids in [old] * reads:
        let_go(pool, fill(pool, ids))
    rounds = 0
    while pool.match(old)[0]:
        for ids in (new, new):
            let_go(pool, fill(pool, ids))
        taken = pool.take(4)
        assert taken is not None
        pool.release(None, taken)
        pool.check([])
        rounds += 1
    assert rounds == 1 + spared


def test_s3fifo_counts_what_is_shared_while_somebody_holds_it() -> None:
    pool = BlockPool(9, "s3fifo")
    hot = chain(1, 1, 2, 2)
    for table in (fill(pool, hot), fill(pool, hot)):
        let_go(pool, table)
    for at in range(20):
        let_go(pool, fill(pool, chain(10 + at, 0)))
    assert pool.match(hot) == (2, 0)


def test_s3fifo_takes_a_beginning_that_is_shared_for_read_and_the_rest_not() -> None:
    pool = BlockPool(9, "s3fifo")
    whole = chain(1, 1, 2, 2, 3, 3, 4, 4)
    let_go(pool, fill(pool, whole))
    let_go(pool, fill(pool, whole[:2]))
    for at in range(20):
        let_go(pool, fill(pool, chain(10 + at, 0)))
        pool.check([])
    assert pool.match(whole) == (2, 0)


def test_s3fifo_remembers_what_it_evicted_unread() -> None:
    pool = BlockPool(9, "s3fifo")
    back, scans = chain(1, 1, 2, 2), [chain(10 + at, 0) for at in range(40)]
    let_go(pool, fill(pool, back))
    for ids in scans[:10]:
        let_go(pool, fill(pool, ids))
    assert pool.match(back) == (0, 0)
    let_go(pool, fill(pool, back))  # soon enough: it belongs to the main queue now
    for ids in scans[10:]:
        let_go(pool, fill(pool, ids))
        pool.check([])
    assert pool.match(back) == (2, 0)


def test_s3fifo_forgets_what_it_evicted_from_the_main_queue() -> None:
    pool = BlockPool(9, "s3fifo")
    old, new = chain(1, 1, 2, 2, 3, 3, 4, 4), chain(5, 5, 6, 6, 7, 7, 8, 8)
    for ids in (old, old, new, new):
        let_go(pool, fill(pool, ids))
    taken = pool.take(4)
    assert taken is not None
    assert pool.match(old) == (0, 0)
    pool.release(None, taken)
    let_go(pool, fill(pool, old))
    for at in range(20):
        let_go(pool, fill(pool, chain(10 + at, 0)))
    assert (pool.match(old)[0], pool.match(new)[0]) == (0, 4)


def test_s3fifo_evicts_what_follows_before_what_it_follows() -> None:
    """The beginning is the oldest of the main queue, whose turn it is; what follows it is in the small one."""
    pool = BlockPool(41, "s3fifo")
    whole, hot = chain(1, 1, 2, 2, 3, 3), chain(*(5 for _ in range(60)))
    let_go(pool, fill(pool, whole[:2]))
    for at in (3, 4):
        first, second = fill(pool, whole[:2]), fill(pool, chain(1, 1, 2, 2, at, at))
        let_go(pool, first)
        let_go(pool, second)
    for _ in range(6):
        let_go(pool, fill(pool, hot))
    for left in (4, 3, 2, 1, 0):
        pool.check()
        assert pool.match(whole)[0] == min(3 if left == 4 else 2, left)
        assert pool.match(hot)[0] == 30
        assert pool.take(pool.free_blocks + 1) is not None


@pytest.mark.parametrize("order", ORDERS)
def test_a_pool_is_restored_from_what_its_memory_had(order: OrderName) -> None:
    pool = BlockPool(12, order)
    long, fork, lone = chain(1, 1, 2, 2, 3, 3, 4, 4), chain(1, 1, 2, 2, 9, 9), chain(7, 7, 8, 8)
    pool.restore(
        [
            StoredRun(None, lone[:1], [11]),
            StoredRun(None, long[:3], [5, 3, 4]),
            StoredRun(long[2], long[3:], [8]),
            StoredRun(fork[1], fork[2:], [9]),
        ]
    )
    pool.check([])
    assert pool.lookup(long) == [5, 3, 4, 8]
    assert pool.lookup(fork) == [5, 3, 9]
    assert (pool.free_blocks, pool.cached_blocks, pool.held_blocks) == (5, 6, 0)
    changes = pool.take_changes()
    assert sum(key for change in changes for key in change.keys) % (1 << 64) == pool.digest
    assert [key for change in changes for key in change.keys] == [key_of(b) for b in (lone[0], *long, fork[2])]
    assert sorted(pool.take(6) or []) == [1, 2, 6, 7, 10, 11]  # what was stored first goes first
    let_go(pool, fill(pool, fork))
    pool.check()


def test_what_has_names_and_no_slots_is_restored_into_any() -> None:
    pool = BlockPool(6)
    ids, other = chain(*range(8)), chain(*range(90, 98))
    pool.restore([StoredRun(None, ids[:2], []), StoredRun(None, ids[:4], []), StoredRun(None, other, [])])
    pool.check([])
    assert (pool.lookup(ids), pool.lookup(other)) == ([1, 2, 3, 4], [5])


def test_what_can_not_be_restored_is_left_out() -> None:
    pool = BlockPool(7)
    ids, orphan, twin = chain(*range(12)), chain(90, 90, 91, 91, 92, 92), chain(80, 80, 81, 81)
    pool.restore(
        [
            StoredRun(None, ids[:2], [1, 2]),
            StoredRun(None, ids[:3], [3, 4, 5]),  # two are here already: only the third is taken from it
            StoredRun(orphan[0], orphan[1:], [3, 4]),
            StoredRun(ids[2], ids[3:], [7, 4, 3]),  # no slot of this pool, and so nothing after it
            StoredRun(None, twin, [4, 2]),  # the second slot is taken
            StoredRun(None, [orphan[0], orphan[0]], [3, 6]),  # nonsense
        ]
    )
    pool.check([])
    assert pool.lookup(ids) == [1, 2, 5]
    assert pool.lookup(twin) == [4]
    assert pool.lookup(orphan) == [3]
    assert pool.take(1) == [6]
    with pytest.raises(Bug, match="restoring"):
        pool.restore([])


class Use(RuleBasedStateMachine):
    """Sequences come, grow, end, are dropped; blocks are taken for no content. A model knows every block's name."""

    order: OrderName = "lru"

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[Table] = []
        self.known: dict[int, int | None] = {}
        """Keys that the changes say are here, and what each follows."""

    @initialize(blocks=st.integers(3, 16))
    def begin(self, blocks: int) -> None:
        self.pool = BlockPool(blocks, self.order)

    @rule(tokens=TOKENS, piece=st.integers(1, 3))
    def run(self, tokens: list[int], piece: int) -> None:
        ids = chain(*(t for t in tokens for _ in range(2)))
        found, held = self.pool.match(ids)
        assert len(self.pool.lookup(ids)) == found
        if len(ids) - held <= self.pool.available_blocks:
            where = self.pool.lookup(ids)
            table = fill(self.pool, ids, piece)
            assert table.blocks[:found] == where
            self.tables.append(table)

    @rule(blocks=st.integers(0, 6))
    def take(self, blocks: int) -> None:
        enough = blocks <= self.pool.available_blocks
        taken = self.pool.take(blocks)
        assert (taken is not None) == enough
        if taken is not None:
            self.tables.append(Table(None, [], taken))

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 99), final=st.booleans())
    def end(self, which: int, final: bool) -> None:
        table = self.tables.pop(which % len(self.tables))
        let_go(self.pool, table)
        if final:
            self.pool.drop(table.run)

    @rule(tokens=TOKENS, known=st.integers(0, 6))
    def forget(self, tokens: list[int], known: int) -> None:
        ids = chain(*(t for t in tokens for _ in range(2)))
        found, held = self.pool.match(ids)
        self.pool.forget(ids, known)
        assert held <= self.pool.match(ids)[0] <= found
        assert held > known or self.pool.match(ids)[0] <= max(held, known)

    @rule()
    def restart(self) -> None:
        """What is cached under its slots comes back as it was."""
        if self.pool.held_blocks:
            return
        again = BlockPool(self.pool.capacity + 1, self.order)
        runs, waiting = list[StoredRun](), list(self.pool._roots.values())
        while waiting:
            run = waiting.pop()
            runs.append(StoredRun(run.parent.ids[-1] if run.parent else None, list(run.ids), list(run.blocks)))
            waiting += run.children.values()
        again.restore(runs)
        assert (again.digest, again.cached_blocks) == (self.pool.digest, self.pool.cached_blocks)
        assert all(again.lookup([run.ids[0]]) == [run.slots[0]] for run in runs if run.parent is None)
        again.take_changes()
        self.pool = again

    @invariant()
    def changes_tell_what_is_here(self) -> None:
        known = self.known
        for change in self.pool.take_changes():
            if isinstance(change, Stored):
                parent = change.parent
                assert parent is None or parent in known
                for key in change.keys:
                    known[key], parent = parent, key
            else:
                for key in change.keys:
                    assert key not in known.values()
                    del known[key]
        assert sum(known) % (1 << 64) == self.pool.digest
        assert {key for run in self.pool.runs() for key in run.keys} == set(known)

    @invariant()
    def all_is_accounted_for(self) -> None:
        pool = self.pool
        pool.check([table.blocks for table in self.tables])
        assert pool.free_blocks + pool.cached_blocks + pool.held_blocks == pool.capacity

    def teardown(self) -> None:
        for table in self.tables:
            let_go(self.pool, table)
        assert self.pool.held_blocks == 0
        assert self.pool.take(self.pool.capacity) is not None
        self.pool.check()
        assert self.pool.digest == 0


class UseS3Fifo(Use):
    order: OrderName = "s3fifo"


TestUse, TestUseS3Fifo = Use.TestCase, UseS3Fifo.TestCase
TestUse.settings = TestUseS3Fifo.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
