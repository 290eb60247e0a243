"""A real model: greedy float32 text equals transformers', shared prefix, chunks and preemption included."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch_driving import Driver, Sequence, engine
from transformers import AutoModelForCausalLM

from jedlik.models.files import list_models

CLOSE, OUTPUT = 1e-3, 12
SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"


@pytest.fixture(scope="module")
def smollm() -> Path:
    known = next(known for known in list_models() if known.name == "smollm2-135m")
    if not known.cached:
        pytest.skip("smollm2-135m is not in the cache: jedlik model add smollm2-135m")
    return known.path


@pytest.mark.model
def test_smollm_equals_generate(smollm: Path) -> None:
    tokenizer = Tokenizer.from_file(str(smollm / "tokenizer.json"))
    asked = ("What is the capital of France?", "Count to ten.")
    texts = [f"{SYSTEM}<|im_start|>user\n{one}<|im_end|>\n<|im_start|>assistant\n" for one in asked]
    sequences = [Sequence(tokenizer.encode(text).ids, OUTPUT) for text in texts]
    Driver(engine(smollm, size_bytes=64 << 20).run, 80).run(sequences, Random(0), chunk=20, preempt=0.05)
    assert tokenizer.decode(sequences[0].output).startswith("The capital of France is Paris.")
    maker: Any = AutoModelForCausalLM
    model = maker.from_pretrained(smollm, dtype=torch.float32)
    for sequence in sequences:
        prompt = torch.tensor([sequence.prompt])
        out = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=OUTPUT, eos_token_id=None,
            pad_token_id=0, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        gaps = [float(two[0] - two[1]) for two in (row[0].topk(2).values for row in out.logits)]
        end = next((i for i, gap in enumerate(gaps) if gap < CLOSE), OUTPUT)
        assert sequence.output[:end] == out.sequences[0, prompt.shape[1] :].tolist()[:end]
