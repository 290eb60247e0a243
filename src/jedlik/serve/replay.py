"""`jedlik replay`: a recorded log put through this release's code, and what is told of it.

Exit codes: 0 all decisions are the same, 1 some are not, 2 (ConfigError) the log can't be replayed.
"""

from collections.abc import Callable
from pathlib import Path

from jedlik import __version__
from jedlik.core.errors import ConfigError
from jedlik.serve.event_log import replayed


def replay(log: Path, tell: Callable[[str], None]) -> int:
    """Compare and tell; the exit code. Raises ConfigError where nothing could be compared, or not all of it."""
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
