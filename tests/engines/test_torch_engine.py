"""The engine's contract: columns in order, its own thread, log-probabilities, the dead token, failure told once."""

import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch_driving import GREEDY, Driver, Sequence, engine
from transformers import AutoModelForCausalLM

from jedlik.core.errors import Bug, ConfigError
from jedlik.core.ids import BlockIndex, Lane
from jedlik.core.requests import Sampling
from jedlik.core.step import Chunk, Open, Step, StepDone
from jedlik.core.tokens import pack
from jedlik.engines.torch.engine import TorchEngine
from jedlik.engines.torch.options import EngineOptions
from jedlik.models import info, tiny

PROMPT = list(range(10, 45))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.write(folder)
    return folder


def opened(lane: int, sampling: Sampling = GREEDY, output: bytes = b"") -> Open:
    return Open(
        lane=Lane(lane), prompt=pack(PROMPT), output=output, sampling=sampling, choice=0, banned_until=0, banned=()
    )


def table(lane: int, first: int, count: int = 4) -> tuple[Lane, list[BlockIndex]]:
    return Lane(lane), [BlockIndex(first + i) for i in range(count)]


def test_columns_are_prefills_that_sample_then_decodes(model: Path) -> None:
    under_test = engine(model)
    first = under_test.run(
        Step(step_id=1, closed=[], opened=[opened(2), opened(5)], tables=[table(2, 1), table(5, 5)], prefills=[
            Chunk(Lane(2), 0, 35, True), Chunk(Lane(5), 0, 10, False)], decodes=[], decode_context=0)
    )  # fmt: skip
    assert (first.lanes, len(first.tokens), first.error) == ([2], 1, None)
    second = under_test.run(
        Step(
            step_id=2,
            closed=[],
            opened=[],
            tables=[],
            prefills=[Chunk(Lane(5), 10, 25, True)],
            decodes=[Lane(2)],
            decode_context=36,
        )
    )
    assert second.lanes == [5, 2]
    assert second.tokens[0] == first.tokens[0]
    assert second.elapsed_s > 0


def test_a_dead_token_after_the_end_hurts_nobody(model: Path) -> None:
    """Run-ahead: lane 0 has ended, is decoded once more, then closed and taken by another sequence."""
    under_test = engine(model)
    done = under_test.run(
        Step(
            step_id=1,
            closed=[],
            opened=[opened(0)],
            tables=[table(0, 1)],
            prefills=[Chunk(Lane(0), 0, 35, True)],
            decodes=[],
            decode_context=0,
        )
    )
    under_test.run(Step(step_id=2, closed=[], opened=[], tables=[], prefills=[], decodes=[Lane(0)], decode_context=36))
    again = under_test.run(
        Step(
            step_id=3,
            closed=[Lane(0)],
            opened=[opened(0)],
            tables=[table(0, 9)],
            prefills=[Chunk(Lane(0), 0, 35, True)],
            decodes=[],
            decode_context=0,
        )
    )
    assert again.tokens == done.tokens
    under_test.check()


def test_a_history_up_to_the_limit_and_one_dead_token_fit(model: Path) -> None:
    under_test = engine(model)
    prompt = [7] * 511
    start = Open(lane=Lane(0), prompt=pack(prompt), output=b"", sampling=GREEDY, choice=0, banned_until=0, banned=())
    step = Step(
        step_id=1,
        closed=[],
        opened=[start],
        tables=[table(0, 1, 32)],
        prefills=[Chunk(Lane(0), 0, 511, True)],
        decodes=[],
        decode_context=0,
    )
    assert len(under_test.run(step).tokens) == 1
    assert (
        len(
            under_test.run(
                Step(step_id=2, closed=[], opened=[], tables=[], prefills=[], decodes=[Lane(0)], decode_context=512)
            ).tokens
        )
        == 1
    )
    assert (
        len(
            under_test.run(
                Step(step_id=3, closed=[], opened=[], tables=[], prefills=[], decodes=[Lane(0)], decode_context=513)
            ).tokens
        )
        == 1
    )


@pytest.mark.parametrize("chunk", [3, 40])
def test_prompt_logprobs_equal_a_plain_forward(model: Path, chunk: int) -> None:
    under_test = engine(model)
    asked = Sequence(PROMPT, 2, Sampling(temperature=0.0, prompt_logprobs=2, logprobs=1))
    Driver(under_test.run, 100).run([asked, Sequence(PROMPT[:9], 5)], random.Random(0), chunk=chunk, preempt=0.2)
    maker: Any = AutoModelForCausalLM
    plain = maker.from_pretrained(model, dtype=torch.float32)(torch.tensor([PROMPT]))
    log = plain.logits[0].detach().log_softmax(-1)
    assert sorted(asked.prompt_told) == list(range(1, len(PROMPT)))
    for position, told in asked.prompt_told.items():
        row = log[position - 1]
        assert told.logprob == pytest.approx(float(row[PROMPT[position]]), abs=2e-4)
        assert [token for token, _ in told.top] == row.topk(2).indices.tolist()
    assert asked.told[0].logprob == pytest.approx(float(log[-1].max()), abs=2e-4)
    assert asked.told[0].rank == 1


