"""The same engine on a GPU: greedy text equals the CPU's. Skipped where there is none."""

from pathlib import Path
from random import Random

import pytest
import torch

from jedlik.core.ids import BlockIndex, Lane
from jedlik.core.requests import Sampling
from jedlik.core.step import Chunk, Open, Step
from jedlik.core.tokens import pack
from jedlik.engines.torch.device_region import DeviceRegion
from jedlik.engines.torch.engine import TorchEngine
from jedlik.engines.torch.options import EngineOptions
from jedlik.engines.torch.pool import allocate
from jedlik.models import tiny, tiny_torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def text(path: Path, device: str, sampling: Sampling, prompt: list[int]) -> list[int]:
    options = EngineOptions(cache_dir=str(path), device=device, dtype="float32", max_model_len=256)  # type: ignore[arg-type]
    engine = TorchEngine(path, options, lambda _, where: allocate(1 << 20, where))
    opened = Open(lane=Lane(0), prompt=pack(prompt), output=b"", sampling=sampling, choice=0, banned_until=0, banned=())
    blocks = [BlockIndex(i) for i in range(1, 9)]
    first = Step(
        step_id=1,
        closed=[],
        opened=[opened],
        tables=[(Lane(0), blocks)],
        prefills=[Chunk(Lane(0), 0, 30, False)],
        decodes=[],
        decode_context=0,
    )
    assert engine.run(first).tokens == []
    tokens = engine.run(
        Step(
            step_id=2,
            closed=[],
            opened=[],
            tables=[],
            prefills=[Chunk(Lane(0), 30, len(prompt) - 30, True)],
            decodes=[],
            decode_context=0,
        )
    ).tokens
    for step in range(3, 22):
        tokens += engine.run(
            Step(step_id=step, closed=[], opened=[], tables=[], prefills=[], decodes=[Lane(0)], decode_context=0)
        ).tokens
    return tokens


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3", "mixtral"])
@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), Sampling(seed=4, top_p=0.9, frequency_penalty=0.3)])
def test_gpu_equals_cpu(tmp_path: Path, architecture: str, sampling: Sampling) -> None:
    tiny_torch.write(architecture, tmp_path)
    rng = Random(architecture)
    prompt = [rng.randrange(3, 512) for _ in range(50)]
    assert text(tmp_path, "cuda", sampling, prompt) == text(tmp_path, "cpu", sampling, prompt)


def test_bfloat16_runs(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    engine = TorchEngine(
        tmp_path, EngineOptions(cache_dir=str(tmp_path), device="cuda"), lambda _, where: allocate(1 << 20, where)
    )
    assert engine.facts.layout.dtype == "bfloat16"


def test_blocks_of_a_gpu_are_read_behind_its_steps_and_written_whole() -> None:
    size, blocks = 4096, 10_000
    cache = torch.zeros(size * blocks, dtype=torch.uint8, device="cuda")
    region = DeviceRegion(cache, size)
    for round_number in range(1, 6):
        cache.fill_(round_number)  # queued, perhaps not done: what is read must be what it leaves
        wanted = list(range(0, blocks, 3))
        buffers = [bytearray(size) for _ in wanted]
        region.read(wanted, [memoryview(buffer) for buffer in buffers])
        assert all(buffer == bytes([round_number]) * size for buffer in buffers)
    written = [bytes([number % 251]) * size for number in range(blocks)]
    region.write(list(range(blocks)), [memoryview(block) for block in written])
    assert cache.cpu().numpy().tobytes() == b"".join(written)
