"""Attempts at the choices in flight: placed, moved to another worker, waiting, parked while there is none, ended.

    arrive -> choose a worker -> at work at a peer -> ended
                 |     ^             |
                 |     +-- its attempt failed: elsewhere
                 +-> waiting (the policy says until when)    `routing/waiting`
                 +-> parked (no worker at all)

Invariant: a stream is in `streams` from its arrival to its end, and meanwhile in exactly one of the three states above.
Its booking lives no longer than its attempt. A request waits, or is refused, as a whole: its first choice decides.
The module is long because every transition between the states is here, and their invariant in one `check`.
"""

from math import inf

import msgspec

from jedlik.core.config import GatewayConfig
from jedlik.core.effects import GatewayEffect, StreamEnded
from jedlik.core.errors import Bug, Fault
from jedlik.core.facts import Migrated, Routed
from jedlik.core.ids import GatewayId, Handle, RequestId, StreamId, WorkerId
from jedlik.core.plans import Report
from jedlik.core.protocol import RUN_AHEAD_TOKENS, Cancel, FinishReason, Tokens
from jedlik.core.requests import Request
from jedlik.core.tokens import count
from jedlik.nodes.gateway.demand import Tally
from jedlik.nodes.gateway.route import Router, booking, learn_decode, learn_prefill, tried_by
from jedlik.nodes.gateway.streams import NO_HANDLE, Peer, Stream, Streams
from jedlik.nodes.gateway.tokens import Outbox, failure, retryable, take_rest, take_started, take_tokens
from jedlik.routing.admit import RESTART_S, no_worker, refused, too_late, too_many
from jedlik.routing.choose import Selection
from jedlik.routing.policy import Matches, Offer, Pair, Refuse, Wait
from jedlik.routing.view import Booking
from jedlik.routing.waiting import FirstCome, Waiter, WaitingOrder

LEAST_WAIT_S = 0.001
"""A policy that asks for a shorter wait is asked again after this."""


