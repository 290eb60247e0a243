"""ServeGen workloads: clients with rates that change, bursts of their own and lengths of their own, drawn by a seed.

Arrivals of a client are a renewal process in the time in which its rate is 1, so that rates are kept exactly in the
mean and a gap may span windows. Lengths are drawn from quantiles, made to keep the recorded mean where they can; a
client without lengths borrows another's. Nothing is known of what prompts have in common.
"""

import heapq
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec

from jedlik.core.errors import ConfigError
from jedlik.sim.workload.offered import Workload
from jedlik.sim.workload.options import CLOSED_ONLY, FILES_ONLY, WorkloadOptions
from jedlik.sim.workload.reading import Source
from jedlik.sim.workload.renewal import LEAST_SHAPE, Gaps, gaps
from jedlik.sim.workload.servegen_lengths import ClientLengths, lengths_of
from jedlik.sim.workload.servegen_tables import Client, RateRow, models, table
from jedlik.sim.workload.shape import Replay
from jedlik.sim.workload.spec import Count, Generator, Positive, Share
from jedlik.sim.workload.trace import Drawn, Fresh, Trace, TraceRow

PIECE_TOKENS = 512
WINDOW_S = 600.0


class ServeGen(Generator, frozen=True, kw_only=True):
    """The workload generator `servegen:rates=FILE,model=NAME,...`."""

    rates: str
    """File: model, client, t_s, rate_rps, cv, family, p1 (shape as fitted); all but t_s and rate_rps may be missing."""
    lengths: str | None = None
    """File: model, client, t_s, field, mean, p1 ... p99. Default: the file beside `rates` that is named so."""
    model: str | None = None
    start: Share = 0.0
    """s in the recorded time, which becomes 0."""
    duration: Positive = WINDOW_S
    scale: Positive = 1.0
    """All rates are multiplied by this."""
    input: Count | None = None
    """Tokens, where there is no file of lengths."""
    output: Count | None = None

    def workload(self, options: WorkloadOptions, seed: int) -> Workload:
        options.refuse((*FILES_ONLY, "start_s"), "servegen has start, and draws its own times")
        options.refuse(CLOSED_ONLY, "arrivals do not wait for answers")
        source = Source(Path(self.rates))
        model = self.model or only(source)
        clients = windows(source, model, self.start, self.start + self.duration, self.scale)
        drawn = Population(clients, self._lengths(source, model, sorted(clients, key=str), seed), self.start, seed)
        return Replay(Trace(Drawn(drawn.rows), PIECE_TOKENS), options)

    def _lengths(self, rates: Source, model: str, clients: list[Client], seed: int) -> dict[Client, ClientLengths]:
        beside = rates.path.with_name(rates.path.name.replace("rates", "lengths"))
        if self.input is not None and self.output is not None:
            return dict.fromkeys(clients, ClientLengths.fixed(self.input, self.output))
        if self.lengths is None and (beside == rates.path or not beside.exists()):
            raise ConfigError(f"servegen: no lengths beside {rates.path}; give lengths=FILE, or input= and output=")
        source = Source(Path(self.lengths) if self.lengths else beside)
        return lengths_of(source, model, clients, seed)


def read(source: Source, options: WorkloadOptions, seed: int) -> Workload:
    """A file of rates by itself: the window is start_s and duration_s. Raises ConfigError if it has several models."""
    duration_s = WINDOW_S if options.duration_s is None else options.duration_s
    spec = ServeGen(rates=str(source.path), start=options.start_s, duration=duration_s)
    return spec.workload(msgspec.structs.replace(options, start_s=0.0, duration_s=None), seed)


def only(source: Source) -> str:
    names = models(source)
    if len(names) != 1:
        raise ConfigError(
            f"{source.path}: rates of {', '.join(names)}; say which: servegen:rates={source.path},model=NAME"
        )
    return names[0]


class Window(msgspec.Struct, frozen=True):
    """A client's arrivals for a while."""

    start_s: float
    end_s: float
    rate_rps: float
    gaps: Gaps


def windows(source: Source, model: str, start_s: float, end_s: float, scale: float) -> dict[Client, list[Window]]:
    """Return the windows that lie within, cut to it, in order. Raises ConfigError if there is none."""
    found: dict[Client, list[Window]] = {}
    for row in table(source, RateRow, model):
        sooner, later = max(row.t_s, start_s), min(row.t_s + WINDOW_S, end_s)
        if sooner < later and row.rate_rps > 0:
            window = Window(sooner, later, row.rate_rps * scale, law(row))
            found.setdefault(row.client, []).append(window)
    if not found:
        raise ConfigError(
            f"{source.path}: model {model} has no rates from {start_s} s to {end_s} s; choose other times, "
            f"or one of the models {', '.join(models(source))}"
        )
    return {client: sorted(of, key=lambda window: window.start_s) for client, of in found.items()}


def law(row: RateRow) -> Gaps:
    """Return the law of gaps with the shape as fitted, else that of the coefficient of variation."""
    if row.p1 is None or row.p1 <= 0:
        return gaps(row.cv, row.family)
    return Gaps(row.family, max(row.p1, LEAST_SHAPE[row.family]))


class Population:
    """All clients of a workload together."""

    def __init__(
        self, clients: dict[Client, list[Window]], lengths: dict[Client, ClientLengths], start_s: float, seed: int
    ) -> None:
        self._clients = clients
        self._lengths = lengths
        self._start_s = start_s
        self._seed = seed

    def rows(self) -> Iterator[TraceRow]:
        """The requests in order of time; times count from the start."""
        fresh = Fresh(PIECE_TOKENS)
        streams = [self._requests(client) for client in sorted(self._clients, key=str)]
        for at_s, tokens, output_tokens in heapq.merge(*streams):
            yield TraceRow(at_s=at_s - self._start_s, tokens=tokens, output_tokens=output_tokens, ids=fresh.ids(tokens))

    def _requests(self, client: Client) -> Iterator[tuple[float, int, int]]:
        chance = Random(f"servegen {self._seed} {client}")
        lengths = self._lengths[client]
        for at_s in times(self._clients[client], chance):
            yield (at_s, *lengths.draw(at_s, chance))


def times(windows: list[Window], chance: Random) -> Iterator[float]:
    """Arrivals of one client: `ahead` is what is left of the gap, in units of the mean gap."""
    ahead = windows[0].gaps.first(chance)
    for window in windows:
        at_s = window.start_s
        while ahead < (window.end_s - at_s) * window.rate_rps:
            at_s += ahead / window.rate_rps
            yield at_s
            ahead = window.gaps.draw(chance)
        ahead -= (window.end_s - at_s) * window.rate_rps
