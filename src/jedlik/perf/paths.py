"""The time that moving blocks takes on each path: measured by probes, corrected by what moved; and which paths not to
use.

A path's work is blocks * block_s + bytes * byte_s. The correction is a ratio of sums: how long the path was busy, over
the work it did; moves that share a path at one time are not counted twice that way. A stall counts as a few times the
expectation at most. Failures in a row trip a path's breaker; after a back-off one trial decides.
Not here: who carries, which path leads where.
"""

from jedlik.core.moves import PathCosts

FORGET = 0.95
"""The weight that both sums keep at each new move: a half-life of about 14 moves."""
PROBED_MOVES, LEARNT_MOVES = 8.0, 1.0
"""What the first move is weighed against: a probe counts as so many moves like it, another move's word as one."""
SLOWEST = 3.0
"""A move that took longer than this many times the expectation counts as having taken so long."""
HEAVIEST = 3.0
"""A move weighs as much as so many average ones at most: a huge one does not outvote all before."""
SHORTEST_S = 1e-6
"""Less work than this says nothing."""
REDRAW = 0.03
"""A correction is told when it has moved this much."""
TRIPS = 3
"""Failures in a row that trip the breaker."""
BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 60.0


class Breaker:
    """The circuit breaker of one path: closed, or tripped until `retry_s`, when one trial may go."""

    def __init__(self) -> None:
        self.tripped = False
        self._failures = 0
        self._retry_s = 0.0
        self._backoff_s = BACKOFF_S
        self._trying = False

    def usable(self, now: float) -> bool:
        return not self.tripped or (now >= self._retry_s and not self._trying)

    def began(self) -> None:
        """Something goes: where it is tripped, this is the trial."""
        self._trying = self.tripped

    def worked(self) -> None:
        self.tripped = self._trying = False
        self._failures = 0
        self._backoff_s = BACKOFF_S

    def failed(self, now: float) -> None:
        """A failure of what began before it was tripped is no trial, and changes nothing."""
        self._failures += 1
        if self._trying:
            self._backoff_s = min(LONGEST_BACKOFF_S, 2 * self._backoff_s)
        if self._trying or (not self.tripped and self._failures >= TRIPS):
            self.tripped, self._trying = True, False
            self._retry_s = now + self._backoff_s

    def unsaid(self) -> None:
        """Record that what began ended for a reason that says nothing of the path. Where it was the trial, the next one
        is."""
        self._trying = False

    def suspect(self) -> None:
        """A probe did not get through: a trial may go at once, nothing else."""
        if not self.tripped:
            self.tripped, self._trying = True, False
            self._retry_s = float("-inf")


