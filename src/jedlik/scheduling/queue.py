"""The requests that wait for a place in the batch: tenants by arrival, and those of one tenant by priority and age.

A turn comes with each arrival, and the earliest turn is next. It belongs to the tenant: the request of that tenant that
is first by (arrival + priority x AGEING_S) uses it, and leaves its own turn to the one that gave way. So priority only
orders what one tenant asked for, and nobody waits longer because another tenant bids higher. A preempted sequence keeps
its turn and so comes back in front of those that arrived after it. Removal is lazy: a heap entry counts only while its
sequence waits with that turn. Deadlines are for those never admitted: whoever began in time may finish.
"""

import heapq
from collections.abc import Iterable, Iterator

from jedlik.scheduling.sequence import Phase, Sequence

Entry = tuple[float, int, Sequence]


class WaitingQueue:
    """Waiting sequences and their deadlines."""

    def __init__(self) -> None:
        self._turns: list[Entry] = []
        self._lines: dict[str, list[Entry]] = {}
        """The requests of each tenant, by priority and age."""
        self.deadlines: list[Entry] = []
        """A heap of deadlines; some may be of sequences that wait no more."""
        self.members: set[int] = set()
        """The numbers of the sequences that wait."""
        self.tokens = 0
        """To compute, as estimated when each was queued."""
        self.pairs = 0

    def __len__(self) -> int:
        return len(self.members)

    def push(self, sequence: Sequence) -> None:
        """A waiting sequence lines up."""
        self.members.add(sequence.number)
        self.tokens += sequence.missing
        self.pairs += sequence.missing_pairs
        heapq.heappush(self._turns, (sequence.turn, sequence.number, sequence))
        heapq.heappush(self._lines.setdefault(sequence.submit.tenant, []), (*sequence.key, sequence))
        if sequence.due_s is not None:
            heapq.heappush(self.deadlines, (sequence.due_s, sequence.number, sequence))

    def peek(self) -> Sequence | None:
        """The first in line. It takes over the earliest turn of its tenant."""
        while self._turns:
            turn, _, holder = self._turns[0]
            if not self._waits(holder) or holder.turn != turn:
                heapq.heappop(self._turns)
                continue
            first = self._lines[holder.submit.tenant][0][2]
            if first is not holder:
                holder.turn, first.turn = first.turn, holder.turn
                heapq.heapreplace(self._turns, (first.turn, first.number, first))
                heapq.heappush(self._turns, (holder.turn, holder.number, holder))
            return first
        return None

    def remove(self, sequence: Sequence) -> None:
        """A sequence is admitted, parked or ended; call before its phase changes."""
        self.members.remove(sequence.number)
        self.tokens -= sequence.missing
        self.pairs -= sequence.missing_pairs
        line = self._lines[sequence.submit.tenant]
        while line and not self._waits(line[0][2]):
            heapq.heappop(line)
        if not line:
            del self._lines[sequence.submit.tenant]

    def next_due_s(self) -> float | None:
        """When the next deadline passes."""
        while self.deadlines and not self._waits(self.deadlines[0][2]):
            heapq.heappop(self.deadlines)
        return self.deadlines[0][0] if self.deadlines else None

    def overdue(self, now: float) -> list[Sequence]:
        """Return the sequences whose deadline has passed, earliest first; the caller ends them."""
        found = []
        while (due_s := self.next_due_s()) is not None and due_s <= now:
            found.append(heapq.heappop(self.deadlines)[2])
        return found

    def _waits(self, sequence: Sequence) -> bool:
        return sequence.number in self.members

    def everyone(self) -> Iterator[Sequence]:
        """Iterate over the sequences that wait."""
        return (s for turn, _, s in self._turns if self._waits(s) and s.turn == turn)

    def check(self) -> None:
        """Assert that the waiting sequences have one turn each, and stand in the lines of their tenants."""
        waiting = {s.number: s for s in self.everyone()}
        lined_up = {s.number for line in self._lines.values() for _, _, s in line if self._waits(s)}
        assert set(waiting) == self.members == lined_up
        assert len({s.turn for s in waiting.values()}) == len(waiting)
        assert all(self._waits(line[0][2]) for line in self._lines.values())
        assert all(s.phase is Phase.WAITING for s in waiting.values())
        assert self.tokens == sum(s.missing for s in waiting.values())
        assert self.pairs == sum(s.missing_pairs for s in waiting.values())


def last_in_line(sequences: Iterable[Sequence]) -> Sequence | None:
    """Whoever gives way first: the last of the tenant that has the last turn. None if there is nobody."""
    everyone = list(sequences)
    if not everyone:
        return None
    tenant = max(everyone, key=lambda s: s.turn).submit.tenant
    return max((s for s in everyone if s.submit.tenant == tenant), key=lambda s: s.key)


def victim_of(running: Iterable[Sequence]) -> Sequence | None:
    """The one to preempt, None if nobody runs."""
    candidates = [s for s in running if s.phase in (Phase.PREFILL, Phase.DECODE)]
    return last_in_line([s for s in candidates if s.window_closed] or candidates)
