"""The workers of a gateway: they join, are followed and judged, change their roles, and part.

Promised: what cannot be understood or trusted is told to be cut off, its streams go on elsewhere, and a worker whose
cache facts don't add up is asked for a snapshot, but not all the time. A role changes where no role that is needed is
left empty; what a worker was told to be counts for that until it says what it is.
"""

from collections.abc import Sequence
from math import inf

from jedlik.core.config import GatewayConfig, Role, WorkerConfig
from jedlik.core.effects import Kick
from jedlik.core.errors import Bug, Fault
from jedlik.core.facts import Suspected
from jedlik.core.ids import WorkerId
from jedlik.core.protocol import SCHEMA_VERSION, AssumeRole, Card, Facts, Resync, Snapshot, State
from jedlik.nodes.gateway.attempts import Attempts
from jedlik.nodes.gateway.outbox import Outbox
from jedlik.nodes.gateway.peers import (
    HEALTH,
    MAX_RESYNC_S,
    RESYNC_S,
    Peer,
    health_of,
    judge,
    next_check_s,
    role_of,
)
from jedlik.nodes.gateway.route import Router
from jedlik.nodes.gateway.streams import Stream
from jedlik.routing.admit import RESTART_S
from jedlik.routing.view import Fleet

MAX_FENCED = 1024


