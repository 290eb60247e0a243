"""The gateway node: requests in, attempts at workers out, tokens through, and nobody waits for the dead.

`handle(event, now)` is the only door; it never waits and never reads a clock. Promised: every stream ends exactly once,
its tokens are neither lost nor doubled whatever happens to workers, and every decision can be explained. Not promised:
that a parked stream finds a worker in time. Text, HTTP and connections are others' business.
"""

from collections.abc import Sequence
from math import inf

from xxhash import xxh3_64_intdigest

from jedlik.core.config import GatewayConfig, Role, WorkerConfig
from jedlik.core.effects import Drained, GatewayEffect, StreamEnded, ToPlanner, Wake
from jedlik.core.errors import Fault
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
from jedlik.core.facts import Answered, Routed
from jedlik.core.ids import GatewayId, Handle, RequestId, StreamId, WorkerId
from jedlik.core.protocol import (
    RUN_AHEAD_TOKENS,
    Cancel,
    Card,
    Facts,
    Load,
    Snapshot,
    State,
    Tokens,
)
from jedlik.core.requests import Request
from jedlik.core.tokens import count
from jedlik.kv.prefix import PrefixIndex
from jedlik.kv.prefix_chains import Naming
from jedlik.nodes.gateway.attempts import Attempts
from jedlik.nodes.gateway.outbox import Outbox
from jedlik.nodes.gateway.peers import Peer, acks_of
from jedlik.nodes.gateway.route import Router
from jedlik.nodes.gateway.streams import Stream
from jedlik.nodes.gateway.tokens import failure, retryable, take_plain, take_rest, take_started, take_tokens, violation
from jedlik.nodes.gateway.workers import Workers
from jedlik.routing.admit import RESTART_S, too_many
from jedlik.routing.choose import Policies
from jedlik.routing.policies.named import make
from jedlik.routing.policy import Policy
from jedlik.routing.view import Fleet

STALL_S = 0.5
"""A wake that comes later than this says that the gateway itself stood still: silence proves nothing then."""


