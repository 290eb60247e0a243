"""The life of a member of the fleet, as a table: what may happen to it in which state.

A member is a place and whoever works there, start after start; what is not in the table is a bug.
"""

from typing import Literal

from jedlik.core.errors import Bug

State = Literal["free", "held", "starting", "serving", "draining", "ending", "waiting"]
Event = Literal["launch", "adopt", "ready", "retire", "end", "gone", "again", "hold", "release"]

LIFE: dict[tuple[State, Event], State] = {
    ("free", "launch"): "starting",
    ("free", "adopt"): "starting",
    ("free", "hold"): "held",
    ("held", "release"): "free",
    ("starting", "ready"): "serving",
    ("starting", "end"): "ending",
    ("starting", "gone"): "free",
    ("starting", "again"): "waiting",
    ("serving", "retire"): "draining",
    ("serving", "end"): "ending",
    ("serving", "gone"): "free",
    ("serving", "again"): "waiting",
    ("draining", "end"): "ending",
    ("draining", "gone"): "free",
    ("ending", "gone"): "free",
    ("ending", "again"): "waiting",
    ("waiting", "launch"): "starting",
    ("waiting", "gone"): "free",
}
"""retire: it is told to finish and leave; end: to leave now; gone: all its processes have ended, and that is all;
again: they have ended, and it is to be started again; hold, release: nobody may, or may again, be started here."""

LIVE: frozenset[State] = frozenset({"starting", "serving", "draining", "ending"})
"""Processes are there, and hold their GPUs."""


def after(state: State, event: Event, story: str) -> State:
    """The next state. Raises Bug, with the member's recent story, where there is none."""
    found = LIFE.get((state, event))
    if found is None:
        raise Bug(f"a member that is {state} can't {event}: {story}")
    return found
