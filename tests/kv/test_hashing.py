"""Block identities: equal for equal content and rights, different for any difference."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.tokens import pack
from jedlik.kv.hashing import ID_BYTES, BlockHasher, hash_check, key_of

KEY = b"k" * 32
HASHER = BlockHasher(KEY, "revision", 4)
TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=40).map(pack)


@given(TOKENS, st.integers(0, 9))
def test_a_chain_is_its_children_one_by_one(packed: bytes, start: int) -> None:
    parent = HASHER.root("t")
    ids = []
    for at in range(0, len(packed) - 15, 16):
        parent = HASHER.child(parent, packed[at : at + 16])
        ids.append(parent)
    assert list(HASHER.chain(HASHER.root("t"), packed)) == ids
    begun = ids[start - 1] if 0 < start <= len(ids) else HASHER.root("t")
    if start <= len(ids):
        assert list(HASHER.chain(begun, packed[start * 4 * HASHER.block_size :])) == ids[start:]


@given(TOKENS, TOKENS)
def test_equal_prefixes_and_only_they_have_equal_names(one: bytes, other: bytes) -> None:
    names = [list(HASHER.chain(HASHER.root("t"), packed)) for packed in (one, other)]
    for block, (a, b) in enumerate(zip(*names, strict=False)):
        assert (a == b) == (one[: (block + 1) * 16] == other[: (block + 1) * 16])


def test_everything_that_divides_the_cache_divides_the_names() -> None:
    roots = [
        HASHER.root("t"), HASHER.root("u"), HASHER.root("t", "s"), HASHER.root("ts"), HASHER.root("", "ts"),
        HASHER.root("t", "", "a"), HASHER.root("t", "", "", b"a"), BlockHasher(KEY, "other", 4).root("t"),
        BlockHasher(KEY, "revision", 8).root("t"), BlockHasher(b"j" * 32, "revision", 4).root("t"),
    ]  # fmt: skip
    assert all(a != b for a, b in combinations(roots, 2))
    assert all(len(root) == ID_BYTES for root in roots)


def test_the_check_tells_keys_apart_and_nothing_else() -> None:
    assert hash_check(KEY) == hash_check(KEY) != hash_check(b"j" * 32)
    assert KEY.hex() not in hash_check(KEY)


def test_the_key_is_the_low_half() -> None:
    block = HASHER.child(HASHER.root("t"), pack([1, 2, 3, 4]))
    assert key_of(block) == int.from_bytes(block, "little") >> 64
