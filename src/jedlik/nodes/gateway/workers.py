"""The workers of a gateway: they join, are followed and judged, change their roles, and leave.

Any message is a sign of life; a step that runs far beyond its prediction is not progress. A suspect worker gets nothing
new; a fenced one is cut off for the rest of its incarnation.

Promised: a worker that cannot be understood or trusted is cut off and its streams go on elsewhere. A worker whose cache
facts don't add up is asked for a snapshot, but not all the time. A role changes only where no role that is needed
becomes empty; a role that a worker was asked to take counts for that until it reports its role.
"""

from collections.abc import Sequence
from math import inf
from typing import Literal

import msgspec

from jedlik.core.config import GatewayConfig, Role, WorkerConfig
from jedlik.core.effects import Kick
from jedlik.core.errors import Bug, Fault
from jedlik.core.facts import Suspected
from jedlik.core.ids import WorkerId
from jedlik.core.protocol import SCHEMA_VERSION, AssumeRole, Card, Facts, Load, Resync, Snapshot, State
from jedlik.nodes.gateway.attempts import Attempts
from jedlik.nodes.gateway.route import Router
from jedlik.nodes.gateway.streams import RESYNC_S, Health, Peer
from jedlik.nodes.gateway.tokens import Outbox
from jedlik.routing.admit import RESTART_S

Opinion = Literal["trust", "doubt", "fence"]
HEALTH: dict[tuple[Health, Opinion], Health] = {
    ("ok", "trust"): "ok",
    ("ok", "doubt"): "suspect",
    ("ok", "fence"): "fenced",
    ("suspect", "trust"): "ok",
    ("suspect", "doubt"): "suspect",
    ("suspect", "fence"): "fenced",
}
"""The next health by the present one and an opinion. A fenced worker is never judged again."""
FENCE_FACTOR = 2.0
"""A step this many times beyond its limit is not waited for."""
MAX_RESYNC_S = 60.0
MAX_FENCED = 1024


class Verdict(msgspec.Struct, frozen=True):
    """An opinion of a worker, with the reason."""

    opinion: Opinion
    reason: str = ""


def judge(peer: Peer, config: GatewayConfig, watch: WorkerConfig, now: float) -> Verdict:
    """Return what to think of a worker now. Times are compared as `next_check_s` adds them: rounded alike."""
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


def next_check_s(peer: Peer, config: GatewayConfig) -> float:
    """Return when silence would change the opinion of this worker."""
    limit = config.silent_suspect_s if peer.health == "ok" else config.silent_fence_s
    return peer.heard_at + limit


