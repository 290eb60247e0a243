"""What moving blocks takes, as the workers that would move them tell. Unknown is None, never zero."""

from jedlik.core.moves import PathCosts
from jedlik.routing.view import WorkerView

SAME_HOST, HOSTS = ("shm",), ("tcp", "nixl")
"""Paths between two workers on one host, and on two."""


def told(view: WorkerView, path: str) -> PathCosts | None:
    """What a worker knows of one of its paths."""
    for costs in view.load.paths if view.load is not None else ():
        if costs.path == path:
            return costs
    return None


def path_s(costs: PathCosts, view: WorkerView, tokens: int) -> float:
    """Seconds for the blocks of so many tokens, of the shape that this worker's have."""
    layout = view.card.layout
    blocks = -(-tokens // layout.block_size)
    return blocks * (costs.block_s + layout.block_bytes * costs.byte_s)


def fetch_s(view: WorkerView, tier: str, tokens: int) -> float | None:
    """Seconds to load so many tokens from a tier of a worker's own; None where that is unknown or does not work."""
    costs = told(view, tier)
    return path_s(costs, view, tokens) if costs is not None and costs.open else None


def between(source: WorkerView, target: WorkerView) -> PathCosts | str | None:
    """The cheapest path from one worker to another, by the source's word or else the target's.

    None: nothing is known. A text: why there is none.
    """
    host = source.card.host
    near = host != "" and host == target.card.host
    known = [costs for path in (SAME_HOST if near else HOSTS) if (costs := told(source, path) or told(target, path))]
    if not known:
        return None
    if not (usable := [costs for costs in known if costs.open]):
        return f"the path to it ({', '.join(costs.path for costs in known)}) failed lately"
    return min(usable, key=lambda costs: (path_s(costs, source, source.card.layout.block_size), costs.path))
