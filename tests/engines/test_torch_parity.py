"""Greedy text equals transformers' `generate`, token for token, whatever the scheduler did on the way.

Equal means: up to the first position where the reference's two best logits differ by less than 1e-3.
"""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_driving import Driver, Sequence, engine
from transformers import AutoModelForCausalLM

from jedlik.core.requests import Sampling
from jedlik.models import tiny_torch

CLOSE = 1e-3
OUTPUT = 24
ARCHITECTURES = sorted(tiny_torch.ARCHITECTURES)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp(name) for name in ARCHITECTURES}
    for name, folder in folders.items():
        tiny_torch.write(name, folder)
    return folders


def prompts(rng: random.Random) -> list[list[int]]:
    """Eight prompts; half of them begin alike for 40 tokens, which is more than two blocks."""
    stem = [rng.randrange(3, 512) for _ in range(40)]
    lengths = (3, 17, 33, 70)
    fresh = [[rng.randrange(3, 512) for _ in range(n)] for n in lengths]
    return fresh + [stem + [rng.randrange(3, 512) for _ in range(n)] for n in lengths]


def reference(path: Path, prompt: list[int]) -> tuple[list[int], int | None]:
    """generate's tokens, and the first position whose two best logits are close."""
    maker: Any = AutoModelForCausalLM
    model = maker.from_pretrained(path, dtype=torch.float32)
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64), do_sample=False,
        max_new_tokens=OUTPUT, eos_token_id=None, pad_token_id=0, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    best = [row[0].topk(2).values for row in out.logits]
    close = [i for i, two in enumerate(best) if two[0] - two[1] < CLOSE]
    return out.sequences[0, len(prompt) :].tolist(), close[0] if close else None


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_generate_with_sharing_chunks_preemption_and_mixing(
    models: dict[str, Path], architecture: str, native: bool
) -> None:
    rng = random.Random(architecture)
    sequences = [Sequence(prompt, OUTPUT) for prompt in prompts(rng)]
    under_test = engine(models[architecture], native=native)
    assert under_test.facts.attention == ("native" if native else "torch")
    Driver(under_test.run, 200).run(sequences, rng, preempt=0.05)
    under_test.check()
    assert sum(s.shared for s in sequences) > 0
    assert sum(s.preempted for s in sequences) > 0
    compared = 0
    for sequence in sequences:
        want, close = reference(models[architecture], sequence.prompt)
        assert sequence.output[:close] == want[:close]
        compared += OUTPUT if close is None else close
    assert compared > OUTPUT * len(sequences) // 2, "too many near-ties for the test to mean anything"


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mixtral", "qwen3-moe"])
def test_deterministic_is_bit_identical_alone_and_in_company(
    models: dict[str, Path], architecture: str, native: bool
) -> None:
    """Log-probabilities are compared exactly: any different order of additions would show."""
    sampling = Sampling(temperature=0.8, seed=5, logprobs=3)
    under_test = engine(models[architecture], native=native, deterministic=True)
    driver = Driver(under_test.run, 400)
    together = [Sequence(prompt, 10, sampling) for prompt in prompts(random.Random(1))]
    driver.run(together, random.Random(2), chunk=23, preempt=0.05)
    driver.share = False
    for sequence in together[2::3]:
        alone = Sequence(sequence.prompt, 10, sampling)
        driver.run([alone], random.Random(3), chunk=512)
        assert alone.output == sequence.output
        assert alone.told == sequence.told


def test_seeded_draws_survive_batching_and_preemption(models: dict[str, Path]) -> None:
    under_test = engine(models["llama"])
    driver = Driver(under_test.run, 400)
    many = [Sequence(p, 12, Sampling(seed=i, top_p=0.9)) for i, p in enumerate(prompts(random.Random(4)))]
    driver.run(many, random.Random(5), preempt=0.1)
    for i, sequence in enumerate(many):
        alone = Sequence(sequence.prompt, 12, Sampling(seed=i, top_p=0.9))
        driver.run([alone], random.Random(6))
        assert alone.output == sequence.output
