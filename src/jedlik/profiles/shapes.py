"""Reads the numbers that a roofline needs from a Hugging Face config.json.

The models may be dense, mixtures of experts, and have latent attention.
"""

from collections.abc import Mapping

import msgspec

from jedlik.core.errors import ConfigError
from jedlik.perf.roofline import ModelShape

QUANTISED = {"fp8": "fp8", "compressed-tensors": "fp8", "fbgemm_fp8": "fp8", "mxfp4": "fp4", "nvfp4": "fp4"}
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of a config.json that are read; the rest is ignored."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    intermediate_size: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    tie_word_embeddings: bool = False
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int | None = None
    n_shared_experts: int | None = None
    shared_expert_intermediate_size: int = 0
    first_k_dense_replace: int = 0
    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    quantization_config: dict[str, object] | None = None
    kv_dtype: str | None = None
    """The dtype of the KV cache, where it is not as wide as the weights suggest; a key of our catalogue."""


class _Attention(msgspec.Struct, frozen=True, kw_only=True):
    parameters: int
    """The parameters of one layer."""
    kv_heads: int
    kv_values: int
    query_dim: int
    latent_dim: int


def shape(name: str, config: Mapping[str, object], dtype: str | None, where: str) -> ModelShape:
    """Return the shape of a model. `dtype`: that of its weights, where not the config's own. Raises ConfigError."""
    read = _config(config, where)
    attention = _latent(read) if read.kv_lora_rank else _grouped(read)
    expert = 3 * read.hidden_size * (read.moe_intermediate_size or read.intermediate_size)
    sparse = read.num_hidden_layers - read.first_k_dense_replace if read.num_experts else 0
    shared = 3 * read.hidden_size * read.shared_expert_intermediate_size + expert * (read.n_shared_experts or 0)
    routed = sparse * read.num_experts * expert
    every_token = sparse * (shared + read.hidden_size * read.num_experts)
    dense = (read.num_hidden_layers - sparse) * 3 * read.hidden_size * read.intermediate_size
    vocabulary = read.vocab_size * read.hidden_size
    weights = dtype or _dtype(read, where)
    return ModelShape(
        name=name,
        layers=read.num_hidden_layers,
        hidden=read.hidden_size,
        parameters=routed + every_token + dense + read.num_hidden_layers * attention.parameters + vocabulary,
        embedding_parameters=0 if read.tie_word_embeddings else vocabulary,
        expert_parameters=routed,
        experts=read.num_experts,
        experts_used=read.num_experts_per_tok,
        heads=read.num_attention_heads,
        kv_heads=attention.kv_heads,
        kv_values=attention.kv_values,
        latent=read.kv_lora_rank is not None,
        query_dim=attention.query_dim,
        latent_dim=attention.latent_dim,
        weight_dtype=weights,
        kv_dtype=read.kv_dtype or ("bfloat16" if weights == "bfloat16" else "fp8"),
    )


def _config(config: Mapping[str, object], where: str) -> Config:
    text = config.get("text_config")
    flat = {**config, **text} if isinstance(text, dict) else dict(config)
    for name in EXPERTS:
        if flat.get(name):
            flat["num_experts"] = flat[name]
    try:
        read = msgspec.convert({key: value for key, value in flat.items() if value is not None}, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}: not the config.json of a decoder with known layers") from error
    if read.num_experts and not 0 < read.num_experts_per_tok <= read.num_experts:
        raise ConfigError(f"{where}: {read.num_experts} experts, but num_experts_per_tok is {read.num_experts_per_tok}")
    return read


def _grouped(read: Config) -> _Attention:
    dim = read.head_dim or read.hidden_size // read.num_attention_heads
    kv_heads = read.num_key_value_heads or read.num_attention_heads
    parameters = 2 * read.hidden_size * dim * (read.num_attention_heads + kv_heads)
    return _Attention(
        parameters=parameters, kv_heads=kv_heads, kv_values=2 * kv_heads * dim, query_dim=dim, latent_dim=0
    )


def _latent(read: Config) -> _Attention:
    heads, rank, rotated = read.num_attention_heads, read.kv_lora_rank or 0, read.qk_rope_head_dim
    key = read.qk_nope_head_dim + rotated
    query = read.hidden_size * heads * key
    if read.q_lora_rank:
        query = read.q_lora_rank * (read.hidden_size + heads * key)
    down = read.hidden_size * (rank + rotated)
    up = rank * heads * (read.qk_nope_head_dim + read.v_head_dim)
    out = heads * read.v_head_dim * read.hidden_size
    parameters = query + down + up + out
    return _Attention(
        parameters=parameters,
        kv_heads=1,
        kv_values=rank + rotated,
        query_dim=(key + read.v_head_dim) // 2,
        latent_dim=(2 * rank + rotated) // 2,
    )


def _dtype(read: Config, where: str) -> str:
    if read.quantization_config is None:
        return "bfloat16"
    method = str(read.quantization_config.get("quant_method") or read.quantization_config.get("quant_algo")).lower()
    if method not in QUANTISED:
        raise ConfigError(
            f"{where}: quantization {method!r} is unknown; say -bf16, -fp8 or -fp4 behind the model's name"
        )
    return QUANTISED[method]
