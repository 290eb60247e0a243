"""The moves of a worker that are under way: each is numbered and has a job; and what paths are seen to take.

A job is what a decider has to remember of a move until it ends. `Movement` gives each ended move to the decider that
its job's kind names, exactly once.
"""

from typing import ClassVar, Literal

from msgspec.structs import replace

from jedlik.core.effects import Note, WorkerEffect
from jedlik.core.errors import Bug
from jedlik.core.facts import Carried
from jedlik.core.moves import TIERS, Location, Move, Moved
from jedlik.perf.paths import Paths

BLAMELESS = ("cancelled", "corrupt", "stale", "missing")
"""Causes that say nothing of the path; nor does a peer that is gone."""


class Job:
    """The record that the decider which began a move has of it until the move ends."""

    __slots__ = ("number",)
    kind: ClassVar[Literal["fetch", "offload", "push"]]
    number: int
    """The number of the move, 0 before it begins."""


class Moves:
    """The moves of one worker; `block_bytes` is the size of its blocks."""

    def __init__(self, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self.paths = Paths()
        self._under_way: dict[int, tuple[Move, Job]] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(self, wanted: Move, job: Job, out: list[WorkerEffect]) -> None:
        """Have blocks moved; the job gets the number of the move."""
        self._number += 1
        move = replace(wanted, number=self._number)
        self._under_way[move.number], job.number = (move, job), move.number
        if (path := own_path(move)) is not None:
            self.paths.began(path, move.blocks, move.blocks * self.block_bytes)
        out.append(move)

    def jobs(self, kind: str) -> set[Job]:
        """Return the jobs of one kind whose moves are under way."""
        return {job for _, job in self._under_way.values() if job.kind == kind}

    def end(self, outcome: Moved, now: float, out: list[WorkerEffect]) -> Job:
        """Return the job of a move that has ended. Raises Bug for a move that nobody began."""
        found = self._under_way.pop(outcome.number, None)
        if found is None:
            raise Bug(f"move {outcome.number} ended; under way: {sorted(self._under_way)}")
        move, job = found
        path = own_path(move)
        if path is None:  # which way it would take was the carrier's choice
            path = outcome.path
            self.paths.began(path, move.blocks, move.blocks * self.block_bytes)
        blameless = outcome.cause in BLAMELESS or (outcome.cause == "gone" and own_path(move) is None)
        well = None if blameless else not outcome.cause
        size_bytes = move.blocks * self.block_bytes
        self.paths.ended(path, move.blocks, size_bytes, outcome.elapsed_s, well, now)
        tier = move.target.tier
        if well and path.startswith("to ") and self.paths.seconds(tier, 1, self.block_bytes) is None:
            self.paths.began(tier, move.blocks, size_bytes)  # nothing is known of reading it: about as long as writing
            self.paths.ended(tier, move.blocks, size_bytes, outcome.elapsed_s, well, now)
        out.append(Note(_carried(move, outcome)))
        return job


def own_path(move: Move) -> str | None:
    """Return the name under which the costs of a move within this worker are known; None for one to another worker.

    Its farther tier's, and apart from reading it what writing it takes.
    """
    if move.source.worker is not None or move.target.worker is not None:
        return None
    source, target = TIERS.index(move.source.tier), TIERS.index(move.target.tier)
    return move.source.tier if source > target else f"to {move.target.tier}"


def _carried(move: Move, outcome: Moved) -> Carried:
    return Carried(
        source=_name(move.source),
        target=_name(move.target),
        path=outcome.path,
        blocks=outcome.blocks,
        size_bytes=outcome.size_bytes,
        cause=outcome.cause,
        queued_s=outcome.queued_s,
        elapsed_s=outcome.elapsed_s,
    )


def _name(place: Location) -> str:
    return place.tier if place.worker is None else f"{place.tier} of {place.worker}"
