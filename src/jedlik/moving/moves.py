"""The moves of a worker that are under way: numbered, each with who wants to know; and what paths are seen to take.

Promises: whoever began a move is told of its end exactly once.
"""

from collections.abc import Callable

from msgspec.structs import replace

from jedlik.core.effects import Note, WorkerEffect
from jedlik.core.errors import Bug
from jedlik.core.facts import Carried
from jedlik.core.moves import TIERS, Move, Moved, Place
from jedlik.perf.paths import Paths

BLAMELESS = ("cancelled", "corrupt", "stale", "missing")
"""Causes that say nothing of the path; nor does a peer that is gone."""
Ended = Callable[[Moved, float, list[WorkerEffect]], None]


class Moves:
    """Of one worker; `block_bytes` is the size of its blocks."""

    def __init__(self, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self.paths = Paths()
        self._under_way: dict[int, tuple[Move, Ended]] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(self, wanted: Move, ended: Ended, out: list[WorkerEffect]) -> int:
        """Have blocks moved; `ended` is called once, when they are. Returns the number that the move got."""
        self._number += 1
        move = replace(wanted, number=self._number)
        self._under_way[move.number] = move, ended
        if (path := own_path(move)) is not None:
            self.paths.began(path, move.blocks, move.blocks * self.block_bytes)
        out.append(move)
        return move.number

    def end(self, moved: Moved, now: float, out: list[WorkerEffect]) -> None:
        """A move is over. Raises Bug for one that nobody began."""
        found = self._under_way.pop(moved.number, None)
        if found is None:
            raise Bug(f"move {moved.number} ended; under way: {sorted(self._under_way)}")
        move, ended = found
        path = own_path(move)
        if path is None:  # which way it would take was the carrier's choice
            path = moved.path
            self.paths.began(path, move.blocks, move.blocks * self.block_bytes)
        blameless = moved.cause in BLAMELESS or (moved.cause == "gone" and own_path(move) is None)
        well = None if blameless else not moved.cause
        size_bytes = move.blocks * self.block_bytes
        self.paths.ended(path, move.blocks, size_bytes, moved.elapsed_s, well, now)
        tier = move.target.tier
        if well and path.startswith("to ") and self.paths.seconds(tier, 1, self.block_bytes) is None:
            self.paths.began(tier, move.blocks, size_bytes)  # nothing is known of reading it: about as long as writing
            self.paths.ended(tier, move.blocks, size_bytes, moved.elapsed_s, well, now)
        out.append(Note(_carried(move, moved)))
        ended(moved, now, out)


def own_path(move: Move) -> str | None:
    """Under which name the costs of a move within this worker are kept: None for one to another worker.

    Its farther tier's, and apart from reading it what writing it takes.
    """
    if move.source.worker is not None or move.target.worker is not None:
        return None
    source, target = TIERS.index(move.source.tier), TIERS.index(move.target.tier)
    return move.source.tier if source > target else f"to {move.target.tier}"


def _carried(move: Move, moved: Moved) -> Carried:
    return Carried(
        _name(move.source),
        _name(move.target),
        moved.path,
        moved.blocks,
        moved.size_bytes,
        moved.cause,
        moved.queued_s,
        moved.elapsed_s,
    )


def _name(place: Place) -> str:
    return place.tier if place.worker is None else f"{place.tier} of {place.worker}"
