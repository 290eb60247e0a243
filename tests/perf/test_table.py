"""The table model: knots, between them, beyond them, and made from points."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedlik.perf.linear import Point, mean_error
from jedlik.perf.model import leap_s
from jedlik.perf.step import StepShape, chunk_pairs
from jedlik.perf.table import Table, TableModel, between, table_of

TABLE = Table(
    prefill_tokens=(64, 512, 2048),
    prefill_s=(0.018, 0.024, 0.040),
    prefill_pair_s=1.5e-9,
    batches=(1, 8, 64),
    decode_s=(0.004, 0.008, 0.017),
    context_token_s=(3e-8, 2.5e-8, 2e-8),
    mixed_sequence_s=1.5e-5,
)
MODEL = TableModel(TABLE)


def prefill(tokens: int, start: int = 0, batch: int = 0, context: int = 0) -> StepShape:
    return StepShape(tokens, chunk_pairs(start, tokens), batch, batch * context)


def test_knots_are_met_and_lines_between_them() -> None:
    assert between((1, 8, 64), (1.0, 8.0, 9.0), 8) == 8.0
    assert between((1, 8, 64), (1.0, 8.0, 9.0), 36) == 8.5
    assert between((1, 8, 64), (1.0, 8.0, 9.0), 120) == 10.0
    assert between((8, 64), (1.0, 9.0), 0) == 0.0
    assert between((8,), (3.0,), 99) == 3.0


def test_decode_is_linear_in_context_at_every_batch() -> None:
    for batch in (1, 5, 8, 40, 200):
        fixed_s, token_s = MODEL.decode_line(batch)
        assert MODEL.step_s(StepShape(0, 0, batch, 12_345)) == pytest.approx(fixed_s + token_s * 12_345)
    summed = sum(MODEL.step_s(StepShape(0, 0, 5, 1000 + 5 * j)) for j in range(30))
    assert leap_s(MODEL.decode_line(5), 5, 1000, 30) == pytest.approx(summed)


@given(st.integers(1, 4000), st.integers(0, 20_000), st.integers(0, 300), st.integers(1, 5000))
def test_more_work_never_takes_less_time(tokens: int, start: int, batch: int, context: int) -> None:
    whole = MODEL.step_s(prefill(tokens, start, batch, context))
    assert whole >= MODEL.step_s(prefill(tokens, start))
    assert whole >= MODEL.step_s(prefill(max(tokens - 1, 1), start, batch, context))
    if batch:
        assert whole >= MODEL.step_s(StepShape(0, 0, batch, batch * context)) - 1e-12


def test_a_table_comes_back_from_its_points() -> None:
    shapes = [prefill(n, start) for n in TABLE.prefill_tokens for start in (0, 3000)]
    shapes += [StepShape(0, 0, b, b * c) for b in TABLE.batches for c in (100, 1000, 4000)]
    shapes += [prefill(512, 0, b, 500) for b in (4, 32)]
    points = [Point(shape, MODEL.step_s(shape)) for shape in shapes]
    found = table_of(points)
    assert found.batches == TABLE.batches
    assert found.prefill_s == pytest.approx(TABLE.prefill_s, rel=1e-6)
    assert found.context_token_s == pytest.approx(TABLE.context_token_s, rel=1e-6)
    assert found.mixed_sequence_s == pytest.approx(TABLE.mixed_sequence_s, rel=1e-4)
    assert mean_error(TableModel(found).step_s, points) < 1e-6


def test_one_context_a_batch_takes_the_slope_of_all() -> None:
    points = [Point(prefill(n), 0.01 + 1e-4 * n) for n in (64, 512)]
    points += [Point(StepShape(0, 0, b, b * 1000), 0.005 + 1e-3 * b) for b in (1, 4, 16)]
    found = table_of(points)
    assert mean_error(TableModel(found).step_s, points) < 0.01


def test_a_small_chunk_does_not_shorten_a_large_decode() -> None:
    decode = StepShape(0, 0, 2000, 2000)
    assert MODEL.step_s(prefill(1, 0, 2000, 1)) >= MODEL.step_s(decode)
