"""The one way to a workload: a trace file, whose format its content tells, or the spec of a generator."""

from collections.abc import Callable, Mapping
from pathlib import Path

from jedlik.sim.workload import agentic, azure, bailian, burstgpt, mooncake, servegen
from jedlik.sim.workload.offered import Workload
from jedlik.sim.workload.options import CLOSED_ONLY, WorkloadOptions
from jedlik.sim.workload.reading import Source
from jedlik.sim.workload.servegen_tables import PARQUET
from jedlik.sim.workload.shape import Replay, spread
from jedlik.sim.workload.spec import Generator, parse, split
from jedlik.sim.workload.synthetic import GENERATORS
from jedlik.sim.workload.trace import Trace

KNOWN: Mapping[str, type[Generator]] = {**GENERATORS, "servegen": servegen.ServeGen}
IDENTIFIED = {"mooncake": mooncake.read, "bailian": bailian.read}
UNIDENTIFIED: dict[str, Callable[[Source], Trace]] = {
    "azure": azure.read,
    "azure (as published)": azure.read,
    "burstgpt": burstgpt.read,
}


def load(source: str, options: WorkloadOptions, seed: int) -> Workload:
    """The workload. Raises ConfigError naming file and line, or generator and key, and what to do."""
    options.check()
    path = Path(source)
    if split(source)[0] in KNOWN or not path.exists():
        if not split(source)[0]:
            Source(path).head(1)
        return parse(source, KNOWN).workload(options, seed)
    file = Source(path)
    found = recognised(file)
    if found == "agentic":
        return agentic.read(file, options, seed)
    if found == "servegen":
        return servegen.read(file, options, seed)
    options.refuse(CLOSED_ONLY, f"{source} is replayed at its recorded times ({found} format)")
    return Replay(recorded(file, found, options, seed), options)


def recorded(file: Source, found: str, options: WorkloadOptions, seed: int) -> Trace:
    """A trace of an open loop."""
    if found in IDENTIFIED:
        trace = IDENTIFIED[found](file, options.trace_block)
    else:
        options.refuse(("trace_block",), f"{file.path} has no block ids ({found} format)")
        trace = UNIDENTIFIED[found](file)
    return Trace(spread(trace.rows, seed), trace.piece_tokens) if options.spread_batches else trace


def recognised(file: Source) -> str:
    """The name of the format. Raises ConfigError if it is none that is known."""
    if file.head(4) == PARQUET:
        return "servegen"
    line = file.first_line().removeprefix(b"\xef\xbb\xbf").strip()
    for name, marks in MARKS.items():
        if all(mark in line for mark in marks):
            return name
    if line.startswith(b"input_length"):
        raise file.broken(1, "the file has lengths but no arrival times", "add a column timestamp_ms")
    raise file.broken(
        1, f"of no format that is known ({', '.join(MARKS)})", "see docs/simulator.md for what each one looks like"
    )


MARKS = {
    "agentic": (b"{", b'"reqs"'),
    "bailian": (b"{", b'"chat_id"', b'"hash_ids"'),
    "mooncake": (b"{", b'"timestamp"', b'"input_length"'),
    "azure": (b"timestamp_ms", b"input_length"),
    "azure (as published)": (b"TIMESTAMP", b"ContextTokens"),
    "burstgpt": (b"Timestamp", b"Request tokens"),
    "servegen": (b"rate_rps",),
}
"""What the first line contains. The first that fits is taken."""
