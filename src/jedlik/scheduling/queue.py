"""Who waits for a place in the batch, in order: priority against time waited, then arrival.

The key is fixed at arrival (arrival + priority x AGEING_S), which equals ageing everybody who waits at the same rate;
a preempted sequence keeps its key and so comes back in front of those that arrived after it. Removal is lazy: a heap
entry counts only while its sequence waits. Deadlines are for those never admitted: whoever began in time may finish.
"""

import heapq

from jedlik.scheduling.sequence import Phase, Sequence

Entry = tuple[float, int, Sequence]


class WaitingQueue:
    """Waiting sequences and their deadlines."""

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._deadlines: list[Entry] = []
        self._members: set[int] = set()
        self.tokens = 0
        """To compute, as estimated when each was queued."""
        self.pairs = 0

    def __len__(self) -> int:
        return len(self._members)

    def push(self, sequence: Sequence) -> None:
        """A waiting sequence lines up."""
        self._members.add(sequence.number)
        self.tokens += sequence.missing
        self.pairs += sequence.missing_pairs
        heapq.heappush(self._heap, (*sequence.key, sequence))
        if sequence.due_s is not None:
            heapq.heappush(self._deadlines, (sequence.due_s, sequence.number, sequence))

    def peek(self) -> Sequence | None:
        """The first in line."""
        while self._heap and not self._waits(self._heap[0][2]):
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def remove(self, sequence: Sequence) -> None:
        """It is admitted, parked or ended; call before its phase changes. Who may come back is first in line."""
        self._members.remove(sequence.number)
        self.tokens -= sequence.missing
        self.pairs -= sequence.missing_pairs
        if self._heap[0][-1] is sequence:
            heapq.heappop(self._heap)

    def next_due_s(self) -> float | None:
        """When the next deadline passes."""
        while self._deadlines and not self._waits(self._deadlines[0][2]):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def overdue(self, now: float) -> list[Sequence]:
        """Those whose deadline has passed, earliest first; the caller ends them."""
        found = []
        while (due_s := self.next_due_s()) is not None and due_s <= now:
            found.append(heapq.heappop(self._deadlines)[2])
        return found

    def _waits(self, sequence: Sequence) -> bool:
        return sequence.number in self._members

    def check(self) -> None:
        """Assert that the members are exactly the waiting sequences of the heap."""
        waiting = {s.number: s for _, _, s in self._heap if s.number in self._members}
        assert set(waiting) == self._members
        assert all(s.phase is Phase.WAITING for s in waiting.values())
        assert self.tokens == sum(s.missing for s in waiting.values())
        assert self.pairs == sum(s.missing_pairs for s in waiting.values())
