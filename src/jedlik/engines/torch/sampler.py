"""Draws the next token of every lane that asks for one, all rows at once.

The draw at output position p of choice c is a function of the lane's logits and (seed, c, p): by inverse distribution
function in order of token id, so neither batch, preemption nor a move changes it. A batch of plain greedy lanes is one
argmax. A counter-based generator has no state to carry: a sequence draws the same numbers in any batch, after
preemption and at another worker. The mixing function is SplitMix64's finaliser (Steele, Lea, Flood 2014), applied per
input.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from jedlik.core.ids import Lane
from jedlik.core.step import Open, TokenLogprobs
from jedlik.engines.torch.lanes import Longs
from jedlik.engines.torch.logprobs import of_rows
from jedlik.engines.torch.nucleus import SamplingLimits, probabilities
from jedlik.engines.torch.penalties import Edits, edits

Words = npt.NDArray[np.uint64]
_GAMMA, _MIX_1, _MIX_2 = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_FLOATS = ("temperature", "min_p", "top_p")


def mix(x: Words) -> Words:
    """Return SplitMix64's output for state x, modulo 2**64."""
    x = x + _GAMMA
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def uniform(seed: Words, choice: Words, position: Words) -> npt.NDArray[np.float64]:
    """Return one number in [0, 1) per row, a multiple of 2**-52: a function of its arguments alone."""
    word = mix(mix(mix(seed) ^ choice) ^ position)
    return (word >> np.uint64(12)).astype(np.float64) * 2.0**-52


def best(logits: torch.Tensor) -> Longs:
    """Return the most likely token of each row; the first of equals."""
    if logits.device.type == "cpu":  # numpy's argmax is an order of magnitude faster there, above all on bfloat16
        found: Longs = logits.float().numpy().argmax(-1)
        return found
    return logits.argmax(-1).cpu().numpy()


class Sampler:
    """The sampling parameters of all lanes, as columns, and the draw."""

    def __init__(self, lanes: int, vocab_size: int, device: str) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._float = {name: np.zeros(lanes) for name in _FLOATS}
        self._top_k = np.zeros(lanes, np.int64)
        self._seed = np.zeros(lanes, np.uint64)
        self._choice = np.zeros(lanes, np.uint64)
        self._logprobs = np.full(lanes, -1, np.int64)
        self._edits: dict[int, Edits] = {}

    def open(self, opened: Open) -> None:
        """Take the parameters of a sequence that takes a lane."""
        lane, sampling = opened.lane, opened.sampling
        for name in _FLOATS:
            self._float[name][lane] = getattr(sampling, name)
        self._top_k[lane] = sampling.top_k
        self._seed[lane] = sampling.seed
        self._choice[lane] = opened.choice
        self._logprobs[lane] = -1 if sampling.logprobs is None else sampling.logprobs
        self._edits.pop(lane, None)
        changes = edits(opened, self._vocab_size, self._device)
        if changes is not None:
            self._edits[lane] = changes

    def close(self, lane: Lane) -> None:
        """Forget the parameters of a lane."""
        self._edits.pop(lane, None)

    def draw(self, logits: torch.Tensor, lanes: Longs, position: Longs) -> tuple[Longs, dict[int, TokenLogprobs]]:
        """Draw tokens [rows], with log-probabilities of lanes that asked; row i of `logits` belongs to `lanes[i]`.

        `position`: the number of output tokens that each lane has so far.
        """
        raw = logits.float() if (self._logprobs[lanes] >= 0).any() else None
        edited = [(row, self._edits[lane]) for row, lane in enumerate(lanes.tolist()) if lane in self._edits]
        random = np.flatnonzero(self._float["temperature"][lanes] > 0)
        if edited:
            logits = logits.float().clone()
            for row, edit in edited:
                edit.apply(logits[row], int(position[row]))
        tokens = best(logits) if len(random) < len(lanes) else np.zeros(len(lanes), np.int64)
        if len(random):
            rows = logits if len(random) == len(lanes) else logits[torch.from_numpy(random).to(logits.device)]
            tokens[random] = self._random(rows.float(), lanes[random], position[random])
        for row, edit in edited:
            edit.append(int(tokens[row]))
        return tokens, {} if raw is None else self._asked_logprobs(raw, lanes, tokens)

    def _random(self, logits: torch.Tensor, lanes: Longs, position: Longs) -> Longs:
        share = probabilities(logits, self._limits(lanes))
        number = uniform(self._seed[lanes], self._choice[lanes], position.astype(np.uint64))
        upto = share.cumsum(-1, dtype=torch.float64)
        target = torch.from_numpy(number).to(upto.device)[:, None] * upto[:, -1:]
        drawn: Longs = torch.searchsorted(upto, target, right=True)[:, 0].cpu().numpy()
        return drawn

    def _limits(self, lanes: Longs) -> SamplingLimits:
        columns = {name: column[lanes] for name, column in self._float.items()}
        top_k = self._top_k[lanes]
        on_device = {name: torch.from_numpy(column).to(self._device) for name, column in columns.items()}
        return SamplingLimits(
            **on_device,
            top_k=torch.from_numpy(top_k).to(self._device),
            any_min_p=bool((columns["min_p"] > 0).any()),
            any_top=bool((top_k > 0).any() or (columns["top_p"] < 1).any()),
        )

    def _asked_logprobs(self, raw: torch.Tensor, lanes: Longs, tokens: Longs) -> dict[int, TokenLogprobs]:
        rows = np.flatnonzero(self._logprobs[lanes] >= 0)
        wanted: Sequence[int] = self._logprobs[lanes[rows]].tolist()
        some = raw[torch.from_numpy(rows).to(raw.device)]
        return dict(zip(lanes[rows].tolist(), of_rows(some, tokens[rows], wanted), strict=True))
