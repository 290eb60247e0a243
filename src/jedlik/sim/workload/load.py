"""The one way to a workload: a trace file, whose format its content tells, or the spec of a generator."""

from collections.abc import Mapping
from pathlib import Path

from jedlik.sim.workload import agentic, bailian, mooncake, servegen, tables
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
LINES = {
    "agentic": (b'"reqs"',),
    "bailian": (b'"chat_id"', b'"hash_ids"'),
    "mooncake": (b'"timestamp"', b'"input_length"'),
}
"""Formats of JSON lines, by what the first line contains. The first that fits is taken."""
FORMATS = (*LINES, "servegen", "table")


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
        trace = tables.read(file)
    return Trace(spread(trace.rows, seed), trace.piece_tokens) if options.spread_batches else trace


def recognised(file: Source) -> str:
    """The name of the format. Raises ConfigError if it is none that is known."""
    if file.head(4) == PARQUET:
        return "servegen"
    number, line = file.first_line()
    if line.lstrip().startswith(b"["):
        raise file.broken(number, "the file is one JSON list", "write one object per line: jq -c '.[]' does it")
    if line.lstrip().startswith(b"{"):
        found = next((name for name, marks in LINES.items() if all(mark in line for mark in marks)), None)
    else:
        header = file.header()[1]
        found = "servegen" if "rate_rps" in header else "table" if tables.known(header) else None
    if found is None:
        problem = f"of no format that is known ({', '.join(FORMATS)})"
        raise file.broken(number, problem, "see docs/simulator.md for what each one looks like")
    return found
