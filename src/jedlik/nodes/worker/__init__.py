"""The worker's decider serves attempts, plans steps and moves KV blocks. Start at `node.py`."""