def test_resumed_output_continues_the_same_text(model: Path) -> None:
    """A migrated sequence: the first tokens come with it, penalties and seeds go on counting from there."""
    sampling = Sampling(seed=9, frequency_penalty=0.5, presence_penalty=0.2, repetition_penalty=1.1, top_p=0.95)
    whole = Sequence(PROMPT, 20, sampling)
    Driver(engine(model).run, 50).run([whole], random.Random(0))
    moved = Sequence(PROMPT, 20, sampling, output=whole.output[:8])
    Driver(engine(model).run, 50).run([moved], random.Random(1))
    assert moved.output == whole.output


def test_steps_run_in_order_on_one_other_thread(model: Path) -> None:
    under_test = engine(model)
    told: list[tuple[int, int]] = []
    enough = threading.Event()

    def on_done(done: StepDone) -> None:
        told.append((done.step_id, threading.get_ident()))
        if done.step_id == 5:
            enough.set()

    under_test.start(on_done)
    under_test.submit(
        Step(
            step_id=1,
            closed=[],
            opened=[opened(0)],
            tables=[table(0, 1)],
            prefills=[Chunk(Lane(0), 0, 35, True)],
            decodes=[],
            decode_context=0,
        )
    )
    for i in range(2, 6):
        under_test.submit(
            Step(step_id=i, closed=[], opened=[], tables=[], prefills=[], decodes=[Lane(0)], decode_context=0)
        )
    assert enough.wait(20)
    under_test.close()
    assert [step for step, _ in told] == [1, 2, 3, 4, 5]
    assert len({thread for _, thread in told} - {threading.get_ident()}) == 1


def test_a_failed_step_is_told_and_so_is_every_later_one(model: Path) -> None:
    under_test = engine(model)
    told: list[StepDone] = []
    under_test.start(told.append)
    under_test.submit(
        Step(step_id=1, closed=[Lane(3)], opened=[], tables=[], prefills=[], decodes=[], decode_context=0)
    )
    under_test.submit(
        Step(step_id=2, closed=[], opened=[opened(0)], tables=[], prefills=[], decodes=[], decode_context=0)
    )
    under_test.close()
    assert [done.step_id for done in told] == [1, 2]
    assert all(done.error is not None and "lane 3 closed but not open" in done.error for done in told)


def test_started_twice_is_a_bug(model: Path) -> None:
    under_test = engine(model)
    under_test.start(lambda done: None)
    with pytest.raises(Bug):
        under_test.start(lambda done: None)
    under_test.close()


def test_layout_is_what_the_info_says_without_torch(model: Path) -> None:
    facts = engine(model).facts
    assert facts.layout == info.layout(info.read(model), "float32", 16)
    assert facts.total_blocks == (4 << 20) // info.block_bytes(facts.layout)
    assert facts.vocab_size == 512


def test_loading_says_how_far_it_is_and_what_is_wrong(model: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    options = EngineOptions(cache_dir=str(tmp_path), device="cpu", dtype="float32")
    TorchEngine(model, options, lambda _l, _d: bytearray(1 << 20), lambda done, total: seen.append((done, total)))
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1] > 0
    with pytest.raises(ConfigError, match=r"no config\.json"):
        TorchEngine(tmp_path, options, lambda _l, _d: bytearray(1 << 20))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_says_what_to_do(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--device cpu"):
        TorchEngine(model, EngineOptions(cache_dir=str(tmp_path), device="cuda"), lambda _l, _d: bytearray(1 << 20))


def test_bfloat16_runs_by_the_same_path(model: Path) -> None:
    under_test = engine(model, dtype="bfloat16")
    both = [Sequence(PROMPT, 8), Sequence(PROMPT, 8)]
    Driver(under_test.run, 100).run(both, random.Random(0))
    assert len(both[0].output) == 8


def spoilt(model: Path, tmp_path: Path, change: Callable[[dict[str, np.ndarray[Any, Any]]], object]) -> Path:
    """A copy of a model with other weights."""
    folder = Path(shutil.copytree(model, tmp_path / "spoilt"))
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    (folder / "model.safetensors").write_bytes(tiny.safetensors(tensors))
    return folder


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: tensors.pop(UP), f"lack {UP}"),
        (lambda tensors: tensors.update({UP: tensors[UP][:, :9].copy()}), rf"{UP} has the shape \[128, 9\]"),
        (lambda tensors: tensors.update({UP: tensors[UP] * np.nan}), "not finite"),
        (lambda tensors: tensors.update({UP: tensors[UP] * np.inf}), "not finite"),
    ],
)
def test_weights_that_are_not_the_model_s_are_refused_at_load(
    model: Path, tmp_path: Path, change: Callable[[dict[str, np.ndarray[Any, Any]]], object], says: str
) -> None:
    """transformers would make up what is missing, and serve it."""
    with pytest.raises(ConfigError, match=says):
        engine(spoilt(model, tmp_path, change))
