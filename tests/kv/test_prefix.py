"""The prefix index: facts in, depths out; and that it says the truth about workers whatever order things come in."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.errors import Bug
from jedlik.core.ids import WorkerId
from jedlik.core.protocol import Evicted, Facts, Snapshot, Stored
from jedlik.kv.prefix import PrefixIndex
from jedlik.kv.prefix_runs import BLOCK_BYTES, RUN_BYTES

A, B, C = WorkerId("a@1"), WorkerId("b@1"), WorkerId("c@1")
MASK = (1 << 64) - 1
CHAIN = [1000 + i for i in range(40)]


class Cache:
    """A worker's cache and what it says about it: a prefix-closed set of blocks in chains."""

    def __init__(self, worker: WorkerId) -> None:
        self.worker = worker
        self.parent: dict[int, int | None] = {}
        self.number = 0

    @property
    def digest(self) -> int:
        return sum(self.parent) & MASK

    def store(self, chain: list[int]) -> Facts | None:
        """Cache a prompt's blocks; says only what is new."""
        new = [(key, chain[at - 1] if at else None) for at, key in enumerate(chain) if key not in self.parent]
        if not new:
            return None
        self.parent.update(new)
        return self._say(Stored(new[0][1], [key for key, _ in new]))

    def evict(self, rng: random.Random, count: int) -> Facts | None:
        gone: list[int] = []
        while self.parent and len(gone) < count:
            leaves = sorted(self.parent.keys() - set(self.parent.values()))
            gone.append(rng.choice(leaves))
            del self.parent[gone[-1]]
        return self._say(Evicted(gone)) if gone else None

    def _say(self, fact: Stored | Evicted) -> Facts:
        self.number += 1
        return Facts(self.number, [fact], self.digest)

    def snapshot(self, chunk: int = 3) -> list[Snapshot]:
        runs = [Stored(parent, [key]) for key, parent in self._parents_first()]
        parts = [runs[at : at + chunk] for at in range(0, len(runs), chunk)] or [[]]
        last = len(parts) - 1
        return [
            Snapshot(number=self.number, chunk=i, last=i == last, runs=part, digest=self.digest)
            for i, part in enumerate(parts)
        ]

    def _parents_first(self) -> list[tuple[int, int | None]]:
        ordered: list[tuple[int, int | None]] = []
        seen: set[int | None] = {None}
        while len(ordered) < len(self.parent):
            for key, parent in self.parent.items():
                if key not in seen and parent in seen:
                    ordered.append((key, parent))
                    seen.add(key)
        return ordered

    def depth(self, chain: list[int]) -> int:
        for at, key in enumerate(chain):
            if key not in self.parent:
                return at
        return len(chain)


def index_of(*workers: WorkerId, budget: int = 1 << 20, closed: bool = True) -> PrefixIndex:
    index = PrefixIndex(budget)
    for worker in workers:
        index.join(worker, closed)
        assert index.replace(worker, Snapshot(number=0, chunk=0, last=True, runs=[], digest=0))
    return index


def tell(index: PrefixIndex, cache: Cache, chain: list[int]) -> bool:
    facts = cache.store(chain)
    return facts is None or index.apply(cache.worker, facts)


@pytest.mark.parametrize("closed", [True, False])
def test_depths_of_a_chain(closed: bool) -> None:
    index = index_of(A, B, C, closed=closed)
    a, b = Cache(A), Cache(B)
    assert tell(index, a, CHAIN[:30])
    assert tell(index, b, CHAIN[:10])
    assert index.match(CHAIN).deepest() == {A: 30, B: 10}
    assert index.match(CHAIN[:20]).deepest() == {A: 20, B: 10}
    assert index.match(CHAIN[:1]).deepest() == {A: 1, B: 1}
    assert index.match([5, *CHAIN]).deepest() == {}
    assert index.match([]).deepest() == {}
    assert tell(index, b, CHAIN)
    assert index.match([*CHAIN[:35], 7, 8, 9]).deepest() == {A: 30, B: 35}
    index.check()