class Attempts:
    """Every stream from arrival to end. `peers` are the connected workers: `Workers` adds and removes them."""

    def __init__(self, config: GatewayConfig, router: Router, peers: dict[WorkerId, Peer]) -> None:
        self.peers = peers
        self.draining = False
        """New requests are refused from now on."""
        self.waiting: WaitingOrder[Stream] = FirstCome()
        self._config = config
        self._ack_every = min(config.ack_every_tokens, RUN_AHEAD_TOKENS // 4)
        self._router = router
        self._fleet = router.fleet
        self._streams = Streams()
        self._parked: dict[StreamId, Stream] = {}
        self._due = inf
        """No parked stream or waiting request has to be looked at before this time."""
        self._tally = Tally(config)
        self._last_handle = 0

    # --- what the gateway reports -------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of choices in flight."""
        return len(self._streams)

    def waiting_choices(self) -> int:
        """Return the number of choices that wait for a better moment."""
        return sum(len(waiter.choices) for waiter in self.waiting)

    def parked_choices(self) -> int:
        """Return the number of choices for which there is no worker."""
        return len(self._parked)

    def due_s(self, now: float) -> float:
        """Return when `expire` or `report` has something to do."""
        return min(self._due, self._report_due_s(now))

    def _report_due_s(self, now: float) -> float:
        return self._tally.due_s(now, self._config.report_s) if self._config.report_s else inf

    def report(self, gateway: GatewayId, now: float) -> Report | None:
        """Return the report to the planner, if it is due."""
        if now < self._report_due_s(now):
            return None
        idle = [*self._parked.values(), *(stream for waiter in self.waiting for stream in waiter.choices)]
        return self._tally.report(gateway, self.peers.values(), idle, len(self), now)

    # --- what clients do ----------------------------------------------------------------------------------------

    def arrive(self, request: Request, out: Outbox) -> None:
        """Take a request in and send its choices to work, or refuse it."""
        self._tally.arrived(count(request.prompt), request.choices)
        fault = self._refusal(request)
        if fault is not None:
            self._refuse(request, fault, out)
            return
        streams = [Stream(request=request, choice=choice, arrived_at=out.now) for choice in range(request.choices)]
        for stream in streams:
            self._streams.add(stream)
        self._begin(streams, out)

    def _refusal(self, request: Request) -> Fault | None:
        if self.draining:
            message = "this gateway is leaving: retry elsewhere"
            return Fault(kind="unavailable", message=message, retry_after_s=RESTART_S)
        if request.request_id in self._streams:
            message = f"request id {request.request_id!r} is in flight already: ids must be unique"
            return Fault(kind="invalid", message=message, code="duplicate_request_id")
        return too_many(len(self), request.choices, self._config.max_in_flight, self._fleet)

    def _refuse(self, request: Request, fault: Fault, out: Outbox) -> None:
        for choice in range(request.choices):
            out.ended.append(StreamEnded(StreamId(request.first_stream + choice), "abort", None, fault))
            fact = Stream(request=request, choice=choice, arrived_at=out.now).answered(fault.kind, 0, out.now)
            self._tally.ended(fact, None, self._fleet)
            out.note(fact)

    def cut(self, stream_id: StreamId, position: int, out: Outbox) -> None:
        """End a stream whose text has reached a stop string after `position` tokens."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._cancel([stream], "cut", out, position)

    def abandon(self, request_id: RequestId, out: Outbox) -> None:
        """End the streams of a request whose client has gone."""
        self._cancel(self._streams.of(request_id), "abandoned", out)

    def _cancel(self, streams: list[Stream], outcome: str, out: Outbox, position: int | None = None) -> None:
        cancelled: dict[WorkerId, list[Handle]] = {}
        for stream in streams:
            peer = stream.peer
            delivered = len(stream.output) if position is None else position
            handle = self._forget(stream, outcome, delivered, out)
            if peer is not None:
                cancelled.setdefault(peer.id, []).append(handle)
        for worker, handles in cancelled.items():
            out.send(worker, Cancel(handles))

    def cut_all(self, out: Outbox) -> None:
        """End every stream: this gateway stops now, and clients are told why their answers end here."""
        message = "the server is stopping and this answer took longer than it may wait"
        fault = Fault(kind="unavailable", message=message)
        for stream in list(self._streams):
            peer, handle = stream.peer, self._release(stream)
            if peer is not None:
                out.send(peer.id, Cancel([handle]))
            self._end(stream, fault, out)

    def consumed(self, stream_id: StreamId, position: int) -> list[GatewayEffect]:
        """Acknowledge now and then: with the worker's next tokens, or at once if it might be waiting for it."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.peer is None or position - stream.acked < self._ack_every:
            return []
        peer, ahead = stream.peer, len(stream.output) - stream.acked
        stream.acked = peer.acks[stream.handle] = min(position, len(stream.output))
        return peer.take_acks() if ahead >= RUN_AHEAD_TOKENS // 2 else []

    # --- what workers do ----------------------------------------------------------------------------------------

    def tokens(self, peer: Peer, message: Tokens, out: Outbox) -> None:
        """Take a sound message of tokens: first tokens, further ones, ends."""
        out.effects += peer.take_acks()
        for stream in take_started(peer.attempts, message, out):
            self._prefilled(stream, stream.handle)
            self._router.first_token(stream, out)
            learn_prefill(stream, out.now)
        finished = take_rest(peer.attempts, message, out)
        take_tokens(peer.attempts, message, out.streams, out.tokens)
        for stream, end in finished:
            fault = failure(end)
            learn_decode(stream, out.now)
            self._release(stream)
            if fault is None:
                self._finish(stream, end.reason, end.stop_token, out)
            elif retryable(fault, stream):
                stream.avoid = stream.avoid | {peer.id}
                self._go_on(stream, fault, peer, out)
            else:
                self._end(stream, fault, out)

    def lose(self, peer: Peer, fault: Fault, out: Outbox) -> None:
        """Let the streams of a worker that has gone continue elsewhere, oldest first."""
        for stream in list(peer.attempts.values()):
            self._release(stream)
            self._go_on(stream, fault, peer, out)

    def _go_on(self, stream: Stream, fault: Fault, peer: Peer, out: Outbox) -> None:
        """End a stream that was released at `peer` if it is complete, else try elsewhere."""
        complete, stop_token = stream.complete(peer.view.card.eos_token_ids)
        if complete:
            self._finish(stream, "length" if stop_token is None else "stop", stop_token, out)
            return
        stream.reason = fault.message
        if stream.attempt >= self._config.max_attempts:
            message = f"given up after {stream.attempt} attempts: {fault.message}"
            self._end(stream, msgspec.structs.replace(fault, message=message), out)
            return
        self._place(stream, self._router.matches(stream), out, fault)

    def retry_parked(self, out: Outbox) -> None:
        """Try the parked streams: a worker may have become available."""
        if not any(peer.view.trusted() for peer in self.peers.values()):
            return
        for stream in list(self._parked.values()):
            if stream.id not in self._parked:
                continue  # it began with another choice of its request
            if stream.attempt:
                del self._parked[stream.id]
                self._place(stream, self._router.matches(stream), out)
                continue
            choices = [s for s in self._streams.of(stream.request.request_id) if s.id in self._parked and not s.attempt]
            for choice in choices:
                del self._parked[choice.id]
            self._begin(choices, out)

    def reconsider(self, out: Outbox) -> None:
        """Try the requests that wait and are next: a worker has changed."""
        for waiter in self.waiting.next_up():
            self._begin(waiter.choices, out)

    def expire(self, out: Outbox) -> None:
        """Try waiting requests that are due, and give up parked streams whose time is over."""
        if out.now < self._due:
            return
        for waiter in self.waiting.due(out.now):
            self._begin(waiter.choices, out)
        for stream in [s for s in self._parked.values() if s.park_until <= out.now]:
            deadline = stream.deadline()
            if deadline is not None and deadline <= out.now:
                fault = Fault(kind="timeout", message="the deadline passed while no worker was available")
            else:
                fault = no_worker(stream.request.model, out.now - stream.arrived_at, stream.reason)
            self._end(stream, fault, out)
        self._due = min([self.waiting.next_due_s(), *(stream.park_until for stream in self._parked.values())])

    # --- one stream ---------------------------------------------------------------------------------------------

    def _begin(self, choices: list[Stream], out: Outbox) -> None:
        """Send a request's choices to work, none of which was there before; or let all wait, or refuse all."""
        stream = choices[0]
        matches = self._router.matches(stream)
        selection, routed = self._router.route(stream, matches, out.now, True)
        if selection.deferred is not None:
            self._defer(choices, selection.deferred, routed, out)
            return
        if self.waiting.release(stream.request.request_id) is not None:
            for other in choices:
                other.park_until = 0.0
        self._follow(stream, matches, selection, routed, out)
        for other in choices[1:]:
            self._place(other, matches, out)

    def _place(self, stream: Stream, matches: Matches, out: Outbox, fault: Fault | None = None) -> None:
        """Begin an attempt of a stream that was taken in. `fault` is why the last one failed."""
        selection, routed = self._router.route(stream, matches, out.now, False)
        self._follow(stream, matches, selection, routed, out, fault)

    def _follow(
        self,
        stream: Stream,
        matches: Matches,
        selection: Selection,
        routed: Routed,
        out: Outbox,
        fault: Fault | None = None,
    ) -> None:
        """Submit the stream as was chosen, or park or end it where that can't be."""
        if selection.chosen is None:
            if stream.attempt == 0 and not stream.park_until:
                self._router.remember(routed, out)
            self._park(stream, fault, out)
            return
        deadline = stream.deadline()
        late = too_late(routed.predicted_ttft_s, None if deadline is None else deadline - out.now)
        if late is not None and stream.attempt == 0:
            shed = "deadline" if late.kind == "overloaded" else ""
            routed = msgspec.structs.replace(routed, chosen=None, deferred=late.message, shed=shed)
            self._router.remember(routed, out)
            self._end(stream, late, out)
            return
        self._router.remember(routed, out)
        stream.routed, stream.modelled_s, stream.rest_s = routed, selection.first_token_s, 0.0
        assert selection.offer is not None
        stream.tried = selection.offer.view
        if selection.offer.pair is not None:
            stream.tried, stream.modelled_s, stream.rest_s = tried_by(selection.offer, selection.offer.pair)
        self._submit(stream, selection.offer, out)
        if stream.request.choices > 1 and stream.request.sampling.prompt_logprobs is None:
            self._share(stream, selection.offer, matches)

    def _defer(self, choices: list[Stream], deferred: Wait | Refuse, routed: Routed, out: Outbox) -> None:
        """Let choices wait for a better moment, or end them if there will be none in time."""
        request, deadline = choices[0].request, choices[0].deadline()
        if self.waiting.get(request.request_id) is None or isinstance(deferred, Refuse):
            self._router.remember(routed, out)
        if isinstance(deferred, Refuse):
            self._router.refused(choices[0], deferred, out.now)
            fault = refused(deferred)
        elif deadline is not None and deadline <= out.now:
            fault = Fault(kind="timeout", message="the deadline passed while no worker could take it well")
        else:
            until_s = out.now + max(deferred.seconds, LEAST_WAIT_S)
            self._wait(choices, until_s if deadline is None else min(until_s, deadline))
            return
        for choice in list(choices):
            self._end(choice, fault, out)

    def _wait(self, choices: list[Stream], until_s: float) -> None:
        request = choices[0].request
        for choice in choices:
            choice.park_until = until_s
        waiter = Waiter(
            request_id=request.request_id,
            tenant=request.tenant,
            priority=request.priority,
            since_s=choices[0].arrived_at,
            until_s=until_s,
            choices=choices,
        )
        self.waiting.hold(waiter)
        self._due = min(self._due, until_s)

    def _share(self, stream: Stream, chosen: Offer, matches: Matches) -> None:
        """Count the tokens that this attempt will compute as cached for the request's next choices."""
        pair = chosen.pair
        worker = chosen.worker if pair is None or not pair.compute else pair.worker
        size = chosen.view.card.layout.block_size
        cached = stream.history_tokens() // size * size
        matches.shared[worker] = matches.shared.get(worker, 0) + max(0, cached - matches.cached.get(worker, 0))
        matches.cached[worker] = cached

    def _submit(self, stream: Stream, chosen: Offer, out: Outbox) -> None:
        request, peer = stream.request, self.peers[chosen.worker]
        if stream.attempt:
            out.note(Migrated(request.request_id, stream.attempt + 1, len(stream.output), stream.reason))
        history, pair = stream.history_tokens(), chosen.pair
        self._last_handle += 1
        stream.attempt += 1
        stream.handle, stream.peer, stream.card = Handle(self._last_handle), peer, peer.view.card
        stream.at_idle, stream.mark = pair is None and not peer.view.sequences, None
        stream.number = peer.view.book(booking(chosen, history))
        stream.acked = len(stream.output)
        peer.attempts[stream.handle] = stream
        self._fleet.rerank(peer.view)
        if pair is not None:
            self._book_prefill(stream, pair, history, out.now)
        out.send(peer.id, stream.submit(pair, out.now))

    def _book_prefill(self, stream: Stream, pair: Pair, history: int, now: float) -> None:
        """Book what another worker has to compute for an attempt; sending what it has is no work."""
        if pair.compute:
            cached = history - 1 - pair.computed_tokens
            stream.prefiller = pair.source
            pair.source.book_remote_prefill(stream.handle, Booking(pair.computed_tokens, 0, cached), now)
            self._fleet.rerank(pair.source)

    def _prefilled(self, stream: Stream, handle: Handle) -> None:
        """End the booking at the worker that was to prefill for an attempt, if there is one."""
        view, stream.prefiller = stream.prefiller, None
        if view is not None:
            view.release_remote_prefill(handle)
            if self._fleet.get(view.card.worker) is view:  # else it has left, and perhaps come again
                self._fleet.rerank(view)

    def _park(self, stream: Stream, fault: Fault | None, out: Outbox) -> None:
        """Let a stream without a worker wait for one if that may help, else end it."""
        wait_s = self._config.migration_wait_s if stream.attempt else self._config.no_worker_wait_s
        if fault is not None and fault.kind == "overloaded":
            self._end(stream, fault, out)
        elif wait_s <= 0:
            self._end(stream, no_worker(stream.request.model), out)
        else:
            deadline = stream.deadline()
            if not stream.park_until or fault is not None:
                stream.park_until = out.now + wait_s if deadline is None else min(out.now + wait_s, deadline)
            self._parked[stream.id] = stream
            self._due = min(self._due, stream.park_until)

    def _release(self, stream: Stream) -> Handle:
        """Take a stream from its worker: later tokens of this attempt are stale. Returns the handle to cancel."""
        handle, peer = stream.handle, stream.peer
        if peer is None:
            return NO_HANDLE
        del peer.attempts[handle]
        peer.acks.pop(handle, None)
        peer.view.unbook(stream.number)
        if peer.id in self.peers:
            self._fleet.rerank(peer.view)
        self._prefilled(stream, handle)
        stream.peer, stream.handle = None, NO_HANDLE
        return handle

    def _end(self, stream: Stream, fault: Fault, out: Outbox) -> None:
        """End a stream with a fault."""
        out.ended.append(StreamEnded(stream.id, "abort", None, fault))
        self._forget(stream, fault.kind, len(stream.output), out)

    def _finish(self, stream: Stream, reason: FinishReason, stop_token: int | None, out: Outbox) -> None:
        """End a stream well."""
        out.ended.append(StreamEnded(stream.id, reason, stop_token))
        self._forget(stream, reason, len(stream.output), out)

    def _forget(self, stream: Stream, outcome: str, output_tokens: int, out: Outbox) -> Handle:
        """Drop a stream without a word to the frontend; returns the handle to cancel, if one was at work."""
        handle = self._release(stream)
        self._parked.pop(stream.id, None)
        waiter = self.waiting.get(stream.request.request_id)
        if waiter is not None and stream in waiter.choices:
            waiter.choices.remove(stream)
            if not waiter.choices:
                self.waiting.release(waiter.request_id)
        self._streams.remove(stream)
        self._router.answered(stream, outcome, output_tokens)
        fact = stream.answered(outcome, output_tokens, out.now)
        self._tally.ended(fact, stream, self._fleet)
        out.note(fact)
        return handle

    def check(self) -> None:
        """Raise Bug unless every stream is at work at one peer, parked or waiting, and bookings have live attempts."""
        self._streams.check()
        self.waiting.check()
        at_work = 0
        for peer in self.peers.values():
            at_work += len(peer.attempts)
            if any(s.peer is not peer or s.handle != handle for handle, s in peer.attempts.items()):
                raise Bug(f"gateway: an attempt at {peer.id} belongs to a stream that is elsewhere")
            if not peer.view.bookings.keys() <= {s.number for s in peer.attempts.values()}:
                raise Bug(f"gateway: bookings at {peer.id} without an attempt")
            if not peer.view.remote_prefills.keys() <= {s.handle for s in self._streams if s.prefiller is peer.view}:
                raise Bug(f"gateway: {peer.id} is booked for prefills that no attempt waits for")
            if not peer.acks.keys() <= peer.attempts.keys():
                raise Bug(f"gateway: acknowledgements at {peer.id} without an attempt")
        if any(s.prefiller is not None and s.peer is None for s in self._streams):
            raise Bug("gateway: somebody prefills for a stream without an attempt")
        for waiter in self.waiting:
            if any(s.attempt or s.id in self._parked for s in waiter.choices):
                raise Bug(f"gateway: {waiter.request_id} waits though it was taken in, or is parked")
            if not all(
                s.request.request_id == waiter.request_id and self._streams.get(s.id) is s for s in waiter.choices
            ):
                raise Bug(f"gateway: what waits as {waiter.request_id} is not in flight as that")
        if at_work + len(self._parked) + self.waiting_choices() != len(self._streams):
            idle = f"{len(self._parked)} parked, {self.waiting_choices()} waiting"
            raise Bug(f"gateway: {len(self._streams)} streams, {at_work} at work, {idle}")
