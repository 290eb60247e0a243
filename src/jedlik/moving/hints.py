"""Hints of clients about their conversations (`kv_hint`): blocks that stay for a time, blocks that are back before
needed.

Promises: pinned blocks are no more than a share of the pool and go first when memory is short; a hint never delays or
fails a request. A pin keeps blocks on the device; what left it anyway is fetched again ahead of an announced turn.
"""

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from math import inf

from msgspec.structs import replace

from jedlik.core.effects import WorkerEffect
from jedlik.core.ids import Handle
from jedlik.core.protocol import StepCosts
from jedlik.kv.pool import BlockPool
from jedlik.scheduling.batch import Batch
from jedlik.scheduling.sequence import Sequence

PIN_SHARE = 0.25
"""The share of the pool, at most, that is pinned."""
AHEAD_S = 0.25
"""An announced turn's blocks are fetched so long before."""
MOST_TURNS = 4096
"""Announced turns that are remembered."""

Fetch = Callable[[Sequence, StepCosts | None, float, list[WorkerEffect]], bool]


class Hints:
    """The hints of one worker. Sequences come here when nothing else needs their blocks."""

    def __init__(self, batch: Batch, pool: BlockPool, fetch: Fetch) -> None:
        self._batch, self._pool, self._fetch = batch, pool, fetch
        self._pinned: deque[tuple[float, Sequence]] = deque()
        self._pinned_blocks = 0
        self._turns: list[tuple[float, int, Sequence]] = []
        self.due_s = inf
        """Nothing is due before this."""
        self._prefetch_sequences = 0

    def leave(self, s: Sequence, now: float) -> None:
        """An ended sequence gives up its blocks, unless it is to keep them; what it announced is remembered."""
        hint, blocks = s.submit.hint, len(s.blocks)
        if hint is None or s.number < 0:
            self._batch.free(s)
            return
        if hint.next_turn_s is not None and len(self._turns) < MOST_TURNS:
            heappush(self._turns, (now + max(0.0, hint.next_turn_s - AHEAD_S), s.number, self._prefetch_sequence(s)))
        if hint.pin_s > 0 and self._pinned_blocks + blocks <= PIN_SHARE * self._pool.capacity:
            self._pinned.append((now + hint.pin_s, s))
            self._pinned_blocks += blocks
        else:
            last = s.run
            self._batch.free(s)
            if hint.final:
                self._pool.drop(last)
        self._set_next()

    def expire(self, costs: StepCosts | None, now: float, out: list[WorkerEffect]) -> None:
        """Let go of what was pinned long enough, fetch what is announced."""
        if now < self.due_s:
            return
        pinned = deque[tuple[float, Sequence]]()
        for until_s, s in self._pinned:
            if until_s > now:
                pinned.append((until_s, s))
            else:
                self._unpin(s)
        self._pinned = pinned
        while self._turns and self._turns[0][0] <= now:
            self._fetch(heappop(self._turns)[2], costs, now, out)
        self._set_next()

    def make_room(self) -> bool:
        """Memory is short: whoever was pinned first gives way. False: nobody is."""
        if not self._pinned:
            return False
        self._unpin(self._pinned.popleft()[1])
        self._set_next()
        return True

    def pinned(self) -> Iterator[int]:
        """Numbers of the sequences that are."""
        return (s.number for _, s in self._pinned)

    def _unpin(self, s: Sequence) -> None:
        self._pinned_blocks -= len(s.blocks)
        self._batch.free(s)

    def _prefetch_sequence(self, s: Sequence) -> Sequence:
        """Stands for the announced turn: it wants what is known of it, and computes nothing."""
        self._prefetch_sequences += 1
        submit = replace(
            s.submit,
            handle=Handle(-self._prefetch_sequences),
            prompt=bytes(s.history),
            output=b"",
            hint=None,
            remote=None,
        )
        return Sequence(submit, s.client, -self._prefetch_sequences, s.arrived_s, s.root)

    def _set_next(self) -> None:
        pins = min((until_s for until_s, _ in self._pinned), default=inf)
        self.due_s = min(pins, self._turns[0][0] if self._turns else inf)

    def check(self) -> None:
        assert self._pinned_blocks == sum(len(s.blocks) for _, s in self._pinned)
        assert self._pinned_blocks <= PIN_SHARE * self._pool.capacity
