"""Which block follows which, kept just well enough to forget leaves first and oldest first.

A block's parent is stored; its children are not: a block without an entry in `_leaves` or `_forks` has exactly one.
Growing a run and dropping a leaf are O(1) beyond the C-speed update of the parents.
"""

from collections import OrderedDict
from collections.abc import Sequence

from jedlik.core.errors import Bug


class BlockTree:
    """Parents, leaves in the order in which they became leaves, and child counts where blocks fork."""

    def __init__(self) -> None:
        self._parents: dict[int, int | None] = {}
        self._leaves: OrderedDict[int, None] = OrderedDict()
        self._forks: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._parents)

    def grow(self, parent: int | None, keys: Sequence[int]) -> None:
        """Add a run of new blocks below `parent` (None: a root's first block)."""
        parents, leaves = self._parents, self._leaves
        parents.update(zip(keys, (parent, *keys[:-1]), strict=True))
        leaves[keys[-1]] = None
        if parent is None:
            return
        if parent in leaves:
            del leaves[parent]
        else:
            self._forks[parent] = self._forks.get(parent, 1) + 1

    def drop(self, key: int) -> None:
        """Take a block out; its parent may become a leaf. A child that is still there is orphaned, not lost."""
        parent = self._parents.pop(key)
        if key in self._leaves:
            del self._leaves[key]
        else:
            self._forks.pop(key, None)
        if parent is None or parent not in self._parents:
            return
        children = self._forks.get(parent)
        if children is None:
            self._leaves[parent] = None
        elif children == 2:
            del self._forks[parent]
        else:
            self._forks[parent] = children - 1

    def oldest_leaf(self) -> int:
        """The block to forget first. Raises Bug on an empty tree."""
        for key in self._leaves:
            return key
        raise Bug("no leaf in an empty block tree")

    def parent(self, key: int) -> int | None:
        """What `key` follows; None for a first block. Raises KeyError for an unknown one."""
        return self._parents[key]

    def check(self) -> None:
        """Leaves and forks agree with the parents. Slow: for tests."""
        children: dict[int, int] = {}
        for parent in self._parents.values():
            if parent is not None:
                children[parent] = children.get(parent, 0) + 1
        if set(self._leaves) != self._parents.keys() - children.keys():
            raise Bug("block tree: leaves differ from the blocks without children")
        if self._forks != {key: count for key, count in children.items() if count > 1}:
            raise Bug("block tree: fork counts differ from the children")
