"""A step as flat arrays: every new token of every sequence in one row, prefills first, then decodes.

Two ways to attend: a *span* is a longer run of one sequence, computed as one matrix product; *rows* are single tokens,
each with its own length (decodes, and prefills of a few tokens, such as the one token left after a full prefix hit).
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from jedlik.core.ids import Lane
from jedlik.core.step import Chunk, Step
from jedlik.engines.torch.lanes import Ints, Lanes, Longs

ROWS_BELOW = 4
"""Chunks up to this many tokens are rows, not spans."""


@dataclass(slots=True, kw_only=True)
class Span:
    """A run of one lane's tokens: first ... first + length - 1 of the step, at positions start ... of the lane."""

    first: int
    length: int
    start: int
    lane: int
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)
    """The masks by sliding window; each is made at the first layer that needs it."""


@dataclass(slots=True, kw_only=True)
class TokenBatch:
    """The input of one forward pass: arrays over the step's tokens, unless a field says otherwise."""

    ids: Longs
    positions: Longs
    slot_block: Longs
    slot_offset: Longs
    tables: Ints
    """The tables of all lanes, shared with `Lanes`: valid during the step."""
    spans: list[Span]
    rows: Ints
    """The tokens that are rows; `row_lane` and `row_length` have one entry for each of them."""
    row_lane: Ints
    row_length: Ints
    """The number of keys that a row sees, its own included."""
    sampled: Longs
    """The tokens (of the step) whose logits the sampling lanes draw from."""
    sampled_lane: Longs
    prompt_spans: list[tuple[Lane, int, int, int]]
    """(lane, first token, count, position) of tokens whose next prompt token's log-probability is asked for."""
    indices: "DeviceIndices | None" = None
    """The indices on the model's device; made by the first layer that attends in plain PyTorch."""


@dataclass(slots=True)
class DeviceIndices:
    """A step's indices on the model's device: copied once a step, not once a layer."""

    slots: tuple[torch.Tensor, torch.Tensor]
    rows: torch.Tensor
    tables: torch.Tensor
    """The tables of the rows, [rows, blocks]."""
    lengths: torch.Tensor


def build(step: Step, lanes: Lanes, wants_prompt: frozenset[Lane], rows_below: int = ROWS_BELOW) -> TokenBatch:
    """Lay out a step. `rows_below`: chunks up to this length become rows."""
    decodes = np.asarray(step.decodes, np.int64)
    prefilled = sum(chunk.length for chunk in step.prefills)
    total = prefilled + len(decodes)
    ids, positions, lane_of = (np.empty(total, np.int64) for _ in range(3))
    at = 0
    for chunk in step.prefills:
        end = at + chunk.length
        ids[at:end] = lanes.history[chunk.lane, chunk.start : chunk.start + chunk.length]
        positions[at:end] = np.arange(chunk.start, chunk.start + chunk.length)
        lane_of[at:end] = chunk.lane
        at = end
    last = lanes.length[decodes] - 1
    ids[at:] = lanes.history[decodes, last]
    positions[at:] = last
    lane_of[at:] = decodes
    spans, short, sampled, sampled_lane, prompts = _places(step.prefills, lanes, wants_prompt, rows_below)
    tail = np.arange(prefilled, total)
    rows = np.concatenate((*short, tail)) if short else tail
    return TokenBatch(
        ids=ids,
        positions=positions,
        slot_block=lanes.tables[lane_of, positions // lanes.block_size].astype(np.int64),
        slot_offset=positions % lanes.block_size,
        tables=lanes.tables,
        spans=spans,
        rows=rows.astype(np.int32),
        row_lane=lane_of[rows].astype(np.int32),
        row_length=(positions[rows] + 1).astype(np.int32),
        sampled=np.concatenate((np.asarray(sampled, np.int64), tail)),
        sampled_lane=np.concatenate((np.asarray(sampled_lane, np.int64), decodes)),
        prompt_spans=prompts,
    )


Places = tuple[list[Span], list[Longs], list[int], list[int], list[tuple[Lane, int, int, int]]]


def _places(prefills: list[Chunk], lanes: Lanes, wants_prompt: frozenset[Lane], rows_below: int) -> Places:
    """Return where chunks lie, which of their tokens are rows, and which are sampled or asked about."""
    spans: list[Span] = []
    short: list[Longs] = []
    sampled: list[int] = []
    sampled_lane: list[int] = []
    prompts: list[tuple[Lane, int, int, int]] = []
    at = 0
    for chunk in prefills:
        if chunk.length > rows_below:
            spans.append(Span(first=at, length=chunk.length, start=chunk.start, lane=chunk.lane))
        else:
            short.append(np.arange(at, at + chunk.length))
        if chunk.sample:
            sampled.append(at + chunk.length - 1)
            sampled_lane.append(chunk.lane)
        if chunk.lane in wants_prompt:
            count = min(chunk.length, int(lanes.prompt_length[chunk.lane]) - 1 - chunk.start)
            if count > 0:
                prompts.append((chunk.lane, at, count, chunk.start))
        at += chunk.length
    return spans, short, sampled, sampled_lane, prompts
