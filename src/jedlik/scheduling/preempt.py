"""Who gives way when memory is short: preemption by recompute.

First those that may not run anyway (their gateway has not acknowledged), then the last in line: of the tenant with the
last turn, whoever is least urgent and latest to arrive. The victim keeps its output, returns to its old place in the
queue and usually finds most of its blocks still cached.
"""

from collections.abc import Iterable

from jedlik.scheduling.queue import last_in_line
from jedlik.scheduling.sequence import Phase, Sequence


def victim_of(running: Iterable[Sequence]) -> Sequence | None:
    """The one to preempt, None if nobody runs."""
    candidates = [s for s in running if s.phase in (Phase.PREFILL, Phase.DECODE)]
    return last_in_line([s for s in candidates if s.window_closed] or candidates)
