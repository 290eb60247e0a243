"""Names of things, as distinct types.

Each id says who makes it and for how long it is unique. None of them is ever drawn here: ids are handed in.
"""

from typing import NewType

RequestId = NewType("RequestId", str)
"""One client request; made by the frontend (or taken from `x-request-id`), shown to users."""

StreamId = NewType("StreamId", int)
"""One choice of one request inside one gateway process; made by the frontend, consecutive for the n choices."""

Handle = NewType("Handle", int)
"""One attempt at one choice; made by the gateway node, never re-used by it. A token with an unknown handle is stale."""

GatewayId = NewType("GatewayId", str)
"""One gateway process incarnation: `name@incarnation`."""

WorkerId = NewType("WorkerId", str)
"""One worker process incarnation: `name@incarnation`. A restarted worker is another worker."""

ClientId = GatewayId | WorkerId
"""Whoever submits attempts to a worker: a gateway, or a worker that asks another worker for a prefill."""

Lane = NewType("Lane", int)
"""A sequence's place in an engine's batch, 0 <= lane < max_sequences; re-used after the engine was told to close it."""

BlockIndex = NewType("BlockIndex", int)
"""A physical block of a worker's pool, 1 <= index < total_blocks (0 is the engine's padding block)."""

BlockId = NewType("BlockId", bytes)
"""The 128-bit content identity of a full block (see `kv/hashing`)."""

BlockKey = NewType("BlockKey", int)
"""The low 64 bits of a `BlockId`: enough to route by, never enough to re-use KV by."""
