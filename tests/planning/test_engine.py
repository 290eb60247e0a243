"""What requests cost an engine: prefills summed as a step model would, models compared with what workers learnt."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from jedlik.core.plans import WorkerSeen
from jedlik.core.protocol import StepCosts
from jedlik.perf.linear import PhaseCosts, PhaseModel
from jedlik.perf.model import LinearModel, StepModel
from jedlik.perf.step import StepShape, chunk_pairs
from jedlik.planning.engine import CREDIBLE, CROOKED, Engine, Lengths, Mix, RequestKind, engine_of, mix_of
from jedlik.planning.lengths import bucket_of, middle
from seen_given import worker_seen

COSTS = StepCosts(
    base_s=0.008, prefill_token_s=3.5e-5, prefill_pair_s=1.4e-9, decode_sequence_s=3.1e-5, context_token_s=1.5e-8
)
LINEAR = LinearModel(COSTS)
PHASES = PhaseModel(
    PhaseCosts(
        prefill_base_s=0.011,
        prefill_token_s=3.0e-5,
        prefill_pair_s=2.0e-9,
        decode_base_s=0.007,
        decode_sequence_s=4.0e-5,
        context_token_s=1.0e-8,
    )
)
MODELS: dict[str, StepModel] = {"linear": LINEAR, "phases": PHASES}


def told(
    costs: StepCosts | None = COSTS,
    *,
    trusted: bool = True,
    correction: float = 1.0,
    chunk: int = 2048,
    sequences: int = 64,
    blocks: int = 1000,
) -> WorkerSeen:
    """A worker that has said this of itself."""
    return worker_seen(
        trusted=trusted,
        correction=correction,
        max_step_tokens=chunk,
        max_sequences=sequences,
        total_blocks=blocks,
        costs=costs,
    )


def times(costs: StepCosts, factor: float) -> StepCosts:
    """All of them, so many times."""
    return costs.scaled(factor)


def one_by_one(model: StepModel, prompt: int, cached: int, chunk: int) -> float:
    """A prefill's steps, each asked of the model."""
    total_s, at = 0.0, cached
    while at < prompt:
        length = min(chunk, prompt - at)
        total_s += model.step_s(StepShape(length, chunk_pairs(at, length), 0, 0))
        at += length
    return total_s


