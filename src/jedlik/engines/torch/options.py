"""The options of a PyTorch engine, and its facts once it is loaded. This module imports no torch."""

from pathlib import Path
from typing import Literal

import msgspec

from jedlik.core.protocol import Capabilities, Layout

MAX_LOGPROBS = 20
TAKES_EFFECT = frozenset(
    {
        "seed", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty",
        "presence_penalty", "logit_bias", "logprobs", "prompt_logprobs",
        "max_tokens", "min_tokens", "ignore_eos", "stop_token_ids",
    }
)  # fmt: skip


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options by which an engine runs a model. Sizes are tokens or counts."""

    cache_dir: str
    """The folder of the compiled CPU kernels."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    block_size: int = 16
    max_sequences: int = 64
    max_model_len: int = 2048
    """The largest number of tokens in a sequence, prompt plus output."""
    threads: int = 1
    """The number of compute threads on a CPU."""
    deterministic: bool = False
    """Use fixed shapes: a sequence's tokens don't depend on the rest of the batch, bit for bit. Slower."""
    native: bool = True
    """Use the compiled attention kernel and packed weights on a CPU, where they work."""


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a loaded engine that a worker's card needs."""

    layout: Layout
    total_blocks: int
    """The number of blocks, the padding block 0 included."""
    vocab_size: int
    device: str
    attention: Literal["native", "torch"]
    """The attention in use: the compiled kernel, or plain PyTorch."""
    parameters: int
    capabilities: Capabilities


def capabilities(deterministic: bool) -> Capabilities:
    """Return what requests may ask of this engine."""
    return Capabilities(sampling=TAKES_EFFECT, max_logprobs=MAX_LOGPROBS, deterministic=deterministic)


def fast_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 natively (AVX512-BF16 or AMX); elsewhere float32 is faster."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def dtype_of(dtype: str, device: str) -> Literal["bfloat16", "float32"]:
    """Return the dtype that a setting stands for on a device ("cpu" or "cuda")."""
    if dtype == "auto":
        return "bfloat16" if device == "cuda" or fast_bfloat16() else "float32"
    return "float32" if dtype == "float32" else "bfloat16"
