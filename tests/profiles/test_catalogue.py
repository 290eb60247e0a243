"""Shipped profiles, rooflines by name, and wrong names."""

import json
from pathlib import Path

import msgspec
import pytest

from jedlik.core.errors import ConfigError
from jedlik.perf.linear import PhaseCosts
from jedlik.perf.profile import model, problems, to_json
from jedlik.perf.step import StepShape, chunk_pairs
from jedlik.profiles.catalogue import gpus, lookup, models, names

CHUNK = StepShape(2048, chunk_pairs(0, 2048), 0, 0)
DECODE = StepShape(0, 0, 32, 32 * 4000)


def test_qwen3_32b_on_two_h200_is_the_published_fit() -> None:
    costs = lookup("qwen3-32b-fp8/h200/tp2").costs
    in_ms = [getattr(costs, field) * 1e3 for field in PhaseCosts.__struct_fields__]
    assert in_ms == pytest.approx([8.13, 0.0357, 1.40e-6, 7.57, 0.0310, 1.55e-5], rel=2e-3)
    whole = model(lookup("qwen3-32b-fp8/h200/tp2")).step_s(StepShape(1000, 500_000, 8, 80_000)) * 1e3
    assert whole == pytest.approx(8.125 + 35.6608 + 0.70018 + 8 * 0.0309506 + 80_000 * 1.54999e-5)


def test_every_shipped_profile_is_sound_and_near_its_points() -> None:
    for name in names():
        profile = lookup(name)
        assert profile.name == name
        assert list(problems(profile)) == []
        assert profile.error is not None
        assert profile.error < (0.02 if profile.table else 0.09), name
        assert profile.kv_tokens is not None
        assert profile.kv_tokens > 10_000
        assert model(profile).step_s(DECODE) > 0


def test_every_gpu_asked_for_has_dense_and_sparse_profiles() -> None:
    for gpu in ("h100", "h200", "b200", "gb200"):
        found = [lookup(name) for name in names() if f"/{gpu}/" in name]
        assert {p.table is None for p in found} == {True, False}
        assert {p.backend for p in found} == {"trtllm", "vllm"}


def test_unusable_rows_are_not_shipped() -> None:
    assert not [n for n in names() if n.startswith("deepseek") or ("qwen3-32b-fp8" in n and "vllm" in n)]


def test_the_measured_one_says_so() -> None:
    measured = [name for name in names() if lookup(name).measured]
    assert measured == ["llama-3.1-8b-fp8/h200/tp1-vllm"]
    profile = lookup(measured[0])
    assert profile.kv_tokens == 945_029
    assert model(profile).step_s(StepShape(0, 0, 1, 350)) == pytest.approx(0.00438, rel=0.05)


def test_the_capacity_rule_gives_what_was_measured() -> None:
    """FP8 weights and BF16 cache, as that engine ran; the rule knows no such pair, so bytes are put in by hand."""
    shaped = lookup("roofline:llama-3.1-8b-fp8/h200/tp1")
    assert shaped.kv_tokens is not None
    assert shaped.kv_tokens / 2 == pytest.approx(945_029, rel=0.02)


@pytest.mark.parametrize(
    ("name", "kib"),
    [
        ("llama-3.1-8b/h100/tp1", 128),
        ("llama-3.1-70b/h200/tp4", 320),
        ("qwen3-32b/h200/tp2", 256),
        ("qwen3-30b-a3b/h100/tp1", 96),
        ("qwen3-235b-a22b/b200/tp4", 188),
        ("gpt-oss-120b/h200/tp1", 72),
        ("deepseek-r1-bf16/gb300/tp8", 68.625 * 8),
        ("deepseek-r1/h200/tp8", 34.3125 * 8),
    ],
)
def test_rooflines_know_what_a_token_takes(name: str, kib: float) -> None:
    """Latent caches are the same on each of the GPUs."""
    assert lookup(f"roofline:{name}").kv_bytes_per_token == kib * 1024


@pytest.mark.parametrize(
    "name", [n for n in names() if n.endswith(("h100/tp1", "h200/tp2", "h200/tp4", "h200/tp8ep8"))]
)
def test_rooflines_are_in_the_neighbourhood(name: str) -> None:
    table, computed = model(lookup(name)), model(lookup(f"roofline:{name}"))
    for shape in (CHUNK, DECODE):
        assert 0.4 < computed.step_s(shape) / table.step_s(shape) < 2.5


def test_wider_and_faster_is_quicker() -> None:
    def step_s(name: str, shape: StepShape) -> float:
        return model(lookup(f"roofline:{name}")).step_s(shape)

    for shape in (CHUNK, DECODE):
        assert step_s("llama-3.1-70b-fp8/h200/tp4", shape) > step_s("llama-3.1-70b-fp8/h200/tp8", shape)
        assert step_s("llama-3.1-70b/h200/tp4", shape) > step_s("llama-3.1-70b-fp8/h200/tp4", shape)
        assert step_s("llama-3.1-70b/h200/tp4", shape) > step_s("llama-3.1-70b/gb200/tp4", shape)


def test_a_mixture_reads_more_weights_as_the_batch_grows() -> None:
    line = model(lookup("roofline:qwen3-235b-a22b-fp8/h200/tp8")).decode_line
    assert line(2)[0] - line(1)[0] > 5 * (line(512)[0] - line(511)[0])


def test_a_config_json_gives_a_roofline(tmp_path: Path) -> None:
    config = {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
        "rope_scaling": None,
    }
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for path in (folder, folder / "config.json"):
        profile = lookup(f"roofline:{path}/h100/tp1")
        assert profile.model == "small"
        assert profile.kv_bytes_per_token == 30 * 2 * 3 * 64 * 2
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "odd"}}))
    with pytest.raises(ConfigError, match="'odd' is unknown"):
        lookup(f"roofline:{folder}/h100/tp1")
    (folder / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="hidden_size"):
        lookup(f"roofline:{folder}/h100/tp1")


def test_a_file_gives_its_profile(tmp_path: Path) -> None:
    mine = msgspec.structs.replace(lookup("qwen3-8b/h100/tp1"), name="mine")
    (tmp_path / "mine.json").write_bytes(to_json(mine))
    assert lookup(str(tmp_path / "mine.json")) == mine


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qwen3-32b-fp8/h20/tp2", "did you mean 'qwen3-32b-fp8/h200/tp2'"),
        ("llama-3.1-8b/h100/tp2", "roofline:llama-3.1-8b/h100/tp2 computes one"),
        ("nothing-like-it", "jedlik profile --list"),
        ("gone.json", "no such file"),
        ("roofline:llama-3.1-8b", "expected roofline:MODEL/GPU/tpN"),
        ("roofline:llama-3.1-8b/h101/tp1", "did you mean 'h100'"),
        ("roofline:lama-3.1-8b/h100/tp1", "did you mean 'llama-3.1-8b'"),
        ("roofline:llama-3.1-8b/h100/tp3", "does not divide"),
        ("roofline:qwen3-30b-a3b/h100/tp4ep2", "ep4 or nothing"),
        ("roofline:deepseek-r1/h100/tp4", "does not fit on 4 h100"),
    ],
)
def test_a_wrong_name_comes_with_a_remedy(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lookup(name)


def test_catalogues_are_listed() -> None:
    assert {"h100", "h200", "b200", "gb200"} <= set(gpus())
    assert {"llama-3.1-8b", "deepseek-r1", "gpt-oss-120b"} <= set(models())
