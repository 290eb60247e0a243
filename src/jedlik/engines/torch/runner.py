"""Runs steps: lanes and tables, one forward pass, the draw. Calls block and come in order from one thread.

A failed step leaves lanes in an unknown state: the caller must not run another.
"""

import math
import time
from contextlib import AbstractContextManager, nullcontext

import msgspec
import numpy as np
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from jedlik.core.errors import ConfigError
from jedlik.core.ids import Lane
from jedlik.core.requests import Sampling
from jedlik.core.step import Chunk, Open, Step, StepDone, TokenLogprobs
from jedlik.core.tokens import pack
from jedlik.engines.torch.attention import Paged, Rows
from jedlik.engines.torch.batch import ROWS_BELOW, TokenBatch, build
from jedlik.engines.torch.lanes import Lanes, Longs
from jedlik.engines.torch.logprobs import of_rows
from jedlik.engines.torch.pool import KvPool
from jedlik.engines.torch.sampler import Sampler
from jedlik.engines.torch.weights import CausalLM

EVERY_LENGTH = 1 << 30
ROWS = 32
"""Matrix products of deterministic engines are computed in blocks of this many rows.

BLAS picks its kernel, and with it the order of additions, by the shape. With blocks of one size, the last one padded, a
row's sum is always taken by the same kernel and does not depend on how many other rows there are.
"""


class Runner:
    """Runs one model on one pool. `shapes`: a context that makes matrix products independent of the batch, or None."""

    def __init__(
        self, model: CausalLM, pool: KvPool, lanes: Lanes, sampler: Sampler, rows: Rows,
        shapes: AbstractContextManager[object] | None = None,
    ) -> None:  # fmt: skip
        self._model = model
        self._pool = pool
        self._lanes = lanes
        self._sampler = sampler
        self._rows = rows
        self._shapes = shapes
        self._rows_below = ROWS_BELOW if shapes is None else EVERY_LENGTH
        self._prompt_wanted: dict[Lane, int] = {}

    @torch.inference_mode()
    def run(self, step: Step) -> StepDone:
        """Run one step, from the lanes that close to the tokens drawn."""
        began = time.perf_counter()
        self._prepare(step)
        batch = build(step, self._lanes, frozenset(self._prompt_wanted), self._rows_below)
        if not len(batch.ids):
            return StepDone(step_id=step.step_id, lanes=[], tokens=[], elapsed_s=time.perf_counter() - began)
        sampled, prompt = self._forward(batch)
        lanes, tokens, logprobs = batch.sampled_lane, np.zeros(0, np.int64), dict[int, TokenLogprobs]()
        if len(lanes):
            tokens, logprobs = self._sampler.draw(sampled, lanes, self._lanes.output_length(lanes))
            self._lanes.append(lanes, tokens)
        prompt_logprobs = self._prompt_logprobs(batch, prompt) if prompt is not None else {}
        elapsed = time.perf_counter() - began
        return StepDone(
            step_id=step.step_id,
            lanes=[Lane(lane) for lane in lanes.tolist()],
            tokens=tokens.tolist(),
            elapsed_s=elapsed,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )

    def warm_up(self) -> None:
        """Compute a few tokens on the padding block, so that the first request does not pay for lazy preparations.

        A model whose code does not fit our attention fails here, at load, and so does one with damaged weights.
        """
        lane, prompt = Lane(0), pack([0] * (2 * ROWS_BELOW))
        opened = Open(
            lane=lane,
            prompt=prompt,
            output=b"",
            sampling=Sampling(temperature=0.0, logprobs=0),
            choice=0,
            banned_until=0,
            banned=(),
        )
        nothing = Step(step_id=0, closed=[], opened=[], tables=[], prefills=[], decodes=[], decode_context=0)
        chunk = Chunk(lane, 0, 2 * ROWS_BELOW, True)
        done = self.run(msgspec.structs.replace(nothing, opened=[opened], prefills=[chunk]))
        if not math.isfinite(done.logprobs[lane].logprob):
            raise ConfigError(
                "the model computes numbers that are not finite: its weights are damaged, copy them again"
            )
        self.run(msgspec.structs.replace(nothing, decodes=[lane], decode_context=2 * ROWS_BELOW + 1))
        self.run(msgspec.structs.replace(nothing, closed=[lane]))

    def check(self) -> None:
        """Assert the invariants of the state between steps."""
        self._lanes.check()

    def _prepare(self, step: Step) -> None:
        for lane in step.closed:
            self._lanes.close(lane)
            self._sampler.close(lane)
            self._prompt_wanted.pop(lane, None)
        for opened in step.opened:
            self._lanes.open(opened)
            self._sampler.open(opened)
            if opened.sampling.prompt_logprobs is not None:
                self._prompt_wanted[opened.lane] = opened.sampling.prompt_logprobs
        for lane, blocks in step.tables:
            self._lanes.extend(lane, blocks)

    def _forward(self, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the logits of sampling tokens, and of tokens whose successor in the prompt is asked about."""
        device = self._pool.blocks.device
        keep = batch.sampled
        if batch.prompt_spans:
            keep = np.concatenate((keep, *(np.arange(at, at + count) for _, at, count, _ in batch.prompt_spans)))
        elif not len(keep):
            keep = np.zeros(1, np.int64)  # an empty index would mean all tokens to some models
        with self._shapes if self._shapes is not None else nullcontext():
            logits = self._model(
                input_ids=torch.from_numpy(batch.ids).to(device)[None],
                position_ids=torch.from_numpy(batch.positions).to(device)[None],
                logits_to_keep=torch.from_numpy(keep).to(device),
                use_cache=False,
                paged=Paged(self._pool, batch, self._rows),
            ).logits[0]
        count = len(batch.sampled)
        return logits[:count], logits[count:] if batch.prompt_spans else None

    def _prompt_logprobs(self, batch: TokenBatch, logits: torch.Tensor) -> dict[int, list[TokenLogprobs]]:
        found: dict[int, list[TokenLogprobs]] = {}
        row = 0
        for lane, _, count, start in batch.prompt_spans:
            following: Longs = self._lanes.history[lane, start + 1 : start + 1 + count].astype(np.int64)
            found[lane] = of_rows(logits[row : row + count], following, [self._prompt_wanted[lane]] * count)
            row += count
        return found


class FixedShapes(TorchFunctionMode):
    """A mode in which `functional.linear` runs in blocks of `ROWS` rows; all else in a decoder is row by row."""

    def __torch_function__(  # type: ignore[no-untyped-def]
        self, func, types, args=(), kwargs=None
    ):
        """Replace a call of a torch function; see `torch.overrides`."""
        if func is functional.linear:
            return blocked_linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def blocked_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Compute `functional.linear`, ROWS rows at a time."""
    rows = x.reshape(-1, x.shape[-1])
    count = rows.shape[0]
    padded = rows.new_zeros(-(-count // ROWS) * ROWS, x.shape[-1])
    padded[:count] = rows
    parts = [functional.linear(part, weight, bias) for part in torch.split(padded, ROWS)]
    if not parts:
        return x.new_zeros(*x.shape[:-1], weight.shape[0])
    return torch.cat(parts)[:count].reshape(*x.shape[:-1], weight.shape[0])
