"""Named blocks in a row: what a pool accounts for and what an order of eviction arranges."""

from jedlik.core.ids import BlockId, BlockIndex


class Run:
    """Named blocks in a row. A sequence that holds any of them holds them all, and every run above."""

    __slots__ = ("blocks", "children", "hits", "ids", "parent", "refs")

    def __init__(self, ids: list[BlockId], blocks: list[BlockIndex], parent: "Run | None", refs: int) -> None:
        self.ids, self.blocks, self.parent, self.refs = ids, blocks, parent, refs
        self.children: dict[BlockId, Run] = {}
        """By their first id."""
        self.hits = 0
        """How often it was asked for since it came; an order of eviction may take some away."""
