"""F5: the other world: the same nodes on a heap, with performance models in place of hardware."""
