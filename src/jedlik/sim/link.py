"""The links of processes: each process has one, shared by all messages that it sends.

Sizes are those of the wire (core/wire) to a few per cent, computed, not encoded.
"""

from jedlik.core.config import NetworkConfig
from jedlik.core.protocol import Facts, Load, Reserve, Snapshot, Submit, Tokens
from jedlik.sim.heap import Heap

FRAME_BYTES = 24
KEY_BYTES = 9
TOKEN_BYTES = 8
LOAD_BYTES = 96
INDEX_BYTES = 3


class SimLink:
    """The way out of one process."""

    def __init__(self, heap: Heap, network: NetworkConfig) -> None:
        self._heap, self._latency_s, self._byte_s = heap, network.latency_s, 1 / network.bandwidth_bytes_s
        self._free_at = 0.0

    def arrival_s(self, size_bytes: int) -> float:
        """When a message sent now arrives: it queues behind what was sent before."""
        begin, now = self._free_at, self._heap.now
        self._free_at = free_at = (begin if begin > now else now) + size_bytes * self._byte_s
        return free_at + self._latency_s


def size_bytes(message: object) -> int:
    """Return the bytes of a worker protocol's message on the wire."""
    if isinstance(message, Load):
        return FRAME_BYTES + LOAD_BYTES
    if isinstance(message, Tokens):
        news = 40 * (len(message.started) + len(message.finished))
        return FRAME_BYTES + TOKEN_BYTES * len(message.handles) + news  # of a leap's last step: the others went before
    if isinstance(message, Submit):
        return FRAME_BYTES + len(message.prompt) + len(message.output) + 200
    if isinstance(message, Facts):
        return FRAME_BYTES + sum(_keys(fact.keys) for fact in message.facts)
    if isinstance(message, Snapshot):
        return FRAME_BYTES + sum(_keys(run.keys) for run in message.runs)
    if isinstance(message, Reserve):
        return FRAME_BYTES + INDEX_BYTES * len(message.blocks)
    return FRAME_BYTES


def _keys(keys: list[int]) -> int:
    return KEY_BYTES * (len(keys) + 1)