@pytest.mark.parametrize("closed", [True, False])
def test_eviction_shortens(closed: bool) -> None:
    index = index_of(A, B, closed=closed)
    a, b = Cache(A), Cache(B)
    tell(index, a, CHAIN)
    tell(index, b, CHAIN)
    facts = a.evict(random.Random(1), 15)
    assert facts is not None
    assert index.apply(A, facts)
    assert index.match(CHAIN).deepest() == {A: 25, B: 40}
    index.check()


@pytest.mark.parametrize("closed", [True, False])
def test_a_match_can_be_read_in_part(closed: bool) -> None:
    index = index_of(A, B, C, closed=closed)
    for worker, depth in ((A, 10), (B, 30), (C, 20)):
        assert tell(index, Cache(worker), CHAIN[:depth])
    match = index.match(CHAIN)
    assert list(match.deepest(2).items()) == [(B, 30), (C, 20)]
    assert [match.depth(worker) for worker in (A, B, C, WorkerId("d@1"))] == [10, 30, 20, 0]
    assert [index.match([5]).depth(worker) for worker in (A, B)] == [0, 0]


def test_branches_share_their_stem() -> None:
    index = index_of(A, B)
    a, b = Cache(A), Cache(B)
    left, right = [*CHAIN, 1, 2, 3], [*CHAIN[:20], 4, 5, 6]
    tell(index, a, left)
    tell(index, a, right)
    tell(index, b, right)
    assert index.match(left).deepest() == {A: 43, B: 20}
    assert index.match(right).deepest() == {A: 23, B: 23}
    assert len(index) == 46
    index.check()


def test_removing_unknown_blocks_is_a_no_op() -> None:
    index = index_of(A)
    index.apply(A, Facts(1, [Stored(None, [1, 2]), Evicted([77])], 0))
    assert index.match([1, 2]).deepest() == {A: 2}
    index.check()


def test_gaps_and_wrong_digests_ask_for_a_snapshot_and_duplicates_do_not() -> None:
    index = index_of(A)
    a = Cache(A)
    first = a.store(CHAIN[:5])
    assert first is not None
    assert index.apply(A, first)
    assert index.apply(A, first)
    lost, after = a.store(CHAIN[:9]), a.store(CHAIN[:12])
    assert lost is not None
    assert after is not None
    assert not index.apply(A, after)
    assert not index.synced(A)
    assert not index.apply(A, lost)
    for part in a.snapshot():
        assert index.replace(A, part)
    assert index.synced(A)
    assert index.match(CHAIN).deepest() == {A: 12}
    wrong = Facts(a.number + 1, [Stored(CHAIN[11], [CHAIN[12]])], 99)
    assert not index.apply(A, wrong)
    index.check()


def test_a_snapshot_replaces_everything_and_its_chunks_must_follow() -> None:
    index = index_of(A)
    tell(index, Cache(A), CHAIN)
    other = Cache(A)
    other.store([1, 2, 3, 4, 5])
    one, two = other.snapshot(3)
    assert index.replace(A, one)
    assert index.match(CHAIN).deepest() == {}
    assert not index.synced(A)
    assert index.replace(A, two)
    assert index.match([1, 2, 3, 4, 5]).deepest() == {A: 5}
    assert index.replace(A, one)
    assert not index.replace(A, Snapshot(number=other.number, chunk=2, last=True, runs=[], digest=0))
    index.check()


def test_a_worker_that_left_is_gone_at_once_and_its_bit_used_again_only_after_the_sweep() -> None:
    index = index_of(A, B)
    a, b = Cache(A), Cache(B)
    tell(index, a, CHAIN)
    tell(index, b, CHAIN[:7])
    index.leave(A)
    assert index.match(CHAIN).deepest() == {B: 7}
    index.join(C)
    assert index.match(CHAIN).deepest() == {B: 7}
    index.check()
    while index.sweep(3):
        index.check()
    assert len(index) == 7
    index.join(A)
    index.replace(A, Snapshot(number=0, chunk=0, last=True, runs=[], digest=0))
    assert index.match(CHAIN).deepest() == {B: 7}
    index.check()


