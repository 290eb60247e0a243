"""What a PyTorch engine is told at start, and what it tells about itself. Imports no torch: a gateway may read this."""

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
    """How to run a model. Sizes in tokens or counts."""

    cache_dir: str
    """Where the compiled CPU kernel is kept."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    block_size: int = 16
    max_sequences: int = 64
    max_model_len: int = 2048
    """Prompt plus output."""
    threads: int = 1
    """Compute threads on a CPU."""
    deterministic: bool = False
    """Fixed shapes: a sequence's tokens don't depend on what else is in the batch, bit for bit. Slower."""
    native: bool = True
    """On a CPU: use the compiled attention kernel and packed weights where they can be had."""


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker's card needs to know of a loaded engine."""

    layout: Layout
    total_blocks: int
    """The padding block 0 included."""
    vocab_size: int
    device: str
    attention: Literal["native", "torch"]
    """The compiled kernel, or plain PyTorch."""
    parameters: int
    capabilities: Capabilities


def capabilities(deterministic: bool) -> Capabilities:
    """What requests may ask of this engine."""
    return Capabilities(sampling=TAKES_EFFECT, max_logprobs=MAX_LOGPROBS, deterministic=deterministic)


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512-BF16 or AMX); elsewhere float32 is faster."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def dtype_of(dtype: str, device: str) -> Literal["bfloat16", "float32"]:
    """What `auto` means on a device ("cpu" or "cuda")."""
    if dtype == "auto":
        return "bfloat16" if device == "cuda" or fast_bfloat16() else "float32"
    return "float32" if dtype == "float32" else "bfloat16"
