"""Texts as tokens: equal pieces are equal tokens, different ones are not, in every process and with any cache."""

from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.errors import ConfigError
from jedlik.core.tokens import count, unpack
from jedlik.sim.workload.offered import OfferedText
from jedlik.sim.workload.text import FIRST_TOKEN, Prompts

SPACES = st.integers(0, 3)
IDS = st.lists(st.integers(0, 9) | st.integers(0, 2**65 - 1), min_size=1, max_size=12)


@st.composite
def texts(draw: st.DrawFn) -> OfferedText:
    ids = draw(IDS)
    return OfferedText(draw(SPACES), ids, 32, draw(st.integers((len(ids) - 1) * 32 + 1, len(ids) * 32)))


@given(texts(), st.sampled_from([257, 32000, 151936]))
def test_a_prompt_has_its_length_and_only_ordinary_ids(text: OfferedText, vocabulary: int) -> None:
    tokens = unpack(Prompts(vocabulary).packed(text))
    assert len(tokens) == text.tokens
    assert all(FIRST_TOKEN <= token < vocabulary for token in tokens)


@given(st.lists(texts(), min_size=1, max_size=20))
def test_what_the_cache_holds_or_forgets_changes_nothing(several: list[OfferedText]) -> None:
    roomy, tight = Prompts(32000), Prompts(32000, budget_bytes=1000)
    for text in several:
        assert roomy.packed(text) == tight.packed(text) == Prompts(32000).packed(text)


@given(st.tuples(SPACES, st.integers(0, 2**65 - 1)), st.tuples(SPACES, st.integers(0, 2**65 - 1)))
def test_different_pieces_are_different_tokens(one: tuple[int, int], other: tuple[int, int]) -> None:
    prompts = Prompts(257)
    spelled = [prompts.packed(OfferedText(space, [piece], 16, 16)) for space, piece in (one, other)]
    assert (spelled[0] == spelled[1]) == (one == other)


def test_all_pieces_of_a_small_world_differ() -> None:
    prompts = Prompts(49152)
    spelled = {prompts.packed(OfferedText(space, [piece], 16, 16)) for space in range(20) for piece in range(500)}
    assert len(spelled) == 20 * 500


@given(texts(), texts())
def test_prompts_have_in_common_what_their_leading_pieces_have(one: OfferedText, other: OfferedText) -> None:
    prompts = Prompts(32000)
    same = 0
    for a, b in zip(one.ids, other.ids, strict=False):
        if one.space != other.space or a != b:
            break
        same += 1
    shared = min(same * 32, one.tokens, other.tokens)
    assert unpack(prompts.packed(one))[:shared] == unpack(prompts.packed(other))[:shared]


def test_tokens_are_the_same_in_every_process() -> None:
    packed = Prompts(151936).packed(OfferedText(3, [0, 1, 2**62 + 5], 512, 1300))
    assert blake2b(packed, digest_size=8).hexdigest() == "834c5abfd2db54c8"


def test_pieces_longer_than_the_filler_are_whole() -> None:
    packed = Prompts(32000).packed(OfferedText(0, range(2), 20_000, 39_000))
    assert count(packed) == 39_000


def test_memory_is_bounded() -> None:
    prompts = Prompts(32000, budget_bytes=100_000)
    for piece in range(5000):
        prompts.packed(OfferedText(0, [piece], 64, 64))
        assert prompts.held_bytes <= 100_000 + 1000


def test_pieces_too_short_to_differ_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pieces of 4 tokens.*at least 8 tokens"):
        Prompts(49152).packed(OfferedText(0, [1], 4, 4))
    with pytest.raises(ConfigError, match="vocabulary of 20"):
        Prompts(20)
