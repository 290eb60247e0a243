"""What a model directory says of itself, read without torch: shapes, context length, end tokens, revision.

The revision is what KV caches are divided by: a digest of configuration, weights and dtype. Weights are hashed in full,
once; the result is kept beside the cache, by path, size and time of change.
"""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from jedlik.core.errors import ConfigError
from jedlik.core.protocol import Layout
from jedlik.models.cache import home
from jedlik.models.reading import json_object

_CHUNK_BYTES = 8 << 20


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers in config.json that matter outside the engine."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    """Tokens, prompt plus output."""
    eos_token_ids: tuple[int, ...]
    """From generation_config.json and config.json, ascending."""
    weight_bytes: int


def knows_chat(path: Path) -> bool:
    """Whether a model directory has a chat template; without one it can only complete."""
    config = path / "tokenizer_config.json"
    return (path / "chat_template.jinja").exists() or (config.exists() and b'"chat_template"' in config.read_bytes())


def read(path: Path) -> ModelInfo:
    """Read a Hugging Face model directory. Raises ConfigError for what is missing."""
    outer = json_object(path / "config.json")
    config = {**outer, **(outer.get("text_config") or {})}
    try:
        heads = int(config["num_attention_heads"])
        return ModelInfo(
            architecture=(config.get("architectures") or ["unknown"])[0],
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            vocab_size=int(config["vocab_size"]),
            context_length=int(config["max_position_embeddings"]),
            eos_token_ids=_eos(path, config),
            weight_bytes=sum(file.stat().st_size for file in _weights(path)),
        )
    except KeyError as missing:
        raise ConfigError(f"{path}/config.json has no {missing}: not a decoder that jedlik can serve") from None


def layout(info: ModelInfo, dtype: str, block_size: int) -> Layout:
    """The shape of one KV block of this model."""
    return Layout(dtype, info.layers, info.kv_heads, info.head_dim, block_size)


def block_bytes(shape: Layout) -> int:
    """Size of one KV block."""
    return shape.block_bytes


def revision(path: Path, dtype: str) -> str:
    """Digest of configuration, weights and dtype, 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (dtype.encode(), (path / "config.json").read_bytes()):
        digest.update(len(part).to_bytes(8, "little") + part)
    for file in _weights(path):
        digest.update(file.name.encode() + _hashed(file))
    return digest.hexdigest()


def _weights(path: Path) -> list[Path]:
    return sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))


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
    """Digest of a file's whole content; remembered as long as path, size and change time stay."""
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
