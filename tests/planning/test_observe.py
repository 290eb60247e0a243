"""What is remembered of demand: recent habits weigh more, lengths keep their means, work is what prompts cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.plans import Demand
from jedlik.core.protocol import StepCosts
from jedlik.perf.model import LinearModel
from jedlik.planning.engine import Engine
from jedlik.planning.lengths import bucket_of, middle
from jedlik.planning.observe import FORGET_S, GUESS_OUTPUT_TOKENS, Habits, work_s

ENGINE = Engine(
    LinearModel(
        StepCosts(
            base_s=0.008,
            prefill_token_s=3.5e-5,
            prefill_pair_s=1.4e-9,
            decode_sequence_s=3.1e-5,
            context_token_s=1.5e-8,
        )
    ),
    2048,
    64,
    100_000,
)
NOTHING = Demand(
    arrived=0,
    prompt_tokens=0,
    prompts={},
    answered=0,
    answered_prompt_tokens=0,
    cached_tokens=0,
    output_tokens=0,
    outputs={},
    refused=0,
    failed=0,
    met=0,
    missed_alone=0,
    ttft_sum_s=0.0,
    itl_sum_s=0.0,
    itl_count=0,
)


def asked(count: int, prompt: int, output: int = 0, cached: int = 0) -> Demand:
    """So many alike came; if `output`, so many ended."""
    ended = count if output else 0
    return Demand(
        arrived=count,
        prompt_tokens=count * prompt,
        prompts={bucket_of(prompt): count} if count else {},
        answered=ended,
        answered_prompt_tokens=ended * prompt,
        cached_tokens=ended * cached,
        output_tokens=ended * output,
        outputs={bucket_of(output): ended} if ended else {},
        refused=0,
        failed=0,
        met=ended,
        missed_alone=0,
        ttft_sum_s=0.0,
        itl_sum_s=0.0,
        itl_count=0,
    )


def test_before_anything_came_nothing_is_known() -> None:
    habits = Habits()
    assert not habits.known
    assert (habits.cached_share, habits.prompt_tokens) == (0.0, 1.0)
    habits.take(NOTHING, 5.0)
    assert not habits.known
    assert habits.mix(ENGINE, 1.0).kinds == ()


def test_before_the_first_answer_its_length_is_guessed() -> None:
    habits = Habits()
    habits.take(asked(10, 700), 5.0)
    assert habits.known
    mix = habits.mix(ENGINE, None)
    assert mix.answer_tokens == pytest.approx(GUESS_OUTPUT_TOKENS)
    assert mix.prefill_s == pytest.approx(ENGINE.prefill_s(700, 0))
    habits.take(asked(10, 700, output=50), 5.0)
    assert habits.mix(ENGINE, None).answer_tokens == pytest.approx(50)


def test_means_are_exact_though_buckets_are_wide() -> None:
    habits = Habits()
    habits.take(asked(30, 1000, 100, 400), 5.0)
    habits.take(asked(10, 3000, 500, 0), 5.0)
    mix = habits.mix(ENGINE, None)
    keep = 0.5 ** (5.0 / FORGET_S)
    assert habits.prompt_tokens == pytest.approx((keep * 30_000 + 30_000) / (keep * 30 + 10))
    assert habits.cached_share == pytest.approx(keep * 12_000 / (keep * 30_000 + 30_000))
    assert mix.answer_tokens == pytest.approx((keep * 3000 + 5000) / (keep * 30 + 10))
    assert mix.context_tokens == pytest.approx(habits.prompt_tokens + mix.answer_tokens / 2)


def test_half_of_what_is_known_is_forgotten_in_the_time_it_says() -> None:
    habits = Habits()
    habits.take(asked(10, 1000, 100), 5.0)
    habits.take(NOTHING, FORGET_S)
    habits.take(asked(5, 4000, 400), 0.0)  # as heavy as what is left of the first
    assert habits.prompt_tokens == pytest.approx(2500)
    assert habits.mix(ENGINE, None).answer_tokens == pytest.approx(250)


def test_old_habits_give_way_to_new_ones() -> None:
    habits = Habits()
    for _ in range(100):
        habits.take(asked(20, 500, 50, 400), 5.0)
    assert habits.cached_share == pytest.approx(0.8)
    found = []
    for _ in range(1500):
        habits.take(asked(20, 5000, 200, 0), 5.0)
        found.append(habits.prompt_tokens)
    assert found == sorted(found)
    assert found[-1] == pytest.approx(5000, rel=0.01)
    assert habits.cached_share == pytest.approx(0, abs=0.005)
    assert habits.mix(ENGINE, None).prefill_s == pytest.approx(ENGINE.prefill_s(5000, 0), rel=0.02)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9000), st.integers(0, 500)), min_size=1, max_size=10))
def test_the_order_of_a_moment_is_no_matter(parts: list[tuple[int, int, int]]) -> None:
    one, other = Habits(), Habits()
    for count, prompt, output in parts:
        one.take(asked(count, prompt, output), 0.0)
    for count, prompt, output in reversed(parts):
        other.take(asked(count, prompt, output), 0.0)
    assert one.known == other.known == any(count for count, _, _ in parts)
    assert one.prompt_tokens == pytest.approx(other.prompt_tokens)
    assert one.mix(ENGINE, 1.0)[1:] == pytest.approx(other.mix(ENGINE, 1.0)[1:])


def test_what_cannot_be_kept_alone_is_seen_in_the_mix() -> None:
    habits = Habits()
    habits.take(asked(30, 1000, 100), 5.0)
    habits.take(asked(10, 20_000, 100), 0.0)
    mix = habits.mix(ENGINE, 0.3)
    assert mix.attainable == pytest.approx(0.75)
    assert len(mix.kinds) == 1
    assert habits.mix(ENGINE, None).attainable == pytest.approx(1)


def test_work_is_what_the_prompts_of_a_period_take() -> None:
    assert work_s(asked(7, 1000), ENGINE, 0.0) == pytest.approx(7 * ENGINE.prefill_s(1000, 0))
    assert work_s(asked(7, 1000), ENGINE, 0.5) == pytest.approx(7 * ENGINE.prefill_s(1000, 500))
    assert work_s(NOTHING, ENGINE, 0.5) == 0.0


def test_work_of_several_lengths_is_their_sum() -> None:
    short, long = bucket_of(300), bucket_of(7000)
    prompts = {short: 3, long: 2}
    tokens = 3 * middle(short) + 2 * middle(long)
    demand = Demand(
        arrived=5,
        prompt_tokens=round(tokens),
        prompts=prompts,
        answered=0,
        answered_prompt_tokens=0,
        cached_tokens=0,
        output_tokens=0,
        outputs={},
        refused=0,
        failed=0,
        met=0,
        missed_alone=0,
        ttft_sum_s=0.0,
        itl_sum_s=0.0,
        itl_count=0,
    )
    expected_s = 3 * ENGINE.prefill_s(middle(short), 0) + 2 * ENGINE.prefill_s(middle(long), 0)
    assert work_s(demand, ENGINE, 0.0) == pytest.approx(expected_s, rel=1e-3)
    # the mean that is known scales them all
    double = Demand(
        arrived=5,
        prompt_tokens=round(2 * tokens),
        prompts=prompts,
        answered=0,
        answered_prompt_tokens=0,
        cached_tokens=0,
        output_tokens=0,
        outputs={},
        refused=0,
        failed=0,
        met=0,
        missed_alone=0,
        ttft_sum_s=0.0,
        itl_sum_s=0.0,
        itl_count=0,
    )
    doubled_s = 3 * ENGINE.prefill_s(2 * middle(short), 0) + 2 * ENGINE.prefill_s(2 * middle(long), 0)
    assert work_s(double, ENGINE, 0.0) == pytest.approx(doubled_s, rel=1e-3)