class Path:
    """One path. Work is in seconds of an idle path, as measured; what is told is that times the correction."""

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.block_s = self.byte_s = 0.0
        self.known = False
        self.ratio = 1.0
        """The correction, as told."""
        self._prior = LEARNT_MOVES
        self._busy_s = self._work_s = self._weight = 0.0
        """Sums over moves, forgetting: how long the path was busy with them, the work they were, and how many."""
        self._ended_s = float("-inf")
        self._moves = self._blocks = self._bytes = 0

    def set_costs(self, block_s: float, byte_s: float, prior: float) -> None:
        self.block_s, self.byte_s, self.known, self._prior = block_s, byte_s, True, prior
        self._busy_s = self._work_s = self._weight = 0.0
        self.ratio = 1.0

    def seconds(self, blocks: int, size_bytes: int) -> float:
        """Return the seconds that so much takes behind all that is in flight."""
        return self.ratio * self._work(self._blocks + blocks, self._bytes + size_bytes)

    def began(self, blocks: int, size_bytes: int) -> None:
        self._moves += 1
        self._blocks += blocks
        self._bytes += size_bytes

    def ended(self, blocks: int, size_bytes: int) -> None:
        self._moves = max(0, self._moves - 1)
        self._blocks = max(0, self._blocks - blocks) if self._moves else 0
        self._bytes = max(0, self._bytes - size_bytes) if self._moves else 0

    def learn(self, blocks: int, size_bytes: int, elapsed_s: float, now: float) -> None:
        """Learn from blocks that arrived. The path was busy with them and with nothing else since the last one
        ended."""
        busy_s = max(0.0, min(elapsed_s, now - self._ended_s))
        self._ended_s = now
        if not self.known:
            self._learn_first(blocks, size_bytes, busy_s)
        work_s = self._work(blocks, size_bytes)
        if work_s < SHORTEST_S:
            return
        if not self._weight:
            self._busy_s = self._work_s = self._prior * work_s
            self._weight = self._prior
        ratio = self._busy_s / self._work_s
        slowest_s = SLOWEST * ratio * (work_s + self._work(self._blocks, self._bytes))
        share = min(1.0, HEAVIEST * self._work_s / self._weight / work_s)
        self._busy_s = FORGET * self._busy_s + share * min(busy_s, slowest_s)
        self._work_s = FORGET * self._work_s + share * work_s
        self._weight = FORGET * self._weight + 1.0
        ratio = self._busy_s / self._work_s
        if abs(ratio - self.ratio) > REDRAW * self.ratio:
            self.ratio = ratio

    def _learn_first(self, blocks: int, size_bytes: int, busy_s: float) -> None:
        """Blocks of one worker have one size, so time by bytes says all."""
        if size_bytes > 0:
            self.set_costs(0.0, busy_s / size_bytes, LEARNT_MOVES)
        elif blocks > 0:
            self.set_costs(busy_s / blocks, 0.0, LEARNT_MOVES)

    def _work(self, blocks: int, size_bytes: int) -> float:
        return self.block_s * blocks + self.byte_s * size_bytes


class Paths:
    """The paths of one worker, as far as it knows them."""

    def __init__(self) -> None:
        self._paths: dict[str, Path] = {}

    def measured(self, costs: PathCosts) -> None:
        """A probe's answer replaces what was known of a path, its breaker's state included."""
        path = self._path(costs.path)
        path.set_costs(costs.block_s, costs.byte_s, PROBED_MOVES)
        if costs.open:
            path.breaker.worked()
        else:
            path.breaker.suspect()

    def seconds(self, path: str, blocks: int, size_bytes: int) -> float | None:
        """Return the seconds that moving so much would take from now, behind all that is in flight there. None: nothing
        is known."""
        found = self._paths.get(path)
        return found.seconds(blocks, size_bytes) if found is not None and found.known else None

    def began(self, path: str, blocks: int, size_bytes: int) -> None:
        """A move was handed over. Told `ended` once, with the same figures."""
        found = self._path(path)
        found.began(blocks, size_bytes)
        found.breaker.began()

    def ended(self, path: str, blocks: int, size_bytes: int, elapsed_s: float, ok: bool | None, now: float) -> None:
        """Record that what `began` with these very figures is over. `ok`: True: all arrived; False: the path is to
        blame; None: the end says nothing of the path (cancelled, not there)."""
        found = self._path(path)
        found.ended(blocks, size_bytes)
        if ok:
            found.breaker.worked()
            found.learn(blocks, size_bytes, elapsed_s, now)
        elif ok is None:
            found.breaker.unsaid()
        else:
            found.breaker.failed(now)

    def usable(self, path: str, now: float) -> bool:
        """Whether something may go there now. Nothing is held against a path nobody knows."""
        found = self._paths.get(path)
        return found is None or found.breaker.usable(now)

    def costs(self, now: float) -> tuple[PathCosts, ...]:
        """Return the corrected costs of the known paths, by name. Closed paths may be tried again once their back-off
        is over."""
        if not self._paths:
            return ()
        return tuple(
            PathCosts(name, path.block_s * path.ratio, path.byte_s * path.ratio, path.breaker.usable(now))
            for name, path in sorted(self._paths.items())
            if path.known
        )

    def _path(self, name: str) -> Path:
        found = self._paths.get(name)
        if found is None:
            found = self._paths[name] = Path()
        return found
