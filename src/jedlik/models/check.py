"""Checks whether a model directory can be served, by configuration and headers of files; no weights are read.

A directory that passes can still fail to load; one that fails here can never be served. The tokenizer and the chat
template are checked by `serve/model_check.py`, which has this first.
"""

import os
import re
from pathlib import Path
from typing import Any

from jedlik.core.errors import ConfigError
from jedlik.models import generation, info, known, safetensors
from jedlik.models.info import ModelInfo
from jedlik.models.reading import json_object, unreadable
from jedlik.models.safetensors import Tensor

FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|embed_in|word_embeddings)\.weight$")
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d{1,6})\.")


def check(path: Path, *, weights: bool = True, vendor: bool = True) -> ModelInfo:
    """Return the numbers of a model directory. Raises ConfigError with the first reason why it can't be served.

    `weights`: an engine will load them; `vendor`: sampling defaults are taken from the model.
    """
    try:
        beginning(path)
        model = info.read(path)
        if vendor:
            generation.read(path)
        if weights:
            _runnable(path / "config.json", json_object(path / "config.json"))
            _fits(path, model, _tensors(path))
    except OSError as error:  # a folder that may be listed and not entered
        raise unreadable(path, error) from None
    return model


def beginning(path: Path) -> None:
    """Raise ConfigError for a folder that is no model directory at all, with what it looks like."""
    names = set(os.listdir(path))
    if "config.json" in names:
        return
    if "adapter_config.json" in names:
        raise ConfigError(f"{path} holds an adapter (LoRA), not a model: merge it into its base model and serve that")
    ggufs = sorted(name for name in names if name.endswith(".gguf"))
    what = "has no config.json" if names else "is empty"
    hint = f"; for the GGUF file in it give {path / ggufs[0]}" if ggufs else ""
    raise ConfigError(f"{path} is no Hugging Face model directory: it {what}{hint}")


def _runnable(file: Path, config: dict[str, Any]) -> None:
    """Check that the engine has code for this kind of model. Raises ConfigError."""
    inner = config.get("text_config")
    inside = inner.get("quantization_config") if isinstance(inner, dict) else None
    quantised = config.get("quantization_config") or inside
    if quantised:
        method = quantised.get("quant_method", "an unnamed method") if isinstance(quantised, dict) else quantised
        raise ConfigError(
            f"{file}: the weights are quantised ({method}); this engine runs bfloat16 and float32 weights: take the "
            "model's original weights, or a GGUF file, which is converted"
        )
    classes = known.causal_models()
    if classes is None:
        return
    kind, named = config.get("model_type"), config.get("architectures") or []
    if not isinstance(kind, str) or kind not in classes:
        raise ConfigError(
            f"{file}: the model type {kind!r} ({', '.join(map(str, named)) or 'no architectures'}) is unknown to "
            f"{known.release()} as one that generates text; a newer transformers may know it"
        )
    if named and not any(name in classes.values() for name in named):
        raise ConfigError(f"{file}: {named[0]} does not generate text, or is unknown to {known.release()}")


def _tensors(path: Path) -> dict[str, Tensor]:
    if safetensors.files(path):
        return safetensors.tensors(path)
    if any(found for pattern in PICKLED for found in path.glob(pattern)):
        raise ConfigError(
            f"{path} has its weights in pickle files only, which could run code: take the model's safetensors, or "
            "convert them with transformers (from_pretrained, save_pretrained)"
        )
    raise ConfigError(f"{path} has no weights: neither {safetensors.WHOLE} nor {safetensors.INDEX}")


def _fits(path: Path, model: ModelInfo, tensors: dict[str, Tensor]) -> None:
    """Check that weights and configuration are of the same model. Raises ConfigError."""
    for name, tensor in tensors.items():
        if name.endswith(".weight") and tensor.dtype not in FLOATS:
            raise ConfigError(
                f"{path}: {name} has the type {tensor.dtype}: quantised weights; this engine runs bfloat16 and float32 "
                "weights: take the model's original weights"
            )
        if EMBEDDING.search(name) and "vision" not in name and tensor.shape[:1] != (model.vocab_size,):
            raise ConfigError(
                f"{path}: config.json says vocab_size {model.vocab_size}, and {name} has the shape "
                f"{list(tensor.shape)}: they belong to different models"
            )
    layers = {int(found[1]) for name in tensors if (found := LAYER.search(name))}
    if layers and max(layers) + 1 < model.layers:
        raise ConfigError(
            f"{path}: config.json says num_hidden_layers {model.layers}, and there are weights of {max(layers) + 1}: "
            "they belong to different models, or files are missing"
        )