# --- prefill and decode ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@given(st.integers(1, 50_000), st.integers(0, 40_000), st.integers(1, 9000), st.floats(0.5, 2))
def test_a_prefill_takes_what_its_steps_take(model: str, new: int, cached: int, chunk: int, factor: float) -> None:
    chunk = max(chunk, new // 50)
    engine = Engine(MODELS[model], chunk, 64, 100_000, prefill_factor=factor)
    expected_s = factor * one_by_one(MODELS[model], cached + new, cached, chunk)
    assert engine.prefill_s(cached + new, cached) == pytest.approx(expected_s, rel=1e-9)
    steps = -(-new // chunk)
    assert engine.chunks(new) == steps


def test_a_prompt_found_in_a_cache_still_prefills_a_token() -> None:
    engine = Engine(LINEAR, 2048, 64, 100_000)
    assert engine.chunks(0) == 1
    assert engine.prefill_s(500, 500) == pytest.approx(LINEAR.step_s(StepShape(1, 501, 0, 0)))


@pytest.mark.parametrize("model", MODELS)
def test_a_decode_step_is_its_models_line(model: str) -> None:
    engine = Engine(MODELS[model], 2048, 64, 100_000, decode_factor=1.5)
    shape = StepShape(0, 0, 12, 12 * 900)
    assert engine.step_s(12, 900) == pytest.approx(1.5 * MODELS[model].step_s(shape))
    costs = MODELS[model].costs
    assert engine.token_s(900) == pytest.approx(1.5 * (costs.decode_sequence_s + 900 * costs.context_token_s))
    alone, empty = engine.step_s(1, 900), engine.step_s(0, 900)
    assert 0 < empty <= alone


@given(st.floats(0.05, 10), st.floats(0.05, 10))
def test_an_engine_is_credible_where_both_factors_are(prefill: float, decode: float) -> None:
    engine = Engine(LINEAR, 2048, 64, 1, prefill_factor=prefill, decode_factor=decode)
    least, most = CREDIBLE
    believed = least <= min(prefill, decode) and max(prefill, decode) <= most
    assert engine.credible(10.0, 1.0) == engine.credible(10.0, None) == believed
    # where a prefill is a trifle beside what is promised, only decode matters
    assert engine.credible(1e-6, 1.0) == (least <= decode <= most)


# --- of several workers ---------------------------------------------------------------------------------------------


def test_nobody_told_is_none() -> None:
    assert engine_of([], LINEAR, 1000) is None
    assert engine_of([told(None), told(None)], LINEAR, 1000) is None
    assert engine_of([told(trusted=False)], None, 1000) is None


def test_each_figure_is_the_median_of_those_that_told() -> None:
    workers = [
        told(times(COSTS, 1.0), correction=0.9, chunk=1024, sequences=32, blocks=900),
        told(times(COSTS, 5.0), correction=1.6, chunk=8192, sequences=256, blocks=4000),
        told(times(COSTS, 1.2), correction=1.1, chunk=2048, sequences=64, blocks=1000),
        told(None, correction=9.0, chunk=1, sequences=1, blocks=1),
        told(times(COSTS, 7.0), trusted=False, correction=9.0, chunk=1, sequences=1, blocks=1),
    ]
    engine = engine_of(workers, None, 1000)
    assert engine is not None
    assert astuple(engine.model.costs) == pytest.approx(astuple(times(COSTS, 1.2)))
    assert engine[1:] == (2048, 64, 16_000, 1.1, 1.0)


def test_a_profile_is_believed_where_workers_say_what_it_says() -> None:
    for model in MODELS.values():
        engine = engine_of([told(model.costs), told(model.costs)], model, 1000)
        assert engine == Engine(model, 2048, 64, 16_000, 1.0, 1.0)


@given(st.floats(0.1, 10), st.integers(1, 20_000))
def test_only_what_a_straight_line_cannot_explain_is_the_engines(factor: float, prompt: int) -> None:
    engine = engine_of([told(times(COSTS, factor))], LINEAR, prompt)
    assert engine is not None
    if factor > CROOKED:
        expected = factor / CROOKED
    elif factor < 1 / CROOKED:
        expected = factor * CROOKED
    else:
        expected = 1.0
    assert engine.prefill_factor == pytest.approx(expected, rel=1e-6)
    assert engine.decode_factor == pytest.approx(expected, rel=1e-6)
    assert engine.model is LINEAR


def test_prefill_and_decode_are_judged_apart() -> None:
    slow_prefill = replace(COSTS, prefill_token_s=10 * COSTS.prefill_token_s)
    engine = engine_of([told(slow_prefill)], LINEAR, 4000)
    assert engine is not None
    assert engine.prefill_factor > 2
    assert engine.decode_factor == 1.0
    assert not engine.credible(1.0, 1.0)
    assert engine.credible(0.002, 1.0)  # a few milliseconds of a second: whatever they are off by


# --- what requests cost ---------------------------------------------------------------------------------------------

ENGINE = Engine(LINEAR, 2048, 64, 100_000)
SHORT, LONG = bucket_of(500), bucket_of(8000)


def test_a_mix_is_its_shares_and_moments() -> None:
    mix = mix_of(ENGINE, Lengths({SHORT: 3.0, LONG: 1.0}), Lengths({10: 1.0, 20: 1.0}), 0.25, None)
    short, long = middle(SHORT), middle(LONG)
    first_s, second_s = (ENGINE.prefill_s(length, 0.25 * length) for length in (short, long))
    steps = -(-round(long * 0.75) // 2048)
    assert steps == 4
    assert [kind.share for kind in mix.kinds] == [0.75, 0.25]
    assert [kind.prefill_s for kind in mix.kinds] == pytest.approx([first_s, second_s])
    assert [kind.chunks for kind in mix.kinds] == [1, steps]
    assert mix.attainable == pytest.approx(1)
    assert mix.prefill_s == pytest.approx(0.75 * first_s + 0.25 * second_s)
    assert mix.prefill_square == pytest.approx(0.75 * first_s**2 + 0.25 * second_s**2)
    assert mix.chunks == pytest.approx(0.75 + 0.25 * steps)
    assert mix.prefill_cv2 == pytest.approx(
        0.75 * 0.25 * (second_s - first_s) ** 2 / mix.prefill_s**2  # of two values, the variance
    )
    one, two = middle(10), middle(20)
    assert mix.answer_tokens == pytest.approx((one + two) / 2)
    assert mix.typical_tokens == pytest.approx((one**2 + two**2) / (one + two))
    assert mix.context_tokens == pytest.approx(0.75 * short + 0.25 * long + mix.answer_tokens / 2)
    per_token_s = COSTS.decode_sequence_s + COSTS.context_token_s * mix.context_tokens
    assert mix.decode_s == pytest.approx(mix.answer_tokens * per_token_s)
    assert mix.total_s == pytest.approx(mix.prefill_s + mix.decode_s)


def test_what_cannot_keep_its_promise_alone_is_no_kind_but_still_costs() -> None:
    prompts, answers = Lengths({SHORT: 3.0, LONG: 1.0}), Lengths({10: 1.0})
    free = mix_of(ENGINE, prompts, answers, 0.0, None)
    tight = mix_of(ENGINE, prompts, answers, 0.0, ENGINE.prefill_s(middle(LONG), 0) * 0.99)
    assert tight.kinds == (RequestKind(1.0, free.kinds[0].prefill_s, 1),)
    assert tight.attainable == pytest.approx(0.75)
    assert tight[2:] == free[2:]
    nobody = mix_of(ENGINE, prompts, answers, 0.0, ENGINE.prefill_s(middle(SHORT), 0) * 0.99)
    assert (nobody.kinds, nobody.attainable) == ((), 0.0)


def test_requests_alike_do_not_vary() -> None:
    mix = mix_of(ENGINE, Lengths({SHORT: 8.0}, 512.0), Lengths({10: 2.0}, 40.0), 0.0, None)
    assert mix.prefill_cv2 == pytest.approx(0, abs=1e-12)
    assert mix.answer_tokens == pytest.approx(40)
    assert mix.typical_tokens == pytest.approx(40)
    assert mix.context_tokens == pytest.approx(532)
    assert mix.prefill_s == pytest.approx(ENGINE.prefill_s(512, 0))


def test_nothing_known_costs_nothing() -> None:
    mix = mix_of(ENGINE, Lengths({}), Lengths({}), 0.0, 1.0)
    assert mix == Mix((), *(0.0,) * 8)
    assert mix.prefill_cv2 == 0.0


@given(
    st.dictionaries(st.integers(5, 45), st.floats(0.1, 100), min_size=1, max_size=6),
    st.floats(0, 1),
    st.floats(0.01, 3),
)
def test_kinds_are_a_distribution_of_those_that_can(counts: dict[int, float], cached: float, slo_s: float) -> None:
    mix = mix_of(ENGINE, Lengths(counts), Lengths({10: 1.0}), cached, slo_s)
    assert 0 <= mix.attainable <= 1 + 1e-9
    assert all(kind.prefill_s <= slo_s for kind in mix.kinds)
    assert all(before.prefill_s <= after.prefill_s + 1e-12 for before, after in pairwise(mix.kinds))
    if mix.kinds:
        assert sum(kind.share for kind in mix.kinds) == pytest.approx(1)
    assert mix.prefill_square >= mix.prefill_s**2 * (1 - 1e-9)
