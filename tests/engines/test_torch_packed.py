"""Packed layers compute what the plain ones do, and deterministic engines keep the plain ones."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch_driving import CACHE

from jedlik.engines.torch import panels, weights
from jedlik.engines.torch.options import EngineOptions
from jedlik.engines.torch.packed import PackedLinear, pack
from jedlik.engines.torch.runner import FixedShapes, blocked_linear
from jedlik.models import tiny


@given(st.integers(1, 70), st.integers(1, 130), st.integers(1, 70), st.booleans())
def test_equals_linear(inside: int, outside: int, rows: int, bias: bool) -> None:
    plain = nn.Linear(inside, outside, bias=bias)
    x = torch.randn(1, rows, inside)
    with torch.inference_mode():
        assert torch.allclose(PackedLinear(plain)(x), plain(x), atol=1e-4)


@given(st.integers(1, 40), st.integers(1, 100), st.integers(1, 40), st.booleans(), st.integers(1, 2))
def test_panels_equal_linear_and_no_row_depends_on_another(
    pairs: int, outside: int, rows: int, bias: bool, threads: int
) -> None:
    kernel = panels.load(Path(CACHE))
    if kernel is None:
        pytest.skip("no compiler, or a CPU without AVX512-BF16")
    plain = nn.Linear(2 * pairs, outside, bias=bias).bfloat16()
    made = panels.PanelLinear(plain, kernel, threads)
    x = torch.randn(1, rows, 2 * pairs + 2).bfloat16()[..., : 2 * pairs]  # rows apart, as where heads were split off
    with torch.inference_mode():
        y = made(x)
        want = functional.linear(x.float(), plain.weight.float(), plain.bias.float() if bias else None)
        assert y.shape == (1, rows, outside)
        assert torch.allclose(y.float(), want, atol=2e-3, rtol=1e-2)
        assert torch.equal(made(x[:, rows // 2 : rows // 2 + 1])[0, 0], y[0, rows // 2])


def test_odd_inputs_and_float32_stay_out_of_panels() -> None:
    assert panels.fits(nn.Linear(4, 3).bfloat16())
    assert not panels.fits(nn.Linear(3, 3).bfloat16())
    assert not panels.fits(nn.Linear(4, 3))


def test_only_plain_linear_layers_are_replaced() -> None:
    class Special(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 2)), Special(2, 2))
    assert pack(model, Path(CACHE), 1) == 2
    assert [type(m).__name__ for m in model.modules() if hasattr(m, "out_features")] == [
        "PackedLinear", "PackedLinear", "Special",
    ]  # fmt: skip


@pytest.mark.parametrize("deterministic", [True, False])
def test_deterministic_engines_keep_plain_layers(tmp_path: Path, deterministic: bool) -> None:
    tiny.write(tmp_path)
    options = EngineOptions(cache_dir=CACHE, device="cpu", deterministic=deterministic)
    model = weights.load(tmp_path, "float32", "cpu", options).model
    assert isinstance(model, nn.Module)
    assert any(isinstance(m, PackedLinear) for m in model.modules()) != deterministic


@given(st.integers(1, 100), st.integers(0, 99), st.integers(1, 40))
def test_fixed_shapes_make_a_row_independent_of_the_others(rows: int, row: int, inside: int) -> None:
    row %= rows
    draw = torch.Generator().manual_seed(rows * 100 + inside)
    weight, x = torch.randn(33, inside, generator=draw), torch.randn(rows, inside, generator=draw)
    assert torch.equal(blocked_linear(x, weight)[row], blocked_linear(x[row : row + 1], weight)[0])
    with FixedShapes():
        assert torch.equal(torch.nn.functional.linear(x, weight), blocked_linear(x, weight))
    assert torch.allclose(blocked_linear(x, weight), x @ weight.T, atol=1e-4)


def test_loading_tells_each_parameter(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    told: list[tuple[int, int]] = []
    weights.load(tmp_path, "float32", "cpu", EngineOptions(cache_dir=CACHE), lambda *now: told.append(now))
    size = (tmp_path / "model.safetensors").stat().st_size
    assert told == sorted(told)
    assert (told[0], told[-1]) == ((0, size), (size, size))
    assert len({done for done, _ in told}) > 10
