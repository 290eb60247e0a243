"""Reads a model directory's numbers without torch: shapes, context length, end tokens, revision.

The revision divides KV caches: a digest of configuration, weights and dtype. Weights are hashed in full, once; the
result is stored beside the cache, by path, size and time of change.
"""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from jedlik.core.errors import ConfigError
from jedlik.core.protocol import Layout
from jedlik.models import safetensors
from jedlik.models.cache import home
from jedlik.models.reading import json_object

_CHUNK_BYTES = 8 << 20
MOST = 1 << 31
"""The largest count that a config.json may have."""


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers in config.json that matter outside the engine."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    """The largest number of tokens, prompt plus output."""
    eos_token_ids: tuple[int, ...]
    """The end tokens in generation_config.json and config.json, ascending."""
    weight_bytes: int


def knows_chat(path: Path) -> bool:
    """Return whether a model directory has a chat template; without one it can only complete."""
    config = path / "tokenizer_config.json"
    return (path / "chat_template.jinja").exists() or (config.exists() and b'"chat_template"' in config.read_bytes())


def read(path: Path) -> ModelInfo:
    """Read a Hugging Face model directory. Raises ConfigError for what is missing or can't be."""
    file = path / "config.json"
    outer = json_object(file)
    inner = outer.get("text_config")
    config = {**outer, **(inner if isinstance(inner, dict) else {})}
    heads = _count(file, config, "num_attention_heads")
    kv_heads = heads if config.get("num_key_value_heads") is None else _count(file, config, "num_key_value_heads")
    if heads % kv_heads:
        raise ConfigError(f"{file}: {heads} attention heads can't share {kv_heads} KV heads evenly")
    return ModelInfo(
        architecture=_architecture(file, outer),
        layers=_count(file, config, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_head_dim(file, config, heads),
        vocab_size=_count(file, config, "vocab_size"),
        context_length=_count(file, config, "max_position_embeddings"),
        eos_token_ids=_eos(path, config),
        weight_bytes=sum(weights.stat().st_size for weights in safetensors.files(path) if weights.exists()),
    )


def _count(file: Path, config: dict[str, Any], name: str) -> int:
    value = config.get(name)
    if value is None:
        raise ConfigError(f"{file} has no {name}: not a decoder that jedlik can serve")
    if type(value) is not int or not 0 < value <= MOST:
        raise ConfigError(f"{file}: {name} is {str(value)[:40]}, and must be a whole number above 0")
    return value


def _head_dim(file: Path, config: dict[str, Any], heads: int) -> int:
    if config.get("head_dim") is not None:
        return _count(file, config, "head_dim")
    hidden = _count(file, config, "hidden_size")
    if hidden % heads:
        raise ConfigError(f"{file}: hidden_size {hidden} can't be divided among {heads} attention heads")
    return hidden // heads


def _architecture(file: Path, config: dict[str, Any]) -> str:
    named = config.get("architectures") or ["unknown"]
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise ConfigError(f"{file}: architectures is {str(named)[:40]}, and must be a list of names")
    return str(named[0])


def layout(info: ModelInfo, dtype: str, block_size: int) -> Layout:
    """Return the shape of one KV block of a model."""
    return Layout(
        dtype=dtype, layers=info.layers, kv_heads=info.kv_heads, head_dim=info.head_dim, block_size=block_size
    )


def block_bytes(shape: Layout) -> int:
    """Return the size of one KV block."""
    return shape.block_bytes


def revision(path: Path, dtype: str) -> str:
    """Return the digest of configuration, weights and dtype, 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (dtype.encode(), (path / "config.json").read_bytes()):
        digest.update(len(part).to_bytes(8, "little") + part)
    for file in safetensors.files(path):
        digest.update(file.name.encode() + _hashed(file))
    return digest.hexdigest()


def _eos(path: Path, config: dict[str, Any]) -> tuple[int, ...]:
    file = path / "generation_config.json"
    generation = json_object(file) if file.exists() else {}
    found: set[int] = set()
    for name, value in ((file, generation.get("eos_token_id")), (path / "config.json", config.get("eos_token_id"))):
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(token) is int and token >= 0 for token in ids):
            raise ConfigError(f"{name}: eos_token_id is {str(value)[:40]}, and must be a token id or a list of them")
        found.update(ids)
    return tuple(sorted(found))


def _hashed(file: Path) -> bytes:
    """Return the digest of a file's whole content; remembered as long as path, size and change time stay."""
    stat = file.stat()
    key = f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}".encode()
    memory = home() / "digests" / hashlib.blake2b(key, digest_size=16).hexdigest()
    if memory.exists() and len(known := memory.read_bytes()) == 16:
        return known
    state = xxhash.xxh3_128()
    with open(file, "rb") as source:
        while chunk := source.read(_CHUNK_BYTES):
            state.update(chunk)
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_bytes(state.digest())
    return state.digest()