class Workers:
    """All that are connected. `watch` has the limits for hung steps that they are run with."""

    def __init__(
        self, config: GatewayConfig, watch: WorkerConfig, hash_check: str, attempts: Attempts, router: Router
    ) -> None:
        self._config = config
        self._watch = watch
        self._hash_check = hash_check
        self._attempts = attempts
        self._router = router
        self._fleet: Fleet = router.fleet
        self.peers = attempts.peers
        self._fenced: dict[WorkerId, str] = {}
        """Incarnations that are never trusted again, with the reason."""
        self._cards: list[Card] | None = None
        """What `cards` said, until a worker comes, goes, or changes its state or health."""
        self.due = inf
        """No worker has to be looked at before this time."""

    def cards(self) -> Sequence[Card]:
        """Cards of the workers that something new could go to now, by id."""
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
        """JSON-able: what is known of each."""
        return [health_of(peer) for _, peer in sorted(self.peers.items())]

    def joined(self, card: Card, now: float, out: Outbox) -> None:
        """A worker has shown its card."""
        reason = self._fenced.get(card.worker) or self._unfit(card)
        if reason is not None:
            out.note(Suspected(card.worker, "fenced", reason))
            out.effects.append(Kick(card.worker, reason))
            return
        self.lost(card.worker, "it connected again", now, out)
        peer: Peer[Stream] = Peer(self._fleet.add(card), now)
        self.peers[card.worker], self._cards = peer, None
        self._router.joined(card)
        self.due = min(self.due, next_check_s(peer, self._config))
        out.note(Suspected(card.worker, "ok", "joined"))
        self._attempts.retry_parked(now, out)

    def _unfit(self, card: Card) -> str | None:
        if card.schema != SCHEMA_VERSION:
            return f"speaks protocol version {card.schema}, this gateway {SCHEMA_VERSION}: run the same release"
        if card.hash_check != self._hash_check:
            return "names blocks with another cluster key or hash version: start it with this cluster's key"
        return None

    def lost(self, worker: WorkerId, reason: str, now: float, out: Outbox) -> None:
        """A worker is gone; unknown ones are a no-op."""
        peer = self.peers.get(worker)
        if peer is not None:
            out.note(Suspected(worker, "gone", reason))
            self._part(peer, reason, now, out)

    def fence(self, peer: Peer[Stream], reason: str, now: float, out: Outbox) -> None:
        """Never trust this incarnation again: what it still sends is dropped."""
        self._fenced[peer.id] = reason
        if len(self._fenced) > MAX_FENCED:
            del self._fenced[next(iter(self._fenced))]
        out.note(Suspected(peer.id, "fenced", reason))
        out.effects.append(Kick(peer.id, reason))
        self._part(peer, reason, now, out)

    def _part(self, peer: Peer[Stream], reason: str, now: float, out: Outbox) -> None:
        """A worker is no longer ours: its streams go on elsewhere, oldest first."""
        del self.peers[peer.id]
        self._cards = None
        self._fleet.remove(peer.id)
        self._router.left(peer.view.card)
        fault = Fault(kind="unavailable", message=f"the worker was lost: {reason}", retry_after_s=RESTART_S)
        for stream in list(peer.attempts.values()):
            self._attempts.release(stream)
            self._attempts.go_on(stream, fault, peer, now, out)

    def state(self, peer: Peer[Stream], state: State, now: float, out: Outbox) -> None:
        """What a worker is now; a larger epoch wins."""
        if state.epoch > peer.view.state.epoch:
            self._fleet.assume(peer.view, state)
            peer.told, self._cards = None, None
            self._attempts.retry_parked(now, out)

    def roles(self) -> list[dict[str, object]]:
        """JSON-able: what each worker is."""
        return [role_of(peer) for _, peer in sorted(self.peers.items())]

    def flip_refusal(self, worker: WorkerId, role: Role) -> str | None:
        """Why a worker may not take another role; None if it may."""
        peer = self.peers.get(worker)
        if peer is None:
            return f"no worker {worker!r} is connected"
        if peer.view.state.draining:
            return f"{worker} is draining"
        if peer.role() == role:
            return f"{worker} has the role {role!r} already" if peer.told is None else f"{worker} was told so already"
        model = peer.view.card.model
        fleet = [p for p in self.peers.values() if p.view.card.model == model and p.view.trusted()]
        left = [role if p is peer else p.role() for p in fleet]
        if not set(left) - {"prefill"}:
            return f"nobody would be left to decode for model {model!r}"
        if "both" not in left and "prefill" not in left:
            return f"nobody would be left to prefill for model {model!r}"
        return None

    def flip(self, worker: WorkerId, role: Role, out: Outbox) -> None:
        """Tell a worker to take another role, if it may."""
        if self.flip_refusal(worker, role) is None:
            self.peers[worker].told = role
            out.send(worker, AssumeRole(role))

    def follow(self, peer: Peer[Stream], message: Facts | Snapshot, now: float, out: Outbox) -> None:
        """What a worker says of its caches."""
        if isinstance(message, Snapshot):
            peer.resync_at = now + peer.resync_wait_s
        self._synced(peer, self._router.follow(peer.id, message), now, out)

    def _synced(self, peer: Peer[Stream], in_step: bool, now: float, out: Outbox) -> None:
        """Ask for a snapshot when a worker's facts don't add up, but not all the time."""
        if self._router.synced(peer.id):
            peer.resync_wait_s = RESYNC_S
        elif not in_step and now >= peer.resync_at:
            out.send(peer.id, Resync())
            peer.resync_at = now + peer.resync_wait_s
            peer.resync_wait_s = min(MAX_RESYNC_S, 2 * peer.resync_wait_s)
        if not self._router.synced(peer.id):
            self.due = min(self.due, peer.resync_at)

    def judge(self, peer: Peer[Stream], now: float, out: Outbox) -> None:
        """Whether a worker is to be trusted now."""
        verdict = judge(peer, self._config, self._watch, now)
        health = HEALTH[peer.health, verdict.opinion]
        if health == "fenced":
            self.fence(peer, verdict.reason, now, out)
            return
        if health != peer.health:
            peer.health, self._cards = health, None
            peer.view.suspect = f"suspect: {verdict.reason}" if health == "suspect" else None
            out.note(Suspected(peer.id, health, verdict.reason))
            if health == "ok":
                self.due = min(self.due, next_check_s(peer, self._config))
                self._attempts.retry_parked(now, out)

    def look(self, now: float, out: Outbox) -> None:
        """Look at every worker: time has passed."""
        self.due = inf
        for peer in list(self.peers.values()):
            self.judge(peer, now, out)
        for peer in self.peers.values():
            self._synced(peer, False, now, out)
            self.due = min(self.due, next_check_s(peer, self._config))

    def forgive(self, now: float) -> None:
        """This gateway stood still: what workers said meanwhile has yet to be read."""
        for peer in self.peers.values():
            peer.heard_at = now

    def check(self) -> None:
        """Fleet, peers and what is kept of both agree."""
        if {view.card.worker for view in self._fleet} != self.peers.keys():
            raise Bug("gateway: fleet and peers differ")
        if self._cards is not None and self._cards != self._ready():
            raise Bug("gateway: the cards kept are out of date")
        if any((peer.health == "ok") != (peer.view.suspect is None) for peer in self.peers.values()):
            raise Bug("gateway: routing and health disagree about a worker")
