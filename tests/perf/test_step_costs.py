"""Step costs, evaluated and learnt."""

import random

import pytest

from jedlik.core.ids import Lane
from jedlik.core.protocol import StepCosts
from jedlik.core.step import Chunk, Step
from jedlik.perf.fit import ONLY_PREFILL_STEPS, StepFit
from jedlik.perf.step import StepShape, chunk_pairs, decode_s, prefill_s, shape_of, shape_s, step_s

COSTS = StepCosts(
    base_s=0.01, prefill_token_s=0.001, prefill_pair_s=1e-7, decode_sequence_s=0.002, context_token_s=1e-6
)


def test_a_step_is_the_sum_of_its_parts() -> None:
    step = Step(
        step_id=1,
        closed=[],
        opened=[],
        tables=[],
        prefills=[Chunk(Lane(0), 10, 5, True)],
        decodes=[Lane(1), Lane(2)],
        decode_context=300,
    )
    assert shape_of(step) == StepShape(5, 10 * 5 + 15, 2, 300)
    assert step_s(COSTS, step) == pytest.approx(0.01 + 0.005 + 65e-7 + 0.004 + 300e-6)


def test_pairs_of_chunks_add_up() -> None:
    assert chunk_pairs(0, 100) == chunk_pairs(0, 37) + chunk_pairs(37, 63) == 5050


def test_prefill_pays_the_base_once_a_chunk() -> None:
    assert prefill_s(COSTS, 0, 100, 512) == 0.0
    assert prefill_s(COSTS, 1000, 24, 512) == pytest.approx(0.02 + 1.0 + chunk_pairs(24, 1000) * 1e-7)
    assert decode_s(COSTS, 8, 1000) == pytest.approx(0.01 + 0.016 + 0.001)


def shapes(draw: random.Random, steps: int) -> list[StepShape]:
    found = []
    for at in range(steps):
        tokens = draw.randint(1, 512) if at % 3 == 0 else 0
        sequences = draw.randint(0 if tokens else 1, 32)
        found.append(
            StepShape(tokens, chunk_pairs(draw.randint(0, 4000), tokens), sequences, sequences * draw.randint(50, 2000))
        )
    return found


@pytest.mark.parametrize("outliers", [False, True])
def test_costs_are_learnt_despite_noise_and_stalls(outliers: bool) -> None:
    draw, fit = random.Random(1), StepFit()
    for at, shape in enumerate(shapes(draw, 800)):
        stall = 50.0 if outliers and at % 40 == 7 else 1.0
        fit.observe(shape, shape_s(COSTS, shape) * draw.uniform(0.95, 1.05) * stall)
    assert fit.costs is not None
    errors = [shape_s(fit.costs, s) / shape_s(COSTS, s) - 1 for s in shapes(random.Random(2), 200)]
    assert sum(abs(e) for e in errors) / len(errors) < 0.08
    assert max(map(abs, errors)) < 0.35


def test_nothing_is_claimed_before_prefill_and_decode_were_seen() -> None:
    fit, only_decodes = StepFit(), StepFit()
    for _ in range(50):
        fit.observe(StepShape(0, 0, 4, 400), 0.02)
        only_decodes.observe(StepShape(0, 0, 4, 400), 0.02)
    for _ in range(3):
        fit.observe(StepShape(100, chunk_pairs(0, 100), 4, 400), 0.12)
    assert only_decodes.costs is None
    assert fit.costs is not None
    assert min(fit.costs.base_s, fit.costs.prefill_token_s, fit.costs.decode_sequence_s) >= 0.0


def test_what_is_not_seen_lately_keeps_its_cost() -> None:
    draw, fit = random.Random(3), StepFit()
    for shape in shapes(draw, 400):
        fit.observe(shape, shape_s(COSTS, shape))
    for _ in range(3000):
        shape = StepShape(0, 0, draw.randint(1, 32), draw.randint(100, 30_000))
        fit.observe(shape, shape_s(COSTS, shape))
    assert fit.costs is not None
    assert prefill_s(fit.costs, 512, 0, 512) == pytest.approx(prefill_s(COSTS, 512, 0, 512), rel=0.25)


def test_one_clock_tick_does_not_upset_the_model() -> None:
    draw, fit = random.Random(4), StepFit()
    for at, shape in enumerate(shapes(draw, 400)):
        fit.observe(shape, 0.0 if at == 200 else shape_s(COSTS, shape))
    assert fit.costs is not None
    assert decode_s(fit.costs, 8, 8000) == pytest.approx(decode_s(COSTS, 8, 8000), rel=0.5)


def test_who_only_prefills_learns_that_and_decoding_when_it_begins() -> None:
    draw, fit = random.Random(5), StepFit()
    for at in range(ONLY_PREFILL_STEPS):
        assert fit.costs is None, at
        length = draw.randint(20, 512)
        shape = StepShape(length, chunk_pairs(draw.randint(0, 4000), length), 0, 0)
        fit.observe(shape, shape_s(COSTS, shape))
    assert fit.costs is not None
    assert prefill_s(fit.costs, 2000, 0, 512) == pytest.approx(prefill_s(COSTS, 2000, 0, 512), rel=0.1)
    assert fit.costs.decode_sequence_s == 0.0
    for shape in shapes(draw, 200):
        fit.observe(shape, shape_s(COSTS, shape))
    assert decode_s(fit.costs, 8, 8000) == pytest.approx(decode_s(COSTS, 8, 8000), rel=0.25)
