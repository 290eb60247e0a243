"""Who can be answered in time at all: prefill times by arithmetic, and what prompts share with earlier ones."""

import pytest

from jedlik.core.protocol import StepCosts
from jedlik.perf.model import LinearModel
from jedlik.sim.attainable import Alone, Shared
from jedlik.sim.workload.offered import OfferedText

FAST = LinearModel(
    StepCosts(base_s=0.01, prefill_token_s=1e-4, prefill_pair_s=0.0, decode_sequence_s=0.0, context_token_s=0.0)
)
SLOW = LinearModel(
    StepCosts(base_s=0.02, prefill_token_s=1e-4, prefill_pair_s=0.0, decode_sequence_s=0.0, context_token_s=0.0)
)


def text(*ids: int, space: int = 0, piece_tokens: int = 64, short: int = 0) -> OfferedText:
    return OfferedText(space, ids, piece_tokens, len(ids) * piece_tokens - short)


def test_a_prefill_takes_its_chunks_on_the_fastest_engine() -> None:
    alone = Alone([SLOW, FAST], 1000, 10.0)
    assert alone.prefill_s(1000, 0) == pytest.approx(0.01 + 0.1)
    assert alone.prefill_s(2500, 0) == pytest.approx(0.03 + 0.25)


def test_prompts_up_to_a_length_need_nothing_cached_and_longer_ones_enough() -> None:
    alone = Alone([FAST], 1000, 0.1)
    assert alone.attainable(900, 0)
    assert not alone.attainable(901, 0)
    assert alone.attainable(901, 1)
    assert not alone.attainable(5000, 4000)
    assert alone.attainable(5000, 4100)


def test_attended_tokens_count() -> None:
    alone = Alone(
        [
            LinearModel(
                StepCosts(
                    base_s=0.0, prefill_token_s=0.0, prefill_pair_s=1e-6, decode_sequence_s=0.0, context_token_s=0.0
                )
            )
        ],
        1000,
        1.0,
    )
    assert alone.prefill_s(100, 1000) == pytest.approx(1e-6 * (100 * 1000 + 100 * 101 / 2))


def test_a_limit_that_nobody_keeps() -> None:
    assert not Alone([FAST], 1000, 0.001).attainable(1, 0)


def test_what_is_shared_is_the_longest_beginning_that_came_before() -> None:
    shared = Shared()
    assert shared.tokens(text(1, 2, 3)) == 0
    assert shared.tokens(text(1, 2, 4)) == 128
    assert shared.tokens(text(1, 2, 4, 5)) == 192
    assert shared.tokens(text(9, 2, 3)) == 0
    assert shared.tokens(text(1, 2, 3, space=1)) == 0


def test_a_prompt_that_is_all_known_has_a_token_left_to_compute() -> None:
    shared = Shared()
    shared.tokens(text(1, 2))
    assert shared.tokens(text(1, 2, short=10)) == 117


def test_short_pieces_are_looked_at_together_and_never_count_too_little() -> None:
    shared = Shared()
    first = tuple(range(12))
    shared.tokens(text(*first, piece_tokens=16))
    known = shared.tokens(text(*first[:9], *range(100, 110), piece_tokens=16))
    assert 9 * 16 <= known <= 12 * 16
