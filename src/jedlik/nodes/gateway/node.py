"""The gateway node: requests in, attempts at workers out, tokens through, and nobody waits for the dead.

`handle(event, now)` is the only door; it never waits and never reads a clock. Promised: every stream ends exactly once,
its tokens are neither lost nor doubled whatever happens to workers, and every decision can be explained. Not promised:
that a parked stream finds a worker in time. Text, HTTP and connections are others' business.

Where to read on: `attempts` (a stream from arrival to end), `route` (the choice of a worker), `workers` (who is
connected and trusted), `tokens` (the hot path), `streams` (the records), `demand` (reports to the planner).
"""

from collections.abc import Sequence
from math import inf

from xxhash import xxh3_64_intdigest

from jedlik.core.config import GatewayConfig, Role, WorkerConfig
from jedlik.core.effects import Drained, GatewayEffect, ToPlanner, Wake
from jedlik.core.events import (
    Abandoned,
    Arrived,
    Consumed,
    Cut,
    Drain,
    Flip,
    FromWorker,
    GatewayEvent,
    Woken,
    WorkerJoined,
    WorkerLost,
    WorkerMessage,
)
from jedlik.core.facts import Routed
from jedlik.core.ids import GatewayId, RequestId, WorkerId
from jedlik.core.protocol import Card, Facts, Load, Snapshot, State, Tokens
from jedlik.kv.prefix import PrefixIndex
from jedlik.kv.prefix_chains import Naming
from jedlik.nodes.gateway.attempts import Attempts
from jedlik.nodes.gateway.route import Router
from jedlik.nodes.gateway.streams import Peer
from jedlik.nodes.gateway.tokens import Outbox, take_plain, violation
from jedlik.nodes.gateway.workers import Workers
from jedlik.routing.choose import Policies
from jedlik.routing.policies.named import make
from jedlik.routing.policy import Policy
from jedlik.routing.view import Fleet

STALL_S = 0.5
"""A wake that comes later than this shows that the gateway itself stood still: silence proves nothing then."""


