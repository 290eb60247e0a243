"""The limits on what may be drawn: temperature, min_p, top_k, top_p over a batch of logits, in this order.

A limit becomes a threshold on the scaled logits, and all ties at the threshold stay, so the outcome doesn't depend on
how a sort orders equals. Most nuclei are small: the largest `FEW` logits decide, and only rows where those don't sum up
to top_p look at `MORE` times as many.
"""

from dataclasses import dataclass

import numpy as np
import torch

FEW, MORE = 256, 16


@dataclass(slots=True, kw_only=True)
class SamplingLimits:
    """The limits of each row, float64 or int64 on the logits' device; neutral values mean no limit."""

    temperature: torch.Tensor
    min_p: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    any_min_p: bool
    any_top: bool
    """Whether some row has a top_k or top_p at all."""

    def rows(self, which: torch.Tensor) -> "SamplingLimits":
        """Return the limits of some rows only."""
        return SamplingLimits(
            temperature=self.temperature[which],
            min_p=self.min_p[which],
            top_k=self.top_k[which],
            top_p=self.top_p[which],
            any_min_p=self.any_min_p,
            any_top=self.any_top,
        )


def probabilities(logits: torch.Tensor, limits: SamplingLimits) -> torch.Tensor:
    """Return the distribution of each row, [rows, vocab] float32; tokens outside the limits have exactly 0."""
    # Shifted first: at a tiny temperature the largest stays 0 and the rest go to -inf, never to infinity.
    scaled = (logits - logits.amax(-1, keepdim=True)) / limits.temperature[:, None].float()
    if limits.any_min_p:
        floor = torch.log(limits.min_p)[:, None].float()  # log 0 = -inf: no limit
        scaled = scaled.masked_fill(scaled < floor, float("-inf"))
    if limits.any_top:
        threshold = _threshold(scaled, limits, FEW)
        scaled = scaled.masked_fill(scaled < threshold, float("-inf"))
    return scaled.softmax(-1)


def _threshold(scaled: torch.Tensor, limits: SamplingLimits, few: int) -> torch.Tensor:
    """Return the smallest scaled logit within top_k and top_p, [rows, 1]."""
    vocab = scaled.shape[-1]
    count = min(vocab, few)
    top = scaled.topk(count).values if count < vocab else _sorted(scaled)
    limit = torch.where((limits.top_k <= 0) | (limits.top_k > vocab), vocab, limits.top_k)[:, None]
    # top_k: every token at least as large as the k-th counts, so sums run over the whole row.
    kth = top.gather(1, limit.clamp(max=count) - 1)
    kth = torch.where(limit >= vocab, float("-inf"), kth)
    weight = scaled.exp().masked_fill_(scaled < kth, 0.0).sum(-1, keepdim=True, dtype=torch.float64)
    share = top.exp().masked_fill_(top < kth, 0.0).double() / weight
    before = share.cumsum(-1) - share
    count_within = (before < limits.top_p[:, None]).sum(-1, keepdim=True).clamp(min=1)
    nucleus = top.gather(1, count_within - 1)
    nucleus = torch.where(limits.top_p[:, None] >= 1.0, float("-inf"), nucleus)
    result = torch.maximum(kth, nucleus)
    if count == vocab:
        return result
    short = (limits.top_p < 1.0) & (share.sum(-1) < limits.top_p) & (kth[:, 0] <= top[:, -1])
    short |= (limit[:, 0] > count) & (limit[:, 0] < vocab)
    if bool(short.any()):
        result[short] = _threshold(scaled[short], limits.rows(short), few * MORE)
    return result


def _sorted(scaled: torch.Tensor) -> torch.Tensor:
    """Return each row sorted, largest first."""
    if scaled.device.type == "cpu":  # numpy sorts with vector instructions
        return torch.from_numpy(-np.sort(-scaled.numpy()))
    return scaled.sort(-1, descending=True).values
