"""Fetch or recompute: which of a prompt's blocks to bring from lower tiers, and which to compute, by arithmetic.

Minimises the time until a prompt is prefilled: moving, behind what moves already, plus prefill of the rest. A part must
earn more than it may lose: a share of the prefill that it saves, and a moment, count as nothing. So what is fetched is
not slower than computing it, as far as costs are known. Not here: what tiers hold, carrying, deadlines.
"""

from collections.abc import Iterator, Sequence
from math import inf
from typing import NamedTuple

from jedlik.core.protocol import StepCosts
from jedlik.perf.paths import Paths
from jedlik.perf.step import prefill_s

LEAST_GAIN_SHARE = 0.1
"""The share of the prefill that a part saves which counts as nothing."""
LEAST_GAIN_S = 0.001
"""The seconds that each part must save before it counts."""
ASSUMED_TOKENS_S = 30_000.0
"""The prefill speed that is assumed where step costs are unknown, tokens per second.

It is about that of the fastest engines, so that slow tiers are left alone.
"""
ASSUMED_HOST_BYTE_S = 1 / 4e9
"""The seconds per byte that are assumed for host memory where its path was not measured.

Other tiers' paths are not used before something is known of them.
"""
HOST = "host"


class Depth(NamedTuple):
    """A tier holds the chain's first `blocks`; `path` leads there."""

    path: str
    blocks: int


class Part(NamedTuple):
    """Blocks [first, last) of the chain, to be brought by `path`."""

    path: str
    first: int
    last: int


def plan(  # noqa: PLR0913 - plain figures, from four owners
    device_blocks: int,
    depths: Sequence[Depth],
    known_tokens: int,
    *,
    block_size: int,
    block_bytes: int,
    costs: StepCosts | None,
    paths: Paths,
    now: float,
    max_step_tokens: int,
) -> list[Part]:
    """Return what to bring, in chain order without gaps, beginning after what the device holds; empty: compute all.

    `depths` are given nearest tier first; ties go to the nearer. The last token is always computed. Where step costs
    are unknown (None) host memory is used, and a slower tier where it beats the fastest of engines.
    """
    most = (known_tokens - 1) // block_size
    tiers = [
        Depth(path, min(blocks, most))
        for path, blocks in depths
        if min(blocks, most) > device_blocks and paths.usable(path, now)
    ]
    if not tiers:
        return []
    tiers.sort(key=lambda tier: tier.blocks)  # stable: nearer first among equals
    assumed = StepCosts(
        base_s=0.0, prefill_token_s=1 / ASSUMED_TOKENS_S, prefill_pair_s=0.0, decode_sequence_s=0.0, context_token_s=0.0
    )
    prompt = Prompt(known_tokens, block_size, costs or assumed, max_step_tokens)
    best, best_gain_s = list[Part](), 0.0
    for parts in _ways(prompt, tiers, device_blocks):
        gain_s = (1 - LEAST_GAIN_SHARE) * (prompt.prefill_s(device_blocks) - prompt.prefill_s(parts[-1].last))
        for part in parts:
            free = costs is None and part.path == HOST
            gain_s -= LEAST_GAIN_S + (0.0 if free else _moving_s(paths, part, block_bytes))
        if gain_s > best_gain_s:
            best, best_gain_s = parts, gain_s
    return best


class Prompt(NamedTuple):
    """A prompt that is to be prefilled, and what that takes."""

    known_tokens: int
    block_size: int
    costs: StepCosts
    max_step_tokens: int

    def prefill_s(self, blocks: int) -> float:
        """Return the seconds to prefill all tokens after the first `blocks`."""
        cached = blocks * self.block_size
        return prefill_s(self.costs, self.known_tokens - cached, cached, self.max_step_tokens)

    def cuts(self, first: int, last: int) -> Iterator[int]:
        """Iterate over where a part that begins at `first` might best end, if its tier holds the blocks before `last`.

        Each block takes as long to move, and saves more prefill than the one before it: so either all or none are best,
        but for what each step takes at least. For that, as little as saves one step, and as much as saves another.
        """
        yield last
        fewest = self.steps(first) - 1, self.steps(last)
        for cut in sorted(
            {-(-(self.known_tokens - steps * self.max_step_tokens) // self.block_size) for steps in fewest}
        ):
            if first < cut < last:
                yield cut

    def steps(self, blocks: int) -> int:
        """Return the number of steps that prefill all tokens after the first `blocks`."""
        return -(-(self.known_tokens - blocks * self.block_size) // self.max_step_tokens)


def _ways(prompt: Prompt, tiers: Sequence[Depth], first: int) -> Iterator[list[Part]]:
    """The ways worth looking at to bring blocks from `first` on: of each tier a part or nothing, shallow ones first."""
    if not tiers:
        return
    (path, blocks), deeper = tiers[0], tiers[1:]
    if blocks > first:
        for cut in prompt.cuts(first, blocks):
            part = Part(path, first, cut)
            yield [part]
            if cut == blocks:
                for rest in _ways(prompt, deeper, cut):
                    yield [part, *rest]
    yield from _ways(prompt, deeper, first)


def _moving_s(paths: Paths, part: Part, block_bytes: int) -> float:
    """What a part takes to be brought, behind what moves on its path already."""
    blocks = part.last - part.first
    seconds = paths.seconds(part.path, blocks, blocks * block_bytes)
    if seconds is not None:
        return seconds
    return blocks * block_bytes * ASSUMED_HOST_BYTE_S if part.path == HOST else inf
