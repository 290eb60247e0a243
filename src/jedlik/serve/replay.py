"""`jedlik replay`: a recorded log is put through this release's code, and what differs is printed.

Exit codes: 0 all decisions are the same, 1 some are not, 2 (ConfigError) the log can't be replayed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from jedlik import __version__
from jedlik.core.errors import ConfigError
from jedlik.live.recorder import GatewayTurn, LogReplay, PlannerTurn, Recording, WorkerTurn, read
from jedlik.serve.event_log import Made, PlannerMade
from jedlik.serve.nodes import make_gateway, make_planner, make_worker


class Replayed(NamedTuple):
    """A replay that can be run, once."""

    turns: Recording[Any, Any]
    differences: LogReplay[Any, Any]
    version: str
    """The version of jedlik that recorded it."""


def replay(log: Path, tell: Callable[[str], None]) -> int:
    """Compare and tell; return the exit code. Raises ConfigError where nothing, or not all, could be compared."""
    turns, differences, version = replayed(log)
    if version != __version__:
        tell(f"{log} was recorded by jedlik {version}, this is {__version__}")
    found = 0
    for difference in differences:
        found += 1
        tell(f"turn {difference.turn} at {difference.now:.6f} s: {difference.event}")
        tell(f"  recorded {difference.recorded}\n  now      {difference.failure or difference.replayed}")
        if difference.failure:
            tell("  the node failed: what comes after this turn can't be compared")
    if turns.cut_bytes:
        tell(f"the process ended while it wrote its last turn: {turns.cut_bytes} bytes are left out")
    if not differences.events:
        raise ConfigError(f"{log} has no whole turn: there is nothing to compare")
    compared = f"compared {differences.events:,} events and {differences.decisions:,} decisions"
    tell(f"{compared}: {found:,} events are decided otherwise" if found else f"{compared}: all are the same")
    return 1 if found else 0


def differences(log: Path) -> LogReplay[Any, Any]:
    """Return every decision that comes out otherwise. Raises ConfigError as `replayed` does."""
    return replayed(log).differences


def replayed(log: Path) -> Replayed:
    """Return a log and a fresh node, made as the one that wrote it. Raises ConfigError if that can't be."""
    made = _header(log)
    turns: Recording[Any, Any]
    node: Any
    if isinstance(made, PlannerMade):
        turns, node = read(log, PlannerTurn), make_planner(made.config, made.places, made.initial)
    elif made.card is None:
        turns, node = read(log, GatewayTurn), make_gateway(made.process)
    else:
        turns, node = read(log, WorkerTurn), make_worker(made.process, made.card, made.costs)
    return Replayed(turns, LogReplay(turns, node.handle), made.version)


def _header(log: Path) -> Made | PlannerMade:
    """How the node was made. Raises ConfigError."""
    beside = log.with_suffix(".log")
    if log.is_dir():
        logs = ", ".join(sorted(path.name for path in log.glob("*.log"))) or "none"
        raise ConfigError(f"{log} is a folder: name one of the logs in it ({logs})")
    if not log.exists():
        raise ConfigError(f"{log} is not there: name a .log file that --event-log wrote")
    if log.suffix != ".log":
        hint = f"; did you mean {beside}?" if beside.exists() else ""
        raise ConfigError(f"{log} is not a .log file that --event-log wrote{hint}")
    header = log.with_suffix(".json")
    if not header.exists():
        raise ConfigError(f"{header} is not there: only logs kept with --event-log-tokens can be replayed")
    try:
        return msgspec.json.decode(header.read_bytes(), type=Made | PlannerMade)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{header} does not say how the node was made ({error}): it is damaged, or another release wrote it, "
            f"which can replay {log.name}"
        ) from None
