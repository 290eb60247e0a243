"""Lengths of ServeGen's clients: drawn from recorded quantiles of prompts and answers, which change over the day."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from random import Random

import msgspec

from jedlik.core.errors import ConfigError
from jedlik.core.sums import float_sum
from jedlik.sim.workload.reading import Source
from jedlik.sim.workload.servegen_tables import Client, LengthRow, table

LEVELS = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)
INPUT, OUTPUT = "input_tokens", "output_tokens"
PARTS = ("text_tokens", "image_tokens", "audio_tokens", "video_tokens")
"""The parts of a multimodal prompt, where its length is not given as a whole."""


class Quantiles(msgspec.Struct, frozen=True):
    """A distribution by its values at levels from 0 to 1, straight between them."""

    levels: Sequence[float]
    values: Sequence[float]

    def at(self, level: float) -> float:
        place = min(bisect_right(self.levels, level), len(self.levels) - 1)
        low, high = self.levels[place - 1], self.levels[place]
        below, above = self.values[place - 1], self.values[place]
        return below + (above - below) * (level - low) / (high - low)


def quantiles(row: LengthRow) -> Quantiles:
    """The highest value is chosen so that the mean is the recorded one, where that is not below what lies under it."""
    known = [row.p1, row.p5, row.p10, row.p25, row.p50, row.p75, row.p90, row.p95, row.p99]
    levels, values = [0.0, *LEVELS, 1.0], [row.p1, *known]
    under = float_sum(
        (levels[place + 1] - levels[place]) * (values[place + 1] + values[place]) / 2
        for place in range(len(values) - 1)
    )
    share = 1.0 - LEVELS[-1]
    return Quantiles(levels, [*values, max(row.p99, 2 * (row.mean - under) / share - row.p99)])


class ClientLengths(msgspec.Struct, frozen=True):
    """One client's: by when they begin to hold, per field."""

    fields: dict[str, list[tuple[float, Quantiles]]]

    @classmethod
    def fixed(cls, tokens: int, output_tokens: int) -> "ClientLengths":
        always = [(INPUT, tokens), (OUTPUT, output_tokens)]
        return cls({name: [(0.0, Quantiles((0.0, 1.0), (value, value)))] for name, value in always})

    def draw(self, at_s: float, chance: Random) -> tuple[int, int]:
        """Tokens of a prompt and an answer, at least 1 each."""
        prompt = [INPUT] if INPUT in self.fields else [part for part in PARTS if part in self.fields]
        tokens = float_sum(self._field(name, at_s, chance.random()) for name in prompt)
        return max(1, round(tokens)), max(1, round(self._field(OUTPUT, at_s, chance.random())))

    def whole(self) -> bool:
        """Prompts and answers are both known."""
        return OUTPUT in self.fields and (INPUT in self.fields or PARTS[0] in self.fields)

    def _field(self, name: str, at_s: float, level: float) -> float:
        holding = self.fields[name]
        place = bisect_right(holding, at_s, key=lambda one: one[0])
        return holding[max(0, place - 1)][1].at(level)


def lengths_of(source: Source, model: str, clients: Iterable[Client], seed: int) -> dict[Client, ClientLengths]:
    """Return lengths for every client; those without borrow from one that the seed picks. Raises ConfigError if there
    is none."""
    read: dict[Client, ClientLengths] = {}
    for row in table(source, LengthRow, model):
        of = read.setdefault(row.client, ClientLengths({})).fields
        of.setdefault(row.field, []).append((row.t_s, quantiles(row)))
    for lengths in read.values():
        for holding in lengths.fields.values():
            holding.sort(key=lambda one: one[0])
    known = sorted((client for client, lengths in read.items() if lengths.whole()), key=str)
    if not known:
        raise ConfigError(
            f"{source.path}: no lengths of prompts and answers for model {model}; give input= and output="
        )
    return {
        client: read[client if client in known else Random(f"borrow {seed} {client}").choice(known)]
        for client in clients
    }
