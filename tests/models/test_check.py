"""What can never be served is told from what can, by configuration and headers alone, with the reason in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jedlik.core.errors import ConfigError
from jedlik.models import known, safetensors, tiny
from jedlik.models.check import check

WEIGHTS = {"model.embed_tokens.weight": np.zeros((512, 64), np.float32), "model.layers.1.x": np.zeros(3, np.float32)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    tiny.write(folder)
    return folder


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """A model directory of one's own, to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def config(**more: Any) -> Callable[[Path], object]:
    """Change keys of config.json; None removes one."""

    def change(path: Path) -> None:
        values = {**json.loads((path / "config.json").read_text()), **more}
        (path / "config.json").write_text(json.dumps({name: v for name, v in values.items() if v is not None}))

    return change


def written(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda path: (path / name).write_bytes(content)


def cut(size: int) -> Callable[[Path], object]:
    """Keep only the first bytes of the weights."""
    return lambda path: (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:size])


def sharded(*names: str, tensors: dict[str, Any] = WEIGHTS) -> Callable[[Path], object]:
    """Replace the weights by an index over the shard `a`, and those named that exist."""

    def change(path: Path) -> None:
        (path / "model.safetensors").unlink()
        (path / safetensors.INDEX).write_text(json.dumps({"weight_map": dict(zip(WEIGHTS, names, strict=True))}))
        (path / "a").write_bytes(tiny.safetensors(tensors))

    return change