class GatewayNode:
    """One gateway. `watch` has the limits for hung steps that its workers run with.

    `policy` chooses workers (default: `jedlik`), `shadow` is asked and never followed; both are this gateway's alone.
    """

    def __init__(
        self,
        config: GatewayConfig,
        gateway: GatewayId,
        naming: Naming,
        watch: WorkerConfig | None = None,
        policy: Policy | None = None,
        shadow: Policy | None = None,
    ) -> None:
        self.gateway = gateway
        self._watch = watch or WorkerConfig()
        self._fleet = Fleet()
        self._index = PrefixIndex(config.index_bytes)
        policies = Policies(policy or make(), make(), shadow)
        first_turn = xxh3_64_intdigest(gateway.encode()) & 0xFFFFFFFF
        self._router = Router(config, naming, self._fleet, self._index, policies, first_turn)
        self._peers: dict[WorkerId, Peer] = {}
        self._attempts = Attempts(config, self._router, self._peers)
        self._workers = Workers(config, self._watch, naming.check, self._attempts, self._router)
        self._drained = False
        self._wake_at = inf

    def handle(self, event: GatewayEvent, now: float) -> list[GatewayEffect]:
        """Take an event at time `now` (seconds); returns what is to be done, in order."""
        if now > self._wake_at + STALL_S:
            self._workers.forgive(now)
            self._wake_at = inf
        if isinstance(event, FromWorker):
            peer = self._peers.get(event.worker)
            if peer is None:
                return []
            peer.heard_at = now
            message = event.message
            if isinstance(message, Tokens) and not (
                message.started or message.finished or message.logprobs or peer.acks or peer.health != "ok"
            ):  # the commonest message: tokens only, from a trusted worker, with nothing to acknowledge
                delivery = take_plain(peer.attempts, message, peer.vocab_size)
                if delivery is not None:
                    return delivery
            elif (
                isinstance(message, Load)
                and peer.health == "ok"
                and not self._attempts.waiting
                and message.step_age_s <= self._watch.hung_step_s
            ):  # the next most common: a report of nothing unusual
                peer.view.report(message, now)
                self._fleet.rerank(peer.view)
                return []
        elif isinstance(event, Consumed):
            return self._attempts.consumed(event.stream, event.position)
        out = Outbox(now)
        self._dispatch(event, out)
        self._index.sweep()
        self._schedule(out)
        return out.close()

    def cards(self) -> Sequence[Card]:
        """Return the cards of the workers that something new could go to now, by id."""
        return self._workers.cards()

    def explain(self, request_id: RequestId) -> Sequence[Routed]:
        """Return every routing decision about a request, oldest first; empty if unknown or forgotten."""
        return self._router.explain(request_id)

    def health(self) -> dict[str, object]:
        """Return the state of the gateway and its workers, JSON-able."""
        return {
            "draining": self._attempts.draining,
            "in_flight": len(self._attempts),
            "waiting": self._attempts.waiting_choices(),
            "parked": self._attempts.parked_choices(),
            "workers": self._workers.health(),
        }

    def roles(self) -> list[dict[str, object]]:
        """Return {worker, name, role, epoch} of every worker, JSON-able; `told` while it has not answered a flip."""
        return self._workers.roles()

    def flip_refusal(self, worker: WorkerId, role: Role) -> str | None:
        """Return why `Flip` would be ignored; None if it would not."""
        return self._workers.flip_refusal(worker, role)

    def waiting_choices(self) -> int:
        """Return the number of choices that wait here for a better moment."""
        return self._attempts.waiting_choices()

    def caches(self) -> dict[str, tuple[int, int]]:
        """Return items and bytes of each cache: blocks that workers have, names of prompts' blocks, decisions."""
        return self._router.caches()

    def check(self) -> None:
        """Raise Bug if any invariant is broken. Slow: for tests."""
        self._attempts.check()
        self._fleet.check()
        self._router.check()
        self._workers.check()

    # --- events ----------------------------------------------------------------------------------------------------

    def _dispatch(self, event: GatewayEvent, out: Outbox) -> None:
        match event:
            case FromWorker():
                self._from_worker(self._peers[event.worker], event.message, out)
            case Arrived():
                self._attempts.arrive(event.request, out)
            case Cut():
                self._attempts.cut(event.stream, event.position, out)
            case Abandoned():
                self._attempts.abandon(event.request_id, out)
            case WorkerJoined():
                self._workers.joined(event.card, out)
            case Flip():
                self._workers.flip(event.worker, event.role, out)
            case WorkerLost():
                self._workers.lost(event.worker, event.reason, out)
            case Drain():
                self._attempts.draining = True
                if event.cut:
                    self._attempts.cut_all(out)
            case Woken():
                self._woken(out)

    def _from_worker(self, peer: Peer, message: WorkerMessage, out: Outbox) -> None:
        match message:
            case Tokens():
                wrong = violation(message, peer.vocab_size)
                if wrong is None:
                    self._attempts.tokens(peer, message, out)
                else:
                    self._workers.fence(peer, f"broke the protocol: {wrong}", out)
            case Load():
                peer.view.report(message, out.now)
                self._fleet.rerank(peer.view)
            case Facts() | Snapshot():
                self._workers.follow(peer, message, out)
            case State():
                self._workers.state(peer, message, out)
        if self._attempts.waiting and isinstance(message, Tokens | Load):
            self._attempts.reconsider(out)
        if peer.id in self._peers and (peer.health != "ok" or isinstance(message, Load)):
            self._workers.judge(peer, out)

    def _woken(self, out: Outbox) -> None:
        self._wake_at = inf
        self._workers.look(out)
        self._attempts.expire(out)
        report = self._attempts.report(self.gateway, out.now)
        if report is not None:
            out.effects.append(ToPlanner(report))

    def _schedule(self, out: Outbox) -> None:
        due = max(out.now, min(self._workers.due, self._attempts.due_s(out.now)))
        if due < self._wake_at:
            self._wake_at = due
            out.effects.append(Wake(due))
        if self._attempts.draining and not self._drained and not len(self._attempts):
            self._drained = True
            out.effects.append(Drained())
