"""Reports of what a block pool caches: numbered changes, and snapshots in chunks of bounded size."""

from collections.abc import Iterator
from typing import Protocol

from jedlik.core.protocol import Evicted, Facts, Snapshot, Stored

SNAPSHOT_KEYS = 8192
"""Keys in one snapshot chunk, at most: under 80 kB."""


class CacheSource(Protocol):
    """The source of a cache report: a block pool, or an adapter to an engine with a cache of its own."""

    changes: list[Stored | Evicted]
    """Blocks stored and evicted since the last `take_changes`, in order."""
    digest: int
    """The sum of all cached block keys."""

    def take_changes(self) -> list[Stored | Evicted]:
        """Return the changes since the last call, in order."""
        ...

    def runs(self) -> list[Stored]:
        """Return everything that is cached, parents before children."""
        ...


class CacheReport:
    """Numbers the changes of one cache: the device's, or that of another tier (its place in core/moves.TIERS)."""

    def __init__(self, source: CacheSource, tier: int = 0) -> None:
        """Report what `source` holds, as the given tier."""
        self.source, self._tier = source, tier
        self._number = 0

    def facts(self) -> Facts | None:
        """The changes since the last call, None if there are none."""
        changes = self.source.take_changes()
        if not changes:
            return None
        self._number += 1
        return Facts(self._number, changes, self.source.digest, self._tier)

    def snapshot(self) -> Iterator[Snapshot]:
        """All that is cached now. The last facts have been taken: deltas follow with the next number."""
        chunks = list(chunked(self.source.runs(), SNAPSHOT_KEYS))
        for at, runs in enumerate(chunks):
            yield Snapshot(
                number=self._number,
                chunk=at,
                last=at == len(chunks) - 1,
                runs=runs,
                digest=self.source.digest,
                tier=self._tier,
            )


def chunked(runs: list[Stored], keys: int) -> Iterator[list[Stored]]:
    """Cut runs into lists of at most `keys` keys; the second part of a cut run follows the first. At least one list."""
    chunk: list[Stored] = []
    room = keys
    for run in runs:
        at = 0
        while at < len(run.keys):
            part = run.keys[at : at + room]
            chunk.append(Stored(run.keys[at - 1] if at else run.parent, part))
            at += len(part)
            room -= len(part)
            if not room:
                yield chunk
                chunk, room = [], keys
    if chunk or room == keys:
        yield chunk
