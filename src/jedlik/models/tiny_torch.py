"""Tiny random models of other architectures, by transformers. Imports torch: run it as a process of its own.

Run as `python -m jedlik.models.tiny_torch gemma3 FOLDER`.
"""

import sys
from pathlib import Path
from typing import Any

from jedlik.models import tiny_tokenizer
from jedlik.models.tiny import CONTEXT, SEED, SPREAD

_COMMON: dict[str, object] = {
    "vocab_size": tiny_tokenizer.VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
    "bos_token_id": None, "eos_token_id": tiny_tokenizer.END_ID, "pad_token_id": 0, "initializer_range": SPREAD,
}  # fmt: skip
# Untied: Gemma scales its embeddings up, and tied random ones then repeat one token for ever.
_GEMMA: dict[str, object] = {
    "tie_word_embeddings": False, "head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 16,
}  # fmt: skip
_MOE: dict[str, object] = {"moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}
ARCHITECTURES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("LlamaConfig", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    "gemma2": ("Gemma2Config", _GEMMA),
    "gemma3": ("Gemma3TextConfig", {**_GEMMA, "layer_types": ["sliding_attention", "full_attention"]}),
    "mistral": ("MistralConfig", {"sliding_window": 24, "head_dim": 16}),
    "phi": ("PhiConfig", {"num_key_value_heads": 4}),
    "phi3": ("Phi3Config", {"sliding_window": None}),
    "qwen3-moe": ("Qwen3MoeConfig", _MOE),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}),
}  # fmt: skip


def write(architecture: str, folder: Path) -> None:
    """Write a model directory."""
    import torch
    import transformers

    name, settings = ARCHITECTURES[architecture]
    config: Any = getattr(transformers, name)(**{**_COMMON, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        maker: Any = transformers.AutoModelForCausalLM
        model = maker.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tiny_tokenizer.write(folder)


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