def linked(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").symlink_to(path / "gone")


def emptied(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def both(*changes: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        for one in changes:
            one(path)

    return change


def folder(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").mkdir()


def typed(dtype: str) -> Callable[[Path], object]:
    """The type of the weights' tensors, as the header spells it: F8_E4M3 takes a byte where F32 takes four."""

    def change(path: Path) -> None:
        raw = tiny.safetensors({"a.weight": np.zeros(4, np.uint8)}).replace(b'"F32"', b'"' + dtype.encode() + b'"')
        length = int.from_bytes(raw[:8], "little") + len(dtype) - 3
        (path / "model.safetensors").write_bytes(length.to_bytes(8, "little") + raw[8:])

    return change


HOPELESS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (emptied, "is empty"),
    "no configuration": (lambda path: (path / "config.json").unlink(), r"no config\.json"),
    "a GGUF file lies there": (both(emptied, written("x.gguf", b"GGUF")), r"give .*/x\.gguf"),
    "adapter": (both(emptied, written("adapter_config.json", b"{}")), r"adapter \(LoRA\)"),
    "configuration is no JSON": (written("config.json", b"{"), r"config\.json is not JSON"),
    "configuration is no object": (written("config.json", b"[]"), "no JSON object"),
    "configuration is binary": (written("config.json", b"\xff\xfe{}"), "is not JSON"),
    "configuration is a pointer": (written("config.json", b"version https://git-lfs.github.com/spec/v1"), "Git LFS"),
    "no heads": (config(num_attention_heads=None), "no num_attention_heads"),
    "negative layers": (config(num_hidden_layers=-1), "num_hidden_layers is -1"),
    "layers as text": (config(num_hidden_layers="2"), "num_hidden_layers is 2"),
    "half a layer": (config(num_hidden_layers=1.5), r"num_hidden_layers is 1\.5"),
    "no vocabulary": (config(vocab_size=0), "vocab_size is 0"),
    "true heads": (config(num_attention_heads=True), "num_attention_heads is True"),
    "heads that do not divide": (config(head_dim=None, num_attention_heads=6), "can't be divided|can't share"),
    "KV heads that do not divide": (config(num_key_value_heads=3), "can't share"),
    "endless context": (config(max_position_embeddings=1 << 60), "max_position_embeddings"),
    "end token as text": (config(eos_token_id="</s>"), "eos_token_id"),
    "architectures as text": (config(architectures="LlamaForCausalLM"), "architectures"),
    "unknown type": (config(model_type="foo", architectures=["FooForCausalLM"]), "FooForCausalLM"),
    "unknown architecture": (config(architectures=["FooForCausalLM"]), "FooForCausalLM"),
    "no type": (config(model_type=None), "model type None"),
    "no generation": (config(architectures=["LlamaForSequenceClassification"]), "does not generate text"),
    "quantised": (config(quantization_config={"quant_method": "gptq", "bits": 4}), "gptq"),
    "quantised inside": (config(text_config={**tiny.CONFIG, "quantization_config": {"quant_method": "fp8"}}), "fp8"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "no weights"),
    "pickle only": (
        lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"), "pickle.*save_pretrained"),
    "link to nothing": (linked, "link to a file that is not there"),
    "weights are a folder": (
        folder, "cannot be read"),
    "no bytes": (cut(0), "0 bytes"),
    "few bytes": (cut(5), "5 bytes"),
    "cut in the header": (cut(100), "in the middle of its header"),
    "cut in the data": (cut(300_000), r"ends after 0\.3 MB of 0\.\d MB"),
    "cut by a byte": (cut(-1), "ends after"),
    "pointer": (written("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid x"), "git lfs pull"),
    "a page": (written("model.safetensors", b"<!DOCTYPE html><html>not found</html>"), "no safetensors file"),
    "noise in the header": (written("model.safetensors", (20).to_bytes(8, "little") + bytes(40)), "damaged"),
    "header of another kind": (written("model.safetensors", (2).to_bytes(8, "little") + b"[]"), "damaged"),
    "quantised tensors": (typed("F8_E4M3"), "F8_E4M3"),
    "integers as weights": (typed("U8"), "type U8"),
    "index is no JSON": (
        both(sharded("a", "a"), written(safetensors.INDEX, b"{")), r"index\.json is not JSON"),
    "index without a map": (
        both(sharded("a", "a"), written(safetensors.INDEX, b"{}")), "weight_map"),
    "missing shard": (sharded("a", "b"), "/b is not there"),
    "tensor in no shard": (
        sharded("a", "a", tensors={"model.layers.1.x": WEIGHTS["model.layers.1.x"]}), r"lacks the tensor model\.embed"),
    "another vocabulary": (config(vocab_size=500), "vocab_size 500"),
    "fewer layers than said": (config(num_hidden_layers=3), "num_hidden_layers 3"),
    "sampling that can't be": (written("generation_config.json", b'{"temperature": 9}'), "temperature is 9"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOPELESS)
def test_what_can_never_be_served_is_refused_in_one_line(model: Path, name: str) -> None:
    spoil, says = HOPELESS[name]
    spoil(model)
    with pytest.raises(ConfigError, match=says) as refusal:
        check(model)
    assert str(model) in str(refusal.value)
    assert "\n" not in str(refusal.value)


ODD: tuple[object, ...] = (
    None, True, 0, -1, 1 << 70, 1.5, float("nan"), "", "512", [], {}, [1], ["a"], {"a": 1}, [[]], "\ud800",
)  # fmt: skip
OPTIONAL = ("text_config", "quantization_config", "num_key_value_heads", "head_dim", "rope_scaling")


@pytest.mark.parametrize("name", [*tiny.CONFIG, *OPTIONAL])
def test_whatever_a_key_holds_the_answer_is_a_model_or_a_reason(model: Path, name: str) -> None:
    for value in ODD:
        (model / "config.json").write_text(json.dumps({**tiny.CONFIG, name: value}))
        try:
            assert check(model).layers == 2
        except ConfigError as refusal:
            assert str(model) in str(refusal)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    "change",
    [
        lambda path: None,
        sharded("a", "a"),
        config(architectures=None),
        config(head_dim=None),
        config(num_key_value_heads=None),
        config(eos_token_id=[1, 2]),
        lambda path: (path / "generation_config.json").unlink(),
        lambda path: (path / "pytorch_model.bin").write_bytes(b"beside the others"),
    ],
)
def test_what_can_be_served_passes(model: Path, change: Callable[[Path], object]) -> None:
    change(model)
    assert check(model).layers == 2


def test_an_engine_without_weights_needs_none(model: Path) -> None:
    (model / "model.safetensors").unlink()
    config(architectures=["FooForCausalLM"], model_type="foo")(model)
    assert check(model, weights=False).vocab_size == 512
    with pytest.raises(ConfigError):
        check(model)


def test_vendor_values_are_checked_where_they_are_used(model: Path) -> None:
    written("generation_config.json", b'{"temperature": 9}')(model)
    assert check(model, vendor=False).layers == 2


def test_weights_are_counted_once(model: Path) -> None:
    """Some publishers put a second copy of the weights, in another form, beside the first."""
    size = (model / "model.safetensors").stat().st_size
    (model / "consolidated.safetensors").write_bytes(b"the same once more")
    assert check(model).weight_bytes == size


def test_the_installed_transformers_says_what_it_knows() -> None:
    """Its source is read instead of importing it: this fails when a release lays it out in another way."""
    classes = known.causal_models()
    assert classes is not None
    assert classes["llama"] == "LlamaForCausalLM"
    assert len(classes) > 100
    architectures = known.gguf_architectures()
    assert architectures is not None
    assert {"llama", "qwen2", "qwen3", "gemma3", "phi3"} <= architectures
    assert "tokenizer" not in architectures


def test_a_transformers_that_looks_otherwise_stops_nobody(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "CAUSAL", ("no/such/file.py", "NAMES"))
    config(model_type="foo", architectures=["FooForCausalLM"])(model)
    assert known.causal_models() is None
    assert check(model).architecture == "FooForCausalLM"