def test_joining_twice_is_a_bug() -> None:
    index = index_of(A)
    with pytest.raises(Bug, match="joined twice"):
        index.join(A)


def test_the_budget_forgets_the_oldest_leaves_and_stays_consistent() -> None:
    index = index_of(A, B, budget=60 * BLOCK_BYTES + 3 * RUN_BYTES)
    a, b = Cache(A), Cache(B)
    for stem in range(8):
        for cache in (a, b):
            assert tell(index, cache, [10_000 * (stem + 1) + i for i in range(20)])
        index.check()
    assert len(index) <= 60
    assert index.match([80_000 + i for i in range(20)]).deepest() == {A: 20, B: 20}
    assert index.match([10_000 + i for i in range(20)]).deepest() == {}
    grown = [10_000 + i for i in range(25)]
    assert tell(index, a, grown)
    assert index.match(grown).deepest() == {}
    assert index.synced(A)
    index.check()


@given(st.integers(0, 2**32), st.booleans())
def test_the_index_equals_the_truth_at_quiescence(seed: int, closed: bool) -> None:
    """Facts are delayed, lost and doubled; workers come and go; in the end a match says what each cache holds.

    What a worker says last is not lost: that a message is missing shows with the next.
    """
    rng = random.Random(seed)
    caches = {worker: Cache(worker) for worker in (A, B, C)}
    index = index_of(*caches, closed=closed)
    wire: dict[WorkerId, list[Facts | Snapshot]] = {worker: [] for worker in caches}
    chains = [_chain(rng) for _ in range(6)]
    for _ in range(80):
        worker = rng.choice([A, B, C])
        _happen(rng, index, caches, wire, worker, rng.choice(chains), closed)
        index.check()
    for number, (worker, cache) in enumerate(caches.items()):
        news = cache.store([7_000_000 + number])
        assert news is not None
        wire[worker].append(news)
        while wire[worker]:
            _deliver(index, cache, wire[worker])
        if not index.synced(worker):
            wire[worker] += cache.snapshot()
        while wire[worker]:
            _deliver(index, cache, wire[worker])
        assert index.synced(worker)
    index.check()
    for chain in chains:
        truth = {worker: depth for worker, cache in caches.items() if (depth := cache.depth(chain))}
        assert index.match(chain).deepest() == truth
    while index.sweep():
        index.check()
    assert len(index) == len(set().union(*(cache.parent for cache in caches.values())))


def _chain(rng: random.Random) -> list[int]:
    """Chains over few branches, content-addressed: a key says all that comes before it."""
    keys, state = [], 0
    for _ in range(rng.randint(1, 30)):
        state = (state * 31 + (1 if rng.random() < 0.9 else rng.randint(2, 3))) % (2**61 - 1)
        keys.append(state)
    return keys


def _happen(
    rng: random.Random,
    index: PrefixIndex,
    caches: dict[WorkerId, Cache],
    wire: dict[WorkerId, list[Facts | Snapshot]],
    worker: WorkerId,
    chain: list[int],
    closed: bool,
) -> None:
    cache, dice = caches[worker], rng.random()
    if dice < 0.35:
        facts = cache.store(chain[: rng.randint(1, len(chain))])
    elif dice < 0.5:
        facts = cache.evict(rng, rng.randint(1, 8))
    elif dice < 0.53:
        index.leave(worker)
        index.join(worker, closed)
        wire[worker] = list(cache.snapshot())
        return
    else:
        if wire[worker]:
            _deliver(index, cache, wire[worker], lose=rng.random() < 0.05, double=rng.random() < 0.1)
        index.sweep(rng.randint(1, 9))
        return
    if facts is not None:
        wire[worker].append(facts)


def _deliver(
    index: PrefixIndex, cache: Cache, wire: list[Facts | Snapshot], lose: bool = False, double: bool = False
) -> None:
    message = wire.pop(0)
    for _ in range(0 if lose else 2 if double and isinstance(message, Facts) else 1):
        worker = cache.worker
        fine = index.apply(worker, message) if isinstance(message, Facts) else index.replace(worker, message)
        if not fine and not any(isinstance(m, Snapshot) for m in wire):
            wire.extend(cache.snapshot())


