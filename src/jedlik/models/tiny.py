"""Random models small enough for tests, with a real tokenizer: same bytes on every machine.

`tiny-random` is a Llama written without torch, so a machine without it can still serve the simulated engine.
The other architectures are written by `tiny_torch` in a process of its own.
"""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jedlik.models import tiny_tokenizer

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MIDDLE, CONTEXT = 2, 64, 4, 2, 16, 128, 2048
SEED = 1861
SPREAD = 0.3
"""The standard deviation of the weights: large enough that greedy text is not one token repeated."""

CONFIG: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32",
    "vocab_size": tiny_tokenizer.VOCAB_SIZE, "hidden_size": HIDDEN, "intermediate_size": MIDDLE,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
    "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": tiny_tokenizer.END_ID, "pad_token_id": 0,
}  # fmt: skip


def write(folder: Path) -> None:
    """Write the whole model directory (0.6 MB)."""
    tiny_tokenizer.write(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))
    generation = {"eos_token_id": tiny_tokenizer.END_ID, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "model.safetensors").write_bytes(safetensors(_weights()))


def _weights() -> dict[str, npt.NDArray[np.float32]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (tiny_tokenizer.VOCAB_SIZE, HIDDEN)}
    for layer in range(LAYERS):
        block = f"model.layers.{layer}"
        shapes[f"{block}.self_attn.q_proj.weight"] = (HEADS * HEAD_DIM, HIDDEN)
        shapes[f"{block}.self_attn.k_proj.weight"] = (KV_HEADS * HEAD_DIM, HIDDEN)
        shapes[f"{block}.self_attn.v_proj.weight"] = (KV_HEADS * HEAD_DIM, HIDDEN)
        shapes[f"{block}.self_attn.o_proj.weight"] = (HIDDEN, HEADS * HEAD_DIM)
        shapes[f"{block}.mlp.gate_proj.weight"] = (MIDDLE, HIDDEN)
        shapes[f"{block}.mlp.up_proj.weight"] = (MIDDLE, HIDDEN)
        shapes[f"{block}.mlp.down_proj.weight"] = (HIDDEN, MIDDLE)
        shapes[f"{block}.input_layernorm.weight"] = (HIDDEN,)
        shapes[f"{block}.post_attention_layernorm.weight"] = (HIDDEN,)
    shapes["model.norm.weight"] = (HIDDEN,)
    # Philox's raw words are fixed by its definition; numpy's normal() may change between releases.
    words = np.random.Philox(SEED)
    return {name: _values(words, shape) for name, shape in shapes.items()}


def _values(words: np.random.Philox, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    unit = words.random_raw(int(np.prod(shape))).astype(np.float64) * 2.0**-64 - 0.5
    scaled: npt.NDArray[np.float32] = (unit * (12.0**0.5 * SPREAD)).astype(np.float32)
    return scaled.reshape(shape)


def safetensors(tensors: dict[str, npt.NDArray[np.float32]]) -> bytes:
    """Return a safetensors file: length of header (8 bytes, little endian) | JSON header | data."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(value.tobytes() for value in tensors.values())
