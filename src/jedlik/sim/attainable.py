"""The requests that can keep their time to first token at all: on an idle worker, with everything cached that was ever
computed.

What a prompt shares with earlier ones is a bound from above: pieces are looked at a few at a time, and whether they
follow each other as they did is not asked. Exact for traces whose ids are chained, and for generators.
"""

from bisect import bisect_right
from collections.abc import Sequence

from jedlik.perf.model import StepModel
from jedlik.perf.step import StepShape, chunk_pairs
from jedlik.sim.workload.offered import OfferedText

GRAIN_TOKENS = 64
"""Pieces shorter than this are looked at together."""
LONGEST = 1 << 24


class Shared:
    """The prompts of the workload so far."""

    def __init__(self) -> None:
        self._seen: dict[int, set[int]] = {}
        """Pieces by space."""

    def tokens(self, text: OfferedText) -> int:
        """Return how much of this prompt, at most, any earlier one had begun with, and add it to the earlier ones."""
        seen = self._seen.setdefault(text.space, set())
        grain = max(1, GRAIN_TOKENS // text.piece_tokens)
        ids = text.ids if grain == 1 else text.ids[::grain]
        known = 0
        for piece in ids:
            if piece not in seen:
                break
            known += 1
        seen.update(ids[known:])
        return min(known * grain * text.piece_tokens, text.tokens - 1)


class Alone:
    """Prefills on idle workers: the fastest of these models, in chunks."""

    def __init__(self, models: Sequence[StepModel], max_step_tokens: int, limit_s: float) -> None:
        self._models, self._chunk, self._limit_s = models, max_step_tokens, limit_s
        self._surely = bisect_right(range(LONGEST), False, key=lambda tokens: self.prefill_s(tokens, 0) > limit_s) - 1
        """The longest prompt of which nothing needs to be cached."""

    def attainable(self, prompt_tokens: int, shared_tokens: int) -> bool:
        """Whether the limit can be kept."""
        return (
            prompt_tokens <= self._surely
            or self.prefill_s(prompt_tokens - shared_tokens, shared_tokens) <= self._limit_s
        )

    def prefill_s(self, tokens: int, cached: int) -> float:
        """Time to prefill so many tokens after those that are cached."""
        return min(self._one_s(model, tokens, cached) for model in self._models)

    def _one_s(self, model: StepModel, tokens: int, cached: int) -> float:
        total_s = 0.0
        while tokens > 0 and total_s <= self._limit_s:
            chunk = min(tokens, self._chunk)
            total_s += model.step_s(StepShape(chunk, chunk_pairs(cached, chunk), 0, 0))
            cached, tokens = cached + chunk, tokens - chunk
        return total_s