class GatewayNode:
    """One gateway. `watch` has the limits for hung steps that its workers are run with.

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
        self._config = config
        self._watch = watch or WorkerConfig()
        self._ack_every = min(config.ack_every_tokens, RUN_AHEAD_TOKENS // 4)
        self._fleet = Fleet()
        self._index = PrefixIndex(config.index_bytes)
        policies = Policies(policy or make(), make(), shadow)
        first_turn = xxh3_64_intdigest(gateway.encode()) & 0xFFFFFFFF
        self._router = Router(config, naming, self._fleet, self._index, policies, first_turn)
        self._attempts = Attempts(config, self._router, self._fleet)
        self._peers = self._attempts.peers
        self._workers = Workers(config, self._watch, naming.check, self._attempts, self._router)
        self._draining = False
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
            ):  # the commonest message: tokens only, from a trusted worker with nothing to be told
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
            return self._consumed(event.stream, event.position)
        out = Outbox()
        self._dispatch(event, now, out)
        self._index.sweep()
        self._schedule(now, out)
        return out.close()

    def cards(self) -> Sequence[Card]:
        """Cards of the workers that something new could go to now, by id."""
        return self._workers.cards()

    def explain(self, request_id: RequestId) -> Sequence[Routed]:
        """Every routing decision about a request, oldest first; empty if unknown or forgotten."""
        return self._router.explain(request_id)

    def health(self) -> dict[str, object]:
        """JSON-able state of the gateway and its workers."""
        attempts = self._attempts
        idle = {"waiting": attempts.held_back(), "parked": len(attempts.parked)}
        return {
            "draining": self._draining,
            "in_flight": len(attempts.streams),
            **idle,
            "workers": self._workers.health(),
        }

    def roles(self) -> list[dict[str, object]]:
        """JSON-able: {worker, name, role, epoch} of every worker, and `told` while it has not yet answered a flip."""
        return self._workers.roles()

    def flip_refusal(self, worker: WorkerId, role: Role) -> str | None:
        """Why `Flip` would be ignored; None if it would not."""
        return self._workers.flip_refusal(worker, role)

    def held_back(self) -> int:
        """Choices that wait here for a better moment."""
        return self._attempts.held_back()

    def caches(self) -> dict[str, tuple[int, int]]:
        """Items and bytes of what is kept: blocks that workers hold, names of prompts' blocks."""
        return self._router.caches()

    def check(self) -> None:
        """Every invariant. Slow: for tests."""
        self._attempts.check()
        self._fleet.check()
        self._router.check()
        self._workers.check()

    # --- events ----------------------------------------------------------------------------------------------------

    def _dispatch(self, event: GatewayEvent, now: float, out: Outbox) -> None:
        match event:
            case FromWorker():
                self._from_worker(self._peers[event.worker], event.message, now, out)
            case Arrived():
                self._arrived(event.request, now, out)
            case Cut():
                self._cut(event.stream, event.position, now, out)
            case Abandoned():
                self._abandoned(event.request_id, now, out)
            case WorkerJoined():
                self._workers.joined(event.card, now, out)
            case Flip():
                self._workers.flip(event.worker, event.role, out)
            case WorkerLost():
                self._workers.lost(event.worker, event.reason, now, out)
            case Drain():
                self._draining = True
                if event.cut:
                    self._cut_all(now, out)
            case Woken():
                self._woken(now, out)

    def _arrived(self, request: Request, now: float, out: Outbox) -> None:
        fault = self._refusal(request)
        if fault is None:
            self._attempts.arrive(request, now, out)
            return
        self._attempts.tally.arrived(count(request.prompt), request.choices)
        for choice in range(request.choices):
            out.ended.append(StreamEnded(StreamId(request.first_stream + choice), "abort", None, fault))
            fact = Answered(
                request_id=request.request_id,
                choice=choice,
                outcome=fault.kind,
                prompt_tokens=count(request.prompt),
                cached_tokens=0,
                output_tokens=0,
                attempts=0,
                queued_s=None,
                ttft_s=None,
                duration_s=0.0,
            )
            self._attempts.tally.ended(fact, None, self._fleet)
            out.note(fact)

    def _refusal(self, request: Request) -> Fault | None:
        if self._draining:
            return Fault(
                kind="unavailable", message="this gateway is leaving: retry elsewhere", retry_after_s=RESTART_S
            )
        if request.request_id in self._attempts.streams:
            message = f"request id {request.request_id!r} is in flight already: ids must be unique"
            return Fault(kind="invalid", message=message, code="duplicate_request_id")
        return too_many(len(self._attempts.streams), request.choices, self._config.max_in_flight, self._fleet)

    def _cut(self, stream_id: StreamId, position: int, now: float, out: Outbox) -> None:
        stream = self._attempts.streams.get(stream_id)
        if stream is not None:
            self._cancel([stream], "cut", now, out, position)

    def _abandoned(self, request_id: RequestId, now: float, out: Outbox) -> None:
        self._cancel(self._attempts.streams.of(request_id), "abandoned", now, out)

    def _cancel(
        self, streams: list[Stream], outcome: str, now: float, out: Outbox, position: int | None = None
    ) -> None:
        cancelled: dict[WorkerId, list[Handle]] = {}
        for stream in streams:
            peer = stream.peer
            delivered = len(stream.output) if position is None else position
            handle = self._attempts.forget(stream, outcome, delivered, now, out)
            if peer is not None:
                cancelled.setdefault(peer.id, []).append(handle)
        for worker, handles in cancelled.items():
            out.send(worker, Cancel(handles))

    def _cut_all(self, now: float, out: Outbox) -> None:
        """This gateway leaves now: clients are told why their answers end here."""
        fault = Fault(kind="unavailable", message="the server is stopping and this answer took longer than it may wait")
        for stream in self._attempts.streams.everyone():
            peer, handle = stream.peer, self._attempts.release(stream)
            if peer is not None:
                out.send(peer.id, Cancel([handle]))
            self._attempts.end(stream, fault, now, out)

    def _consumed(self, stream_id: StreamId, position: int) -> list[GatewayEffect]:
        """Acknowledge now and then: with the worker's next tokens, or at once if it might be waiting for it."""
        stream = self._attempts.streams.get(stream_id)
        if stream is None or stream.peer is None or position - stream.acked < self._ack_every:
            return []
        peer, ahead = stream.peer, len(stream.output) - stream.acked
        stream.acked = peer.acks[stream.handle] = min(position, len(stream.output))
        return acks_of(peer) if ahead >= RUN_AHEAD_TOKENS // 2 else []

    def _from_worker(self, peer: Peer[Stream], message: WorkerMessage, now: float, out: Outbox) -> None:
        match message:
            case Tokens():
                self._tokens(peer, message, now, out)
            case Load():
                peer.view.report(message, now)
                self._fleet.rerank(peer.view)
            case Facts() | Snapshot():
                self._workers.follow(peer, message, now, out)
            case State():
                self._workers.state(peer, message, now, out)
        if self._attempts.waiting and isinstance(message, Tokens | Load):
            self._attempts.reconsider(now, out)
        if peer.id in self._peers and (peer.health != "ok" or isinstance(message, Load)):
            self._workers.judge(peer, now, out)

    # --- tokens ----------------------------------------------------------------------------------------------------

    def _tokens(self, peer: Peer[Stream], message: Tokens, now: float, out: Outbox) -> None:
        wrong = violation(message, peer.vocab_size)
        if wrong is not None:
            self._workers.fence(peer, f"broke the protocol: {wrong}", now, out)
            return
        out.effects += acks_of(peer)
        for stream in take_started(peer.attempts, message, out, now):
            if stream.prefiller is not None:
                self._attempts.supplied(stream, stream.handle)
            self._router.first_token(stream, now, out)
        finished = take_rest(peer.attempts, message, out)
        take_tokens(peer.attempts, message, out.streams, out.tokens)
        for stream, end in finished:
            fault = failure(end)
            self._attempts.release(stream)
            if fault is None:
                self._attempts.finish(stream, end.reason, end.stop_token, now, out)
            elif retryable(fault, stream):
                stream.avoid = stream.avoid | {peer.id}
                self._attempts.go_on(stream, fault, peer, now, out)
            else:
                self._attempts.end(stream, fault, now, out)

    # --- time ------------------------------------------------------------------------------------------------------

    def _woken(self, now: float, out: Outbox) -> None:
        self._wake_at = inf
        self._workers.look(now, out)
        self._attempts.expire(now, out)
        if now >= self._report_due(now):
            peers, attempts = self._peers.values(), self._attempts
            report = attempts.tally.report(self.gateway, peers, attempts.idle(), len(attempts.streams), now)
            out.effects.append(ToPlanner(report))

    def _report_due(self, now: float) -> float:
        return self._attempts.tally.due_s(now, self._config.report_s) if self._config.report_s else inf

    def _schedule(self, now: float, out: Outbox) -> None:
        due = max(now, min(self._workers.due, self._attempts.earliest, self._report_due(now)))
        if due < self._wake_at:
            self._wake_at = due
            out.effects.append(Wake(due))
        if self._draining and not self._drained and not self._attempts.streams:
            self._drained = True
            out.effects.append(Drained())
