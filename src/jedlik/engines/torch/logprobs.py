"""Log-probabilities of drawn or given tokens, with their rank and the most likely alternatives."""

from collections.abc import Sequence

import torch

from jedlik.core.step import TokenLogprobs
from jedlik.engines.torch.lanes import Longs

ROWS_AT_ONCE = 64
"""The number of rows in one float32 copy of logits: 64 rows of 262,144 tokens are 67 MB."""


def of_rows(logits: torch.Tensor, tokens: Longs, wanted: Sequence[int]) -> list[TokenLogprobs]:
    """Return for each row of `logits` [rows, vocab] its token's entry and the `wanted[i]` most likely ones."""
    found: list[TokenLogprobs] = []
    for at in range(0, len(tokens), ROWS_AT_ONCE):
        some = slice(at, at + ROWS_AT_ONCE)
        found += _of_rows(logits[some], tokens[some], wanted[at : at + ROWS_AT_ONCE])
    return found


def _of_rows(logits: torch.Tensor, tokens: Longs, wanted: Sequence[int]) -> list[TokenLogprobs]:
    log = logits.float().log_softmax(-1)
    chosen = log.gather(1, torch.from_numpy(tokens).to(log.device)[:, None])
    rank = ((log > chosen).sum(-1) + 1).tolist()
    top = log.topk(min(max(wanted), log.shape[-1]))
    ids, values = top.indices.tolist(), top.values.tolist()
    return [
        TokenLogprobs(value, rank[i], list(zip(ids[i][:count], values[i][:count], strict=True)))
        for i, (value, count) in enumerate(zip(chosen[:, 0].tolist(), wanted, strict=True))
    ]
