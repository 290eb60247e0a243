"""The contract between a scheduler and an engine: one `Step` in, one `StepDone` out, in order.

The engine keeps, per lane, the sequence's token history (prompt, then output, appended by itself as it samples) and its
block table; a step carries only what changed. That makes run-ahead natural: a step may be handed over while the one
before it runs, and a decode feeds the lane's own last sample, which the scheduler has not seen yet.

Order inside a step: `closed`, `opened`, `tables`, then the forward pass over `prefills` and `decodes` together (all
new KV of a layer is written before any attention of that layer reads, so sequences of one step may share blocks that
this very step fills).
"""

import msgspec

from jedlik.core.ids import BlockIndex, Lane
from jedlik.core.requests import Sampling


class Open(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A sequence takes a lane: fresh, or with `output`: migrated from elsewhere or resumed after preemption."""

    lane: Lane
    prompt: bytes
    output: bytes
    """Output tokens that exist already, packed: they count for penalties, positions and seeds."""
    sampling: Sampling
    choice: int
    banned_until: int
    """`banned` can't be drawn while the output is shorter than this (min_tokens)."""
    banned: tuple[int, ...]
    """EOS and stop tokens, where min_tokens asks for it; else empty."""


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """Prefill of history[start : start + length] of a lane. Positions below `start` are in its blocks already."""

    lane: Lane
    start: int
    length: int
    sample: bool
    """True for the chunk that reaches the end of the history: draw the next token from its last logits."""


class Step(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A step is one forward pass."""

    step_id: int
    """Step ids are consecutive from 1."""
    closed: list[Lane]
    opened: list[Open]
    tables: list[tuple[Lane, list[BlockIndex]]]
    """Blocks appended to lanes' tables. Block i of a table holds positions i*block_size ... (i+1)*block_size - 1."""
    prefills: list[Chunk]
    decodes: list[Lane]
    """Lanes that compute one token: the last of their history. Each samples."""
    decode_context: int
    """Sum of history lengths over `decodes`, tokens: what a performance model needs."""
    predicted_s: float | None = None
    """The time that the scheduler expects, None while nothing is known. It is for watchdogs, not for the engine."""
    repeat: int = 1
    """A leap: so many decode steps in a row over the same lanes, each of which appends one token. Only engines of
    simulations are given leaps; tables then name the blocks of the first step only."""


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities at one position."""

    logprob: float
    """The log-probability of the token at this position."""
    rank: int
    """1 is the most likely."""
    top: list[tuple[int, float]]
    """(token id, logprob), most likely first; as many as were asked for."""


class StepDone(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The tokens that a step drew: columns over the lanes that sampled, prefills' first in order, then decodes' in
    theirs.

    A leap that ran `steps` steps has so many tokens in a row for each lane.
    """

    step_id: int
    lanes: list[Lane]
    tokens: list[int]
    elapsed_s: float
    """Time the engine worked on this step."""
    logprobs: dict[int, TokenLogprobs] = {}
    """Log-probabilities by lane; only lanes that asked have some."""
    prompt_logprobs: dict[int, list[TokenLogprobs]] = {}
    """Prompt log-probabilities by lane that asked, for positions start+1 ... start+length of its chunk, as far as they
    lie in the prompt."""
    error: str | None = None
    """The step failed as a whole: nothing was drawn, the engine must not be used again."""
    steps: int = 1
    """The steps of a leap that ran before it was ended; 1 <= steps <= repeat."""
