"""The options of any workload: the values behind the flags of `jedlik simulate`."""

import math

import msgspec

from jedlik.core.errors import ConfigError


class WorkloadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults replay a trace as it was recorded."""

    speed: float = 1.0
    """Open loop: arrival times are divided by this. Conversations: think times."""
    limit: int | None = None
    """The number of requests, at most."""
    start_s: float = 0.0
    """Open loop: what was recorded before is left out, and time starts here."""
    duration_s: float | None = None
    """Open loop: how much of the recording is used, in its own time (before `speed`). Conversations: nothing is sent
    from then on, in simulated time."""
    copies: int = 1
    """Open loop: so many copies at once, a little shifted, that share no text. Conversations: multiplies
    `concurrency`."""
    concurrency: int | None = None
    """Conversations kept going at once; when one ends the next begins. None: `DEFAULT_CONCURRENCY`."""
    ramp_s: float = 60.0
    """The first conversations begin at random moments within this."""
    begin_midway: bool = False
    """The first conversations begin at a random turn, as if they had been going on: a steady state is reached soon."""
    spread_batches: bool = False
    """Timestamps that were recorded in batches are spread over the batch's period."""
    trace_block: int | None = None
    """Tokens per block id, where the file does not say; None: what its format says."""

    def check(self) -> None:
        """Raise ConfigError for what types can't say."""
        positive = ("speed", "limit", "duration_s", "copies", "concurrency", "trace_block")
        for name in (*positive, "start_s", "ramp_s"):
            value = getattr(self, name)
            if value is None:
                continue
            if not math.isfinite(value) or value < 0 or (value == 0 and name in positive):
                least = "more than 0" if name in positive else "0 or more"
                raise ConfigError(f"{name} is {value}: give a number that is {least}")

    def refuse(self, names: tuple[str, ...], why: str) -> None:
        """Raises ConfigError if one of `names` was set: it would be accepted and ignored."""
        for name in names:
            if getattr(self, name) != getattr(WorkloadOptions(), name):
                raise ConfigError(f"{name} = {getattr(self, name)} has no meaning here: {why}. Leave it out")


DEFAULT_CONCURRENCY = 16
CLOSED_ONLY = ("concurrency", "ramp_s", "begin_midway")
FILES_ONLY = ("spread_batches", "trace_block")