class Workers:
    """All connected workers. It adds peers to the gateway's table and removes them; `Attempts` reads the same table.

    `watch` has the limits for hung steps that the workers run with.
    """

    def __init__(
        self, config: GatewayConfig, watch: WorkerConfig, hash_check: str, attempts: Attempts, router: Router
    ) -> None:
        self._config = config
        self._watch = watch
        self._hash_check = hash_check
        self._attempts = attempts
        self._router = router
        self._fleet = router.fleet
        self._peers = attempts.peers
        self._fenced: dict[WorkerId, str] = {}
        """Incarnations that are never trusted again, with the reason."""
        self._cards: list[Card] | None = None
        """The result of `cards`, until a worker comes, goes, or changes its state or health."""
        self.due = inf
        """No worker has to be looked at before this time."""

    def cards(self) -> Sequence[Card]:
        """Return the cards of the workers that something new could go to now, by id."""
        if self._cards is None:
            self._cards = self._ready()
        return self._cards

    def _ready(self) -> list[Card]:
        """Those that decode; of a model for which there is none, those that only prefill."""
        cards = [view.card for view in self._fleet if view.ready()]
        models = {card.model for card in cards}
        cards += [view.card for view in self._fleet if view.trusted() and view.card.model not in models]
        return sorted(cards, key=lambda card: card.worker)

    def health(self) -> list[dict[str, object]]:
        """Return what is known of each worker, JSON-able."""
        return [_health_of(peer) for _, peer in sorted(self._peers.items())]

    def joined(self, card: Card, out: Outbox) -> None:
        """Take a worker that has shown its card, or cut it off."""
        reason = self._fenced.get(card.worker) or self._unfit(card)
        if reason is not None:
            out.note(Suspected(card.worker, "fenced", reason))
            out.effects.append(Kick(card.worker, reason))
            return
        self.lost(card.worker, "it connected again", out)
        peer = Peer(view=self._fleet.add(card), heard_at=out.now)
        self._peers[card.worker], self._cards = peer, None
        self._router.joined(card)
        self.due = min(self.due, next_check_s(peer, self._config))
        out.note(Suspected(card.worker, "ok", "joined"))
        self._attempts.retry_parked(out)

    def _unfit(self, card: Card) -> str | None:
        if card.schema != SCHEMA_VERSION:
            return f"speaks protocol version {card.schema}, this gateway {SCHEMA_VERSION}: run the same release"
        if card.hash_check != self._hash_check:
            return "names blocks with another cluster key or hash version: start it with this cluster's key"
        return None

    def lost(self, worker: WorkerId, reason: str, out: Outbox) -> None:
        """Remove a worker that is gone; unknown ones are a no-op."""
        peer = self._peers.get(worker)
        if peer is not None:
            out.note(Suspected(worker, "gone", reason))
            self._remove(peer, reason, out)

    def fence(self, peer: Peer, reason: str, out: Outbox) -> None:
        """Never trust this incarnation again: what it still sends is dropped."""
        self._fenced[peer.id] = reason
        if len(self._fenced) > MAX_FENCED:
            del self._fenced[next(iter(self._fenced))]
        out.note(Suspected(peer.id, "fenced", reason))
        out.effects.append(Kick(peer.id, reason))
        self._remove(peer, reason, out)

    def _remove(self, peer: Peer, reason: str, out: Outbox) -> None:
        del self._peers[peer.id]
        self._cards = None
        self._fleet.remove(peer.id)
        self._router.removed(peer.view.card)
        fault = Fault(kind="unavailable", message=f"the worker was lost: {reason}", retry_after_s=RESTART_S)
        self._attempts.lose(peer, fault, out)

    def state(self, peer: Peer, state: State, out: Outbox) -> None:
        """Take a worker's state; a larger epoch wins."""
        if state.epoch > peer.view.state.epoch:
            self._fleet.assume(peer.view, state)
            peer.next_role, self._cards = None, None
            self._attempts.retry_parked(out)

    def roles(self) -> list[dict[str, object]]:
        """Return what each worker is, JSON-able."""
        return [_role_of(peer) for _, peer in sorted(self._peers.items())]

    def flip_refusal(self, worker: WorkerId, role: Role) -> str | None:
        """Return why a worker may not take another role; None if it may."""
        peer = self._peers.get(worker)
        if peer is None:
            return f"no worker {worker!r} is connected"
        if peer.view.state.draining:
            return f"{worker} is draining"
        if peer.role() == role:
            already = f"{worker} has the role {role!r} already"
            return already if peer.next_role is None else f"{worker} was told so already"
        model = peer.view.card.model
        fleet = [p for p in self._peers.values() if p.view.card.model == model and p.view.trusted()]
        roles = [role if p is peer else p.role() for p in fleet]
        if not set(roles) - {"prefill"}:
            return f"nobody would be left to decode for model {model!r}"
        if "both" not in roles and "prefill" not in roles:
            return f"nobody would be left to prefill for model {model!r}"
        return None

    def flip(self, worker: WorkerId, role: Role, out: Outbox) -> None:
        """Ask a worker to take another role, if it may."""
        if self.flip_refusal(worker, role) is None:
            self._peers[worker].next_role = role
            out.send(worker, AssumeRole(role))

    def follow(self, peer: Peer, message: Facts | Snapshot, out: Outbox) -> None:
        """Take a worker's message about its caches."""
        if isinstance(message, Snapshot):
            peer.resync_at = out.now + peer.resync_wait_s
        self._synced(peer, self._router.follow(peer.id, message), out)

    def _synced(self, peer: Peer, in_step: bool, out: Outbox) -> None:
        """Ask for a snapshot when a worker's facts don't add up, but not all the time."""
        if self._router.synced(peer.id):
            peer.resync_wait_s = RESYNC_S
        elif not in_step and out.now >= peer.resync_at:
            out.send(peer.id, Resync())
            peer.resync_at = out.now + peer.resync_wait_s
            peer.resync_wait_s = min(MAX_RESYNC_S, 2 * peer.resync_wait_s)
        if not self._router.synced(peer.id):
            self.due = min(self.due, peer.resync_at)

    def judge(self, peer: Peer, out: Outbox) -> None:
        """Decide whether a worker is trusted now."""
        verdict = judge(peer, self._config, self._watch, out.now)
        health = HEALTH[peer.health, verdict.opinion]
        if health == "fenced":
            self.fence(peer, verdict.reason, out)
            return
        if health != peer.health:
            peer.health, self._cards = health, None
            peer.view.suspect = f"suspect: {verdict.reason}" if health == "suspect" else None
            out.note(Suspected(peer.id, health, verdict.reason))
            if health == "ok":
                self.due = min(self.due, next_check_s(peer, self._config))
                self._attempts.retry_parked(out)

    def look(self, out: Outbox) -> None:
        """Look at every worker: time has passed."""
        self.due = inf
        for peer in list(self._peers.values()):
            self.judge(peer, out)
        for peer in self._peers.values():
            self._synced(peer, False, out)
            self.due = min(self.due, next_check_s(peer, self._config))

    def forgive(self, now: float) -> None:
        """Start every worker's silence anew: this gateway stood still, and their messages have yet to be read."""
        for peer in self._peers.values():
            peer.heard_at = now

    def check(self) -> None:
        """Raise Bug unless fleet, peers and the stored cards agree."""
        if {view.card.worker for view in self._fleet} != self._peers.keys():
            raise Bug("gateway: fleet and peers differ")
        if self._cards is not None and self._cards != self._ready():
            raise Bug("gateway: the stored cards are out of date")
        if any((peer.health == "ok") != (peer.view.suspect is None) for peer in self._peers.values()):
            raise Bug("gateway: routing and health disagree about a worker")


def _health_of(peer: Peer) -> dict[str, object]:
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


def _role_of(peer: Peer) -> dict[str, object]:
    view, asked = peer.view, {} if peer.next_role is None else {"told": peer.next_role}
    state = view.state
    return {"worker": peer.id, "name": view.card.name, "role": state.role, "epoch": max(0, state.epoch), **asked}
