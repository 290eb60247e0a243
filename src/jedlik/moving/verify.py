"""Shadow verification: a sample of what disk and object storage give back is computed here as well, and compared.

Promises: what is being verified is never served: the sequence computes its own; values are compared, and a tier whose
block differs forgets it and what follows. Costs a prefill and the blocks' room for each sampled load, so it is off
unless asked for (`worker.verify_share`).
"""

from collections.abc import Iterator

from xxhash import xxh3_64_intdigest

from jedlik.core.effects import Note, WorkerEffect
from jedlik.core.facts import Verified
from jedlik.core.ids import BlockId, BlockIndex
from jedlik.core.moves import Compare, Compared
from jedlik.moving.tiers import Store
from jedlik.scheduling.batch import Batch
from jedlik.scheduling.sequence import Phase, Sequence


class Evidence:
    """Blocks [first, first + len(blocks)) of a sequence's chain, as a tier gave them back."""

    __slots__ = ("blocks", "comparing", "first", "names", "sequence", "store")

    def __init__(
        self, sequence: Sequence, store: Store, names: list[BlockId], first: int, blocks: list[BlockIndex]
    ) -> None:
        self.sequence, self.store, self.names, self.first, self.blocks = sequence, store, names, first, blocks
        self.comparing = False


class Verifier:
    """The verification of one worker's loads; `dtype` is that of its layout."""

    def __init__(self, share: float, dtype: str, batch: Batch, block_size: int) -> None:
        self._share, self._dtype, self._batch, self._size = share, dtype, batch, block_size
        self._open: dict[int, Evidence] = {}
        self._number = 0

    def __len__(self) -> int:
        """Return the number of loads that are being verified."""
        return len(self._open)

    def wants(self, store: Store, s: Sequence) -> bool:
        """Whether this load is one of the sample: a hash of the request says."""
        if not self._share or store.tier == "host":
            return False
        return xxh3_64_intdigest(f"{s.submit.request_id}/{s.submit.choice}/verify".encode()) < self._share * 2**64

    def keep(self, s: Sequence, store: Store, names: list[BlockId], first: int, blocks: list[BlockIndex]) -> None:
        """Take over blocks that have arrived; they stay reserved."""
        self._number += 1
        self._open[self._number] = Evidence(s, store, names, first, blocks)

    def advance(self, out: list[WorkerEffect]) -> None:
        """Compare what has been computed since; forget what nobody will compute any more."""
        for number, evidence in list(self._open.items()):
            s, last = evidence.sequence, evidence.first + len(evidence.blocks)
            if evidence.comparing:
                continue
            if s.phase is Phase.ENDED:
                self._free(number)
            elif s.computed >= last * self._size and len(s.blocks) >= last:
                evidence.comparing = True
                self._batch.hold(s)
                mine: list[int] = list(s.blocks[evidence.first : last])
                out.append(Compare(number, self._dtype, list(evidence.blocks), mine))

    def compared(self, event: Compared, out: list[WorkerEffect]) -> None:
        """The answer to one `Compare`."""
        evidence = self._open[event.number]
        self._batch.let_go(evidence.sequence)
        if event.differing:
            evidence.store.pool.forget(evidence.names, evidence.first)
        out.append(Note(Verified(evidence.store.tier, len(evidence.blocks), event.differing)))
        self._free(event.number)

    def _free(self, number: int) -> None:
        blocks = self._open.pop(number).blocks
        self._batch.unreserve(blocks)

    def reserved(self) -> Iterator[list[BlockIndex]]:
        """Iterate over the blocks that are being verified; `check` counts them."""
        return (evidence.blocks for evidence in self._open.values())
