"""A worker as a gateway keeps it: its view, the attempts at work there, and whether it is to be trusted.

Any message is a sign of life; a step that runs far beyond its prediction is not progress. Suspect workers get nothing
new; fenced ones are cut off for the rest of their incarnation.
"""

from typing import Generic, Literal, TypeVar

import msgspec

from jedlik.core.config import GatewayConfig, Role, WorkerConfig
from jedlik.core.effects import GatewayEffect, ToWorkerEffect
from jedlik.core.ids import Handle, WorkerId
from jedlik.core.protocol import Ack, Load
from jedlik.routing.view import WorkerView

StreamT = TypeVar("StreamT")
Opinion = Literal["trust", "doubt", "fence"]
Health = Literal["ok", "suspect", "fenced"]

HEALTH: dict[tuple[Health, Opinion], Health] = {
    ("ok", "trust"): "ok",
    ("ok", "doubt"): "suspect",
    ("ok", "fence"): "fenced",
    ("suspect", "trust"): "ok",
    ("suspect", "doubt"): "suspect",
    ("suspect", "fence"): "fenced",
}
"""A fenced worker has no way back: whatever else happens to one is a bug."""

FENCE_FACTOR = 2.0
"""A step this many times beyond its limit is not waited for."""
RESYNC_S, MAX_RESYNC_S = 1.0, 60.0
"""A snapshot is asked for at most this often, less and less often where none comes."""


class Verdict(msgspec.Struct, frozen=True):
    opinion: Opinion
    reason: str = ""


class Peer(Generic[StreamT]):
    """One connected worker."""

    __slots__ = (
        "acks",
        "attempts",
        "health",
        "heard_at",
        "id",
        "resync_at",
        "resync_wait_s",
        "told",
        "view",
        "vocab_size",
    )

    def __init__(self, view: WorkerView, now: float) -> None:
        self.id: WorkerId = view.card.worker
        self.view = view
        self.vocab_size = view.card.vocab_size
        self.health: Health = "ok"
        self.heard_at = now
        self.attempts: dict[Handle, StreamT] = {}
        """At work here; a handle that is not here is stale."""
        self.acks: dict[Handle, int] = {}
        """Positions to acknowledge with the next message."""
        self.resync_wait_s = RESYNC_S
        self.resync_at = now + RESYNC_S
        """When a snapshot may be asked for (again)."""
        self.told: Role | None = None
        """What it was told to be and has not said yet."""

    def role(self) -> Role:
        """What it is, or is about to be."""
        return self.told or self.view.state.role


def judge(peer: Peer[StreamT], config: GatewayConfig, watch: WorkerConfig, now: float) -> Verdict:
    """What to think of a worker now. Times are compared as `next_check_s` adds them: rounded alike."""
    silent_s = now - peer.heard_at
    hung_s, limit_s = _hung(peer.view.load, watch)
    if now >= peer.heard_at + config.silent_fence_s:
        return Verdict("fence", f"silent for {silent_s:.1f} s")
    if hung_s > FENCE_FACTOR * limit_s:
        return Verdict("fence", f"a step has been running for {hung_s:.1f} s, {limit_s:.1f} s is the limit")
    if now >= peer.heard_at + config.silent_suspect_s:
        return Verdict("doubt", f"silent for {silent_s:.1f} s")
    if hung_s > limit_s:
        return Verdict("doubt", f"a step has been running for {hung_s:.1f} s, {limit_s:.1f} s is the limit")
    return Verdict("trust")


def _hung(load: Load | None, watch: WorkerConfig) -> tuple[float, float]:
    """Age of the step in flight when last reported, and its limit, seconds."""
    if load is None:
        return 0.0, watch.hung_step_s
    return load.step_age_s, max(watch.hung_step_s, watch.hung_step_factor * (load.step_predicted_s or 0.0))


def next_check_s(peer: Peer[StreamT], config: GatewayConfig) -> float:
    """When silence would change the opinion of this worker."""
    limit = config.silent_suspect_s if peer.health == "ok" else config.silent_fence_s
    return peer.heard_at + limit


def health_of(peer: Peer[StreamT]) -> dict[str, object]:
    """JSON-able: what is known of a worker."""
    view, load = peer.view, peer.view.load
    return {
        "worker": peer.id,
        "model": view.card.model,
        "health": peer.health,
        "reason": view.suspect or "",
        "role": view.state.role,
        "draining": view.state.draining,
        "running": load.running if load else None,
        "waiting": load.waiting if load else None,
        "attempts": len(peer.attempts),
        "steps": load.steps if load else None,
        "step_age_s": load.step_age_s if load else None,
        "kv_blocks": view.card.total_blocks,
        "held_blocks": load.held_blocks if load else None,
        "cached_blocks": load.cached_blocks if load else None,
    }


def role_of(peer: Peer[StreamT]) -> dict[str, object]:
    """JSON-able: what a worker is."""
    view, told = peer.view, {} if peer.told is None else {"told": peer.told}
    state = view.state
    return {"worker": peer.id, "name": view.card.name, "role": state.role, "epoch": max(0, state.epoch), **told}


def acks_of(peer: Peer[StreamT]) -> list[GatewayEffect]:
    """What has been consumed and not yet said, as one message."""
    if not peer.acks:
        return []
    ack = Ack(list(peer.acks), list(peer.acks.values()))
    peer.acks.clear()
    return [ToWorkerEffect(peer.id, ack)]
