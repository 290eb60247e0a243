"""The ways to one peer, which of them is taken, and what happens where it fails: the next one.

The fastest way by what is known of each is taken; a way in use is left only for one that is clearly faster. A way that
failed lately is not used (`perf/paths`); where none is left, the move has ended as "gone" and its blocks are a miss.
"""

import time
from collections.abc import Callable

from jedlik.core.ids import Handle as Ticket
from jedlik.core.ids import WorkerId
from jedlik.core.moves import Cause
from jedlik.transfer.ledger import Job, Ledger
from jedlik.transfer.local import slice_end, whole
from jedlik.transfer.messages import MemoryTier
from jedlik.transfer.region import Region
from jedlik.transfer.route import Route
from jedlik.transfer.store import Done

SWITCH = 0.8
"""Another way is taken only if it needs less than this share of the time."""


class Ways:
    """Routes to one peer, best guess first, and the tickets it takes no writes for."""

    def __init__(self, worker: WorkerId, ledger: Ledger, dead: Callable[[], bool]) -> None:
        self.routes: list[Route] = []
        self.blocks: dict[MemoryTier, int] = {}
        """How many it has in each of its memories."""
        self.stopped: set[Ticket] = set()
        self.dead = dead
        self.ledger = ledger
        self._worker = worker
        self._preferred = ""

    def key(self, path: str) -> str:
        """What this agent keeps the costs of a way to this peer under."""
        return f"{path} {self._worker}"

    def choose(self, job: Job, tried: set[str]) -> Route | None:
        """The way to take now; None: there is none (left)."""
        blocks, now = job.blocks - job.done, time.monotonic()
        known: dict[str, float] = {}
        usable: dict[str, Route] = {}
        with self.ledger.lock:
            for route in self.routes:
                key = self.key(route.path)
                if route.path in tried or not self.ledger.costs.usable(key, now):
                    continue
                usable[route.path] = route
                seconds = self.ledger.costs.seconds(key, blocks, blocks * self.ledger.block_bytes)
                if seconds is not None:
                    known[route.path] = seconds
        if not usable:
            return None
        best = min(known, key=lambda path: (known[path], path)) if known else next(iter(usable))
        kept = self._preferred
        if kept in usable and (kept not in known or best not in known or known[best] >= SWITCH * known[kept]):
            best = kept
        self._preferred = best
        return usable[best]

    def others(self, tried: set[str]) -> bool:
        return any(route.path not in tried for route in self.routes)

    def close(self) -> None:
        routes, self.routes = self.routes, []
        for route in routes:
            route.close()


class PeerWork:
    """A push to a peer, or a pull from it."""

    def __init__(self, ways: Ways, memory: Region, tier: MemoryTier, *, pushing: bool) -> None:
        """`memory`: ours; `tier`: the peer's."""
        self._ways, self._memory, self._tier, self._pushing = ways, memory, tier, pushing
        self._route: Route | None = None
        self._tried: set[str] = set()

    def carry(self, job: Job) -> Cause | None:
        if self._pushing and job.move.ticket in self._ways.stopped:
            return "stale"
        route = self._route or self._take(job)
        if route is None:
            return "gone"
        if not job.done and not self._within(job):
            return "failed"
        done, cause = self._call(route, job, slice(job.done, slice_end(job, route.slice_bytes)))
        job.done += done
        if cause == "gone" and self._pushing and job.move.ticket in self._ways.stopped:
            return "stale"  # that is why the stream was cut
        if cause in ("gone", "failed") and not job.stopping and self._next_way(job, cause):
            return None
        return (job.stopping or cause) if cause == "cancelled" else (cause or whole(job))

    def _within(self, job: Job) -> bool:
        """Whether the peer has those blocks."""
        theirs = job.move.target_blocks if self._pushing else job.move.source_blocks
        return max(theirs) < self._ways.blocks[self._tier] and min(theirs) >= 0

    def _take(self, job: Job) -> Route | None:
        route = self._ways.choose(job, self._tried)
        if route is not None:
            self._tried.add(route.path)
            self._ways.ledger.charge(job, route.path, self._ways.key(route.path))
        self._route = route
        return route

    def _next_way(self, job: Job, cause: Cause) -> bool:
        if self._ways.dead() or not self._ways.others(self._tried):
            return False
        self._ways.ledger.uncharge(job, cause)
        self._route = None
        return True

    def _call(self, route: Route, job: Job, some: slice) -> Done:
        move = job.move
        sources, targets = move.source_blocks[some], move.target_blocks[some]
        if self._pushing:
            return route.push(self._memory, sources, self._tier, targets, move.ticket, job.stop)
        return route.pull(self._tier, sources, self._memory, targets, job.stop)
