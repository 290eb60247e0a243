"""Kept chains name blocks exactly as the hasher does, and stay within their budget."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.ids import BlockId
from jedlik.core.tokens import pack
from jedlik.kv.hashing import BlockHasher, key_of
from jedlik.kv.prefix_chains import MAX_ROOT_NAMES, SEGMENT_BLOCKS, ChainCache

BLOCK = 2
HASHER = BlockHasher(b"k" * 32, "revision", BLOCK)
SEGMENT = SEGMENT_BLOCKS * BLOCK
ROOM = 1 << 20


def plain(packed: bytes, tenant: str = "", salt: str = "") -> list[int]:
    return [key_of(block) for block in HASHER.chain(HASHER.root(tenant, salt), packed)]


Prompt = tuple[int, int, int, str]
"""Which stem, how much of it, how many tokens follow, for whom."""
PROMPTS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 5 * SEGMENT), st.integers(0, SEGMENT + 3), st.sampled_from(["", "t"])),
    max_size=12,
)


@given(PROMPTS, st.sampled_from([0, 900, 3000, ROOM]))
def test_names_are_the_hashers_for_prompts_that_share_prefixes(prompts: list[Prompt], budget: int) -> None:
    cache = ChainCache(HASHER, budget)
    for number, (stem, shared, more, tenant) in enumerate(prompts):
        packed = pack([*(stem + 3 * i for i in range(shared)), *(number for _ in range(more))])
        assert cache.keys(packed, tenant) == plain(packed, tenant)
        assert cache.size_bytes() <= budget


def test_a_prefix_seen_before_is_not_hashed_again() -> None:
    class Counting(BlockHasher):
        hashed = 0

        def chain(self, parent: BlockId, packed: bytes) -> Iterator[BlockId]:
            for block in super().chain(parent, packed):
                self.hashed += 1
                yield block

    hasher = Counting(b"k" * 32, "revision", BLOCK)
    cache = ChainCache(hasher, ROOM)
    stem = list(range(4 * SEGMENT))
    cache.keys(pack(stem))
    assert hasher.hashed == 4 * SEGMENT_BLOCKS
    cache.keys(pack([*stem, *range(3 * BLOCK)]))
    assert hasher.hashed == 4 * SEGMENT_BLOCKS + 3
    cache.keys(pack(stem), "other tenant")
    assert hasher.hashed == 8 * SEGMENT_BLOCKS + 3


def test_the_least_recently_used_go_first() -> None:
    cache = ChainCache(HASHER, 2000)
    for number in range(50):
        cache.keys(pack([number] * SEGMENT))
    assert 0 < cache.size_bytes() <= 2000


def test_many_and_long_salts_name_blocks_rightly() -> None:
    cache, packed = ChainCache(HASHER, ROOM), pack(range(SEGMENT))
    for salt in (*map(str, range(1100)), "0", "s" * (MAX_ROOT_NAMES + 1)):
        assert cache.keys(packed, "t", salt) == plain(packed, "t", salt)