def test_most_counts_all_who_hold_as_much_as_anybody() -> None:
    index = PrefixIndex(1 << 20)
    assert index.match(CHAIN).most() == (0, 0)
    for worker, depth, closed in ((A, 3, True), (B, 5, True), (C, 5, False)):
        index.join(worker, closed)
        index.replace(
            worker,
            Snapshot(
                number=0, chunk=0, last=True, runs=[Stored(None, CHAIN[:depth])], digest=sum(CHAIN[:depth]) & MASK
            ),
        )
    assert index.match(CHAIN).most() == (5, 2)
    assert index.match(CHAIN[:2]).most() == (2, 3)
    index.leave(B)
    assert index.match(CHAIN).most() == (5, 1)
    index.leave(C)
    assert index.match(CHAIN).most() == (3, 1)


def snapshot(keys: list[int], tier: int) -> Snapshot:
    return Snapshot(
        number=0, chunk=0, last=True, runs=[Stored(None, keys)] if keys else [], digest=sum(keys) & MASK, tier=tier
    )


def tiered(**depths: tuple[int, int, int]) -> PrefixIndex:
    """Workers that hold so many blocks of CHAIN on device, in host memory and on disk."""
    index = PrefixIndex(1 << 20)
    for name, held in depths.items():
        index.join(WorkerId(f"{name}@1"), True, (1, 2))
        for tier, depth in enumerate(held):
            assert index.replace(WorkerId(f"{name}@1"), snapshot(CHAIN[:depth], tier))
    index.check()
    return index


def test_tiers_are_told_where_they_go_deeper_than_nearer_ones() -> None:
    match = tiered(a=(5, 10, 20), b=(12, 12, 3), c=(0, 0, 7), d=(8, 3, 9)).match(CHAIN)
    assert list(match.deepest().items()) == [(A, 20), (B, 12), (WorkerId("d@1"), 9), (C, 7)]
    assert match.most() == (20, 1)
    workers = (A, B, C, WorkerId("d@1"), WorkerId("e@1"))
    assert [match.depth(worker) for worker in workers] == [5, 12, 0, 8, 0]
    assert [match.tiers(worker) for worker in workers] == [((1, 10), (2, 20)), (), ((2, 7),), ((2, 9),), ()]


def test_a_worker_that_holds_a_prefix_in_two_tiers_is_one_holder() -> None:
    assert tiered(a=(6, 6, 6), b=(0, 6, 0)).match(CHAIN).most() == (6, 2)


def test_tiers_are_followed_each_by_itself_and_a_worker_is_in_step_when_all_are() -> None:
    index = PrefixIndex(1 << 20)
    index.join(A, True, (1,))
    assert index.replace(A, snapshot([], 0))
    assert not index.synced(A)  # nothing was heard of its host memory yet
    assert index.replace(A, snapshot([], 1))
    assert index.synced(A)
    assert index.apply(A, Facts(1, [Stored(None, CHAIN[:3])], sum(CHAIN[:3]) & MASK, 1))
    assert index.apply(A, Facts(1, [Stored(None, CHAIN[:2])], sum(CHAIN[:2]) & MASK))
    assert (index.match(CHAIN).depth(A), index.match(CHAIN).tiers(A)) == (2, ((1, 3),))
    assert not index.apply(A, Facts(3, [Stored(CHAIN[2], [CHAIN[3]])], 0, 1))  # 2 is lost
    assert (index.synced(A), index.match(CHAIN).depth(A)) == (False, 2)
    assert index.replace(A, snapshot(CHAIN[:4], 1))
    assert index.synced(A)
    assert (index.holds(A, CHAIN[3], 1), index.holds(A, CHAIN[3])) == (True, False)
    assert index.apply(A, Facts(1, [], 0, 3))  # a tier its card does not name
    index.leave(A)
    index.check()
    assert index.match(CHAIN).empty()
