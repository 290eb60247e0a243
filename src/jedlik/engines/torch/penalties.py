"""The changes to a lane's logits before anything is drawn: bias, penalties, banned tokens.

Counts of tokens exist only for lanes that ask for a penalty; they are rebuilt from the history when a lane opens, so
they survive preemption and migration.
"""

import numpy as np
import torch

from jedlik.core.requests import Sampling
from jedlik.core.step import Open
from jedlik.core.tokens import unpack


class Edits:
    """One lane's changes to its logits: a function of its prompt and its output so far."""

    def __init__(self, opened: Open, vocab_size: int, device: str) -> None:
        sampling = opened.sampling
        self._sampling = sampling
        self._banned_until = opened.banned_until
        bias = {token: value for token, value in sampling.logit_bias.items() if 0 <= token < vocab_size}
        banned = [token for token in opened.banned if 0 <= token < vocab_size]
        self._bias_at = torch.tensor(list(bias), dtype=torch.int64, device=device)
        self._bias = torch.tensor(list(bias.values()), dtype=torch.float32, device=device)
        self._banned = torch.tensor(banned, dtype=torch.int64, device=device)
        self._seen: torch.Tensor | None = None
        self._count: torch.Tensor | None = None
        if _penalises(sampling):
            output = np.bincount(np.array(unpack(opened.output), np.int64), minlength=vocab_size)[:vocab_size]
            prompt = np.bincount(np.array(unpack(opened.prompt), np.int64), minlength=vocab_size)[:vocab_size]
            self._count = torch.from_numpy(output).to(device, torch.float32)
            self._seen = torch.from_numpy(prompt + output > 0).to(device)

    def append(self, token: int) -> None:
        """Note that the lane's output has grown by a token."""
        if self._count is not None and self._seen is not None:
            self._count[token] += 1
            self._seen[token] = True

    def apply(self, logits: torch.Tensor, output_length: int) -> None:
        """Change one lane's logits [vocab] in place."""
        sampling = self._sampling
        if len(self._bias_at):
            logits[self._bias_at] += self._bias
        if self._count is not None and self._seen is not None:
            factor = sampling.repetition_penalty
            if factor != 1.0:
                logits.copy_(torch.where(self._seen, torch.where(logits > 0, logits / factor, logits * factor), logits))
            logits -= sampling.frequency_penalty * self._count + sampling.presence_penalty * (self._count > 0)
        if output_length < self._banned_until and len(self._banned):
            logits[self._banned] = float("-inf")


def edits(opened: Open, vocab_size: int, device: str) -> Edits | None:
    """Return the changes that a lane's request asks for; None if there are none."""
    sampling = opened.sampling
    if _penalises(sampling) or sampling.logit_bias or (opened.banned_until > 0 and opened.banned):
        return Edits(opened, vocab_size, device)
    return None


def _penalises(sampling: Sampling) -> bool:
    neutral = sampling.frequency_penalty == 0.0 and sampling.presence_penalty == 0.0
    return sampling.repetition_penalty != 1.0 or not neutral
