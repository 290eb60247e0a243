"""Who gives way when memory is short: preemption by recompute.

First those that may not run anyway (their gateway has not acknowledged), then the least urgent, then the latest to
arrive. The victim keeps its output, returns to its old place in the queue and usually finds most of its blocks still
cached.
"""

from collections.abc import Iterable

from jedlik.scheduling.sequence import Phase, Sequence


def victim_of(running: Iterable[Sequence]) -> Sequence | None:
    """The one to preempt, None if nobody runs."""
    candidates = (s for s in running if s.phase in (Phase.PREFILL, Phase.DECODE))
    return max(candidates, key=lambda s: (s.window_closed, s.key), default=None)
