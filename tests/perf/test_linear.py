"""Linear models of points, and the nearest linear model of another one."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from jedlik.core.protocol import StepCosts
from jedlik.perf.linear import PhaseCosts, PhaseModel, Point, mean_error, nearest, non_negative, phases
from jedlik.perf.step import StepShape, chunk_pairs, shape_s

COSTS = PhaseCosts(
    prefill_base_s=0.0185,
    prefill_token_s=1e-5,
    prefill_pair_s=1.5e-9,
    decode_base_s=0.0057,
    decode_sequence_s=5.5e-5,
    context_token_s=2.4e-8,
)


def grid() -> list[StepShape]:
    shapes = [StepShape(n, chunk_pairs(start, n), 0, 0) for n in (64, 512, 4096) for start in (0, 8000)]
    shapes += [StepShape(0, 0, b, b * c) for b in (1, 16, 128) for c in (300, 9000)]
    return [*shapes, StepShape(256, chunk_pairs(0, 256), 8, 8000)]


def test_six_costs_come_back_from_exact_points() -> None:
    model = PhaseModel(COSTS)
    found = phases([Point(shape, model.step_s(shape)) for shape in grid()])
    for field in PhaseCosts.__struct_fields__:
        assert getattr(found, field) == pytest.approx(getattr(COSTS, field), rel=1e-6)


def test_noise_does_not_make_a_cost_negative() -> None:
    draw, model = random.Random(1), PhaseModel(COSTS)
    for _ in range(20):
        points = [Point(shape, model.step_s(shape) * draw.uniform(0.7, 1.4)) for shape in grid()]
        found = phases(points)
        assert min(getattr(found, field) for field in PhaseCosts.__struct_fields__) >= 0
        assert mean_error(PhaseModel(found).step_s, points) < 0.35


@given(st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=4, max_size=8), st.randoms())
def test_no_other_non_negative_answer_is_nearer(rows: list[list[float]], draw: random.Random) -> None:
    target = [draw.uniform(-5, 5) for _ in rows]

    def distance(x: list[float]) -> float:
        return sum(
            (sum(a * b for a, b in zip(row, x, strict=True)) - y) ** 2 for row, y in zip(rows, target, strict=True)
        )

    best = non_negative(rows, target)
    assert min(best) >= 0
    for _ in range(20):
        other = [max(0.0, x + draw.uniform(-0.5, 0.5)) for x in best]
        assert distance(best) <= distance(other) * (1 + 1e-9) + 1e-9


def test_the_nearest_of_a_linear_model_is_itself() -> None:
    costs = StepCosts(
        base_s=0.01, prefill_token_s=1e-4, prefill_pair_s=1e-8, decode_sequence_s=2e-3, context_token_s=1e-6
    )
    assert astuple(nearest(lambda shape: shape_s(costs, shape))) == pytest.approx(astuple(costs), rel=1e-6)


def test_a_mixed_step_pays_one_base() -> None:
    model = PhaseModel(COSTS)
    prefill, decode = StepShape(512, chunk_pairs(0, 512), 0, 0), StepShape(0, 0, 8, 8000)
    mixed = StepShape(512, chunk_pairs(0, 512), 8, 8000)
    assert model.step_s(mixed) == pytest.approx(model.step_s(prefill) + model.step_s(decode) - COSTS.decode_base_s)
    fixed_s, token_s = model.decode_line(8)
    assert model.step_s(decode) == pytest.approx(fixed_s + token_s * 8000)
