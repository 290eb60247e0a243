"""Attempts at the choices in flight: placed, moved to another worker, held back, parked while there is none, ended.

Invariant: a stream is in `streams` from its arrival to its end, and meanwhile either at work at one peer (which counts
it among its attempts), or parked until there is a worker, or waiting for a better moment (its policy says until when).
Its booking lives no longer than its attempt. A request waits, or is refused, as a whole: its first choice decides.
"""

from itertools import islice
from math import inf

import msgspec

from jedlik.core.config import GatewayConfig
from jedlik.core.effects import StreamEnded
from jedlik.core.errors import Bug, Fault
from jedlik.core.facts import Migrated, Routed
from jedlik.core.ids import Handle, RequestId, StreamId, WorkerId
from jedlik.core.protocol import FinishReason, Remote, Submit
from jedlik.core.requests import Request
from jedlik.core.tokens import count, pack
from jedlik.nodes.gateway.demand import Tally
from jedlik.nodes.gateway.outbox import Outbox
from jedlik.nodes.gateway.peers import Peer
from jedlik.nodes.gateway.route import Router
from jedlik.nodes.gateway.streams import NO_HANDLE, Stream, Streams
from jedlik.routing.admit import no_worker, refused, too_late
from jedlik.routing.choose import Selection
from jedlik.routing.cost import Dispatch, own_work
from jedlik.routing.pairs import first_token_s
from jedlik.routing.policy import Matches, Offer, Pair, Refuse, Wait
from jedlik.routing.view import Booking, Fleet, WorkerView

MAX_LOOKS = 4
"""Waiting requests that are looked at when a worker has changed: who comes first is not overtaken by many."""
LEAST_WAIT_S = 0.001
"""A policy that says a shorter one is asked again after this."""


class Attempts:
    """Every stream's way from arrival to end."""

    def __init__(self, config: GatewayConfig, router: Router, fleet: Fleet) -> None:
        self._config = config
        self._router = router
        self._fleet = fleet
        self.streams = Streams()
        self.peers: dict[WorkerId, Peer[Stream]] = {}
        self.parked: dict[StreamId, Stream] = {}
        self.waiting: dict[RequestId, list[Stream]] = {}
        """In order of arrival, with the choices that are still wanted."""
        self.earliest = inf
        """No parked stream or waiting request has to be looked at before this time."""
        self.tally = Tally(config)
        self._last_handle = 0

    def arrive(self, request: Request, now: float, out: Outbox) -> None:
        """Take a request in and send its choices to work."""
        self.tally.arrived(count(request.prompt), request.choices)
        streams = [Stream(request, choice, now) for choice in range(request.choices)]
        for stream in streams:
            self.streams.add(stream)
        self._begin(streams, now, out)

    def move(self, stream: Stream, fault: Fault, now: float, out: Outbox) -> None:
        """A stream has lost its attempt (already released): end it if it is complete, else try elsewhere."""
        stream.reason = fault.message
        if stream.attempt >= self._config.max_attempts:
            message = f"given up after {stream.attempt} attempts: {fault.message}"
            self.end(stream, msgspec.structs.replace(fault, message=message), now, out)
            return
        self._place(stream, self._router.matches(stream), now, out, fault)

    def go_on(self, stream: Stream, fault: Fault, peer: Peer[Stream], now: float, out: Outbox) -> None:
        """A stream was released at `peer` for a fault: go on elsewhere, or end it if it is complete."""
        complete, stop_token = stream.complete(peer.view.card.eos_token_ids)
        if complete:
            self.finish(stream, "length" if stop_token is None else "stop", stop_token, now, out)
        else:
            self.move(stream, fault, now, out)

    def retry_parked(self, now: float, out: Outbox) -> None:
        """A worker may have become available."""
        if not any(peer.view.trusted() for peer in self.peers.values()):
            return
        for stream in list(self.parked.values()):
            if stream.id not in self.parked:
                continue  # it began with another choice of its request
            if stream.attempt:
                del self.parked[stream.id]
                self._place(stream, self._router.matches(stream), now, out)
                continue
            choices = [s for s in self.streams.of(stream.request.request_id) if s.id in self.parked and not s.attempt]
            for choice in choices:
                del self.parked[choice.id]
            self._begin(choices, now, out)

    def reconsider(self, now: float, out: Outbox) -> None:
        """A worker has changed: the first of those who wait for a better moment may have it."""
        for choices in list(islice(self.waiting.values(), MAX_LOOKS)):
            self._begin(choices, now, out)

    def held_back(self) -> int:
        """Choices that wait for a better moment."""
        return sum(map(len, self.waiting.values()))

    def idle(self) -> list[Stream]:
        """Choices that no worker is at work on: parked, or waiting for a better moment."""
        return [*self.parked.values(), *(stream for choices in self.waiting.values() for stream in choices)]

    def expire(self, now: float, out: Outbox) -> None:
        """Look at waiting requests again that are due, and give up parked streams whose time is over."""
        if now < self.earliest:
            return
        for choices in [choices for choices in self.waiting.values() if choices[0].park_until <= now]:
            self._begin(choices, now, out)
        for stream in [s for s in self.parked.values() if s.park_until <= now]:
            deadline = stream.deadline()
            if deadline is not None and deadline <= now:
                fault = Fault(kind="timeout", message="the deadline passed while no worker was available")
            else:
                fault = no_worker(stream.request.model, now - stream.arrived_at, stream.reason)
            self.end(stream, fault, now, out)
        idle = (*self.parked.values(), *(choices[0] for choices in self.waiting.values()))
        self.earliest = min((s.park_until for s in idle), default=inf)

    def release(self, stream: Stream) -> Handle:
        """Take a stream from its worker: later tokens of this attempt are stale. Returns the handle to cancel."""
        handle, peer = stream.handle, stream.peer
        if peer is None:
            return NO_HANDLE
        del peer.attempts[handle]
        peer.acks.pop(handle, None)
        peer.view.unbook(stream.number)
        if peer.id in self.peers:
            self._fleet.rerank(peer.view)
        if stream.prefiller is not None:
            self.supplied(stream, handle)
        stream.peer, stream.handle = None, NO_HANDLE
        return handle

    def supplied(self, stream: Stream, handle: Handle) -> None:
        """What another worker was to prefill for an attempt is done, or not wanted any more. Else a no-op."""
        view, stream.prefiller = stream.prefiller, None
        if view is not None:
            view.release_remote_prefill(handle)
            if self._fleet.get(view.card.worker) is view:  # else it has left, and perhaps come again
                self._fleet.rerank(view)

    def end(self, stream: Stream, fault: Fault, now: float, out: Outbox) -> None:
        """End a stream with a fault."""
        out.ended.append(StreamEnded(stream.id, "abort", None, fault))
        self.forget(stream, fault.kind, len(stream.output), now, out)

    def finish(self, stream: Stream, reason: FinishReason, stop_token: int | None, now: float, out: Outbox) -> None:
        """End a stream well."""
        out.ended.append(StreamEnded(stream.id, reason, stop_token))
        self.forget(stream, reason, len(stream.output), now, out)

    def forget(self, stream: Stream, outcome: str, output_tokens: int, now: float, out: Outbox) -> Handle:
        """Drop a stream without a word to the frontend; returns the handle to cancel, if one was at work."""
        handle = self.release(stream)
        self.parked.pop(stream.id, None)
        if self.waiting:
            self._unwait(stream)
        self.streams.remove(stream)
        self._router.answered(stream, outcome, output_tokens)
        fact = stream.answered(outcome, output_tokens, now)
        self.tally.ended(fact, stream, self._fleet)
        out.note(fact)
        return handle

    def _begin(self, choices: list[Stream], now: float, out: Outbox) -> None:
        """Send a request's choices to work, none of which was there before; or hold all back, or refuse all."""
        stream = choices[0]
        matches = self._router.matches(stream)
        selection, routed = self._router.route(stream, matches, now, True)
        if selection.deferred is not None:
            self._hold(choices, selection.deferred, routed, now, out)
            return
        if self.waiting.pop(stream.request.request_id, None) is not None:
            for other in choices:
                other.park_until = 0.0
        self._follow(stream, matches, selection, routed, now, out)
        for other in choices[1:]:
            self._place(other, matches, now, out)

    def _place(self, stream: Stream, matches: Matches, now: float, out: Outbox, fault: Fault | None = None) -> None:
        """Begin an attempt of what was taken in. `fault` is why the last one failed."""
        selection, routed = self._router.route(stream, matches, now, False)
        self._follow(stream, matches, selection, routed, now, out, fault)

    def _follow(
        self,
        stream: Stream,
        matches: Matches,
        selection: Selection,
        routed: Routed,
        now: float,
        out: Outbox,
        fault: Fault | None = None,
    ) -> None:
        """Do as was chosen, or park or end the stream where that can't be."""
        if selection.chosen is None:
            if stream.attempt == 0 and not stream.park_until:
                self._tell(routed, out)
            self._do_without(stream, fault, now, out)
            return
        deadline = stream.deadline()
        late = too_late(routed.predicted_ttft_s, None if deadline is None else deadline - now)
        if late is not None and stream.attempt == 0:
            shed = "deadline" if late.kind == "overloaded" else ""
            self._tell(msgspec.structs.replace(routed, chosen=None, deferred=late.message, shed=shed), out)
            self.end(stream, late, now, out)
            return
        self._tell(routed, out)
        stream.routed, stream.modelled_s, stream.rest_s = routed, selection.first_token_s, 0.0
        assert selection.offer is not None
        stream.tried = selection.offer.view
        if selection.offer.pair is not None:
            stream.tried, stream.modelled_s, stream.rest_s = tried_by(selection.offer, selection.offer.pair)
        self._submit(stream, selection.offer, now, out)
        if stream.request.choices > 1 and stream.request.sampling.prompt_logprobs is None:
            self._share(stream, selection.offer, matches)

    def _hold(self, choices: list[Stream], deferred: Wait | Refuse, routed: Routed, now: float, out: Outbox) -> None:
        """Nowhere now: wait for a better moment, or end them if there will be none in time."""
        stream = choices[0]
        request_id, deadline = stream.request.request_id, stream.deadline()
        if request_id not in self.waiting or isinstance(deferred, Refuse):
            self._tell(routed, out)
        fault = None
        if isinstance(deferred, Refuse):
            self._router.refused(stream, deferred, now)
            fault = refused(deferred)
        elif deadline is not None and deadline <= now:
            fault = Fault(kind="timeout", message="the deadline passed while no worker could take it well")
        if fault is not None:
            for choice in list(choices):
                self.end(choice, fault, now, out)
            return
        until = now + max(deferred.seconds, LEAST_WAIT_S) if isinstance(deferred, Wait) else now
        for choice in choices:
            choice.park_until = until if deadline is None else min(until, deadline)
        self.waiting[request_id] = choices
        self.earliest = min(self.earliest, stream.park_until)

    def _unwait(self, stream: Stream) -> None:
        request_id = stream.request.request_id
        choices = self.waiting.get(request_id, [])
        if stream in choices:
            choices.remove(stream)
            if not choices:
                del self.waiting[request_id]

    def _tell(self, routed: Routed, out: Outbox) -> None:
        self._router.remember(routed)
        out.note(routed)

    def _share(self, stream: Stream, chosen: Offer, matches: Matches) -> None:
        """What this attempt will compute is as good as cached for the request's next choices, where it is computed."""
        pair = chosen.pair
        worker = chosen.worker if pair is None or not pair.compute else pair.worker
        size = chosen.view.card.layout.block_size
        cached = stream.history_tokens() // size * size
        matches.shared[worker] = matches.shared.get(worker, 0) + max(0, cached - matches.cached.get(worker, 0))
        matches.cached[worker] = cached

    def _submit(self, stream: Stream, chosen: Offer, now: float, out: Outbox) -> None:
        request, peer = stream.request, self.peers[chosen.worker]
        if stream.attempt:
            out.note(Migrated(request.request_id, stream.attempt + 1, len(stream.output), stream.reason))
        history, pair = stream.history_tokens(), chosen.pair
        self._last_handle += 1
        stream.attempt += 1
        stream.handle, stream.peer = Handle(self._last_handle), peer
        plain = Booking(max(1, history - chosen.cached_tokens), history)
        stream.number = peer.view.book(booking(chosen, history) if pair or chosen.tiers else plain)
        stream.acked = len(stream.output)
        peer.attempts[stream.handle] = stream
        self._fleet.rerank(peer.view)
        if pair is not None:
            self._book_prefill(stream, pair, history, now)
        out.send(peer.id, submit_of(stream, pair, now))

    def _book_prefill(self, stream: Stream, pair: Pair, history: int, now: float) -> None:
        """Book what another worker has to compute for an attempt; sending what it has is no work."""
        if pair.compute:
            cached = history - 1 - pair.computed_tokens
            stream.prefiller = pair.source
            pair.source.book_remote_prefill(stream.handle, Booking(pair.computed_tokens, 0, cached), now)
            self._fleet.rerank(pair.source)

    def _do_without(self, stream: Stream, fault: Fault | None, now: float, out: Outbox) -> None:
        """There is no worker for a stream: wait for one if that may help, else end it."""
        wait_s = self._config.migration_wait_s if stream.attempt else self._config.no_worker_wait_s
        if fault is not None and fault.kind == "overloaded":
            self.end(stream, fault, now, out)
        elif wait_s <= 0:
            self.end(stream, no_worker(stream.request.model), now, out)
        else:
            deadline = stream.deadline()
            if not stream.park_until or fault is not None:
                stream.park_until = now + wait_s if deadline is None else min(now + wait_s, deadline)
            self.parked[stream.id] = stream
            self.earliest = min(self.earliest, stream.park_until)

    def check(self) -> None:
        """Every stream is at work at one peer, parked or waiting; bookings belong to live attempts."""
        self.streams.check()
        at_work = 0
        for peer in self.peers.values():
            at_work += len(peer.attempts)
            if any(s.peer is not peer or s.handle != handle for handle, s in peer.attempts.items()):
                raise Bug(f"gateway: an attempt at {peer.id} belongs to a stream that is elsewhere")
            if not peer.view.bookings.keys() <= {s.number for s in peer.attempts.values()}:
                raise Bug(f"gateway: bookings at {peer.id} without an attempt")
            if not peer.view.remote_prefills.keys() <= {s.handle for s in self.streams if s.prefiller is peer.view}:
                raise Bug(f"gateway: {peer.id} is booked for prefills that no attempt waits for")
            if not peer.acks.keys() <= peer.attempts.keys():
                raise Bug(f"gateway: acknowledgements at {peer.id} without an attempt")
        if any(s.prefiller is not None and s.peer is None for s in self.streams):
            raise Bug("gateway: somebody prefills for a stream without an attempt")
        for request_id, choices in self.waiting.items():
            if not choices or any(s.attempt or s.id in self.parked for s in choices):
                raise Bug(f"gateway: {request_id} waits though it was taken in, is parked or has nothing left")
            if not all(s.request.request_id == request_id and self.streams.get(s.id) is s for s in choices):
                raise Bug(f"gateway: what waits as {request_id} is not in flight as that")
        if at_work + len(self.parked) + self.held_back() != len(self.streams):
            idle = f"{len(self.parked)} parked, {self.held_back()} waiting"
            raise Bug(f"gateway: {len(self.streams)} streams, {at_work} at work, {idle}")


def booking(chosen: Offer, history: int) -> Booking:
    """What a dispatch will be to the worker that decodes it, until its reports say."""
    pair, costs = chosen.pair, chosen.view.costs
    if pair is not None:
        return Booking(max(0, history - 1 - pair.supplied_tokens), history)
    cached = chosen.cached_tokens
    if chosen.tiers and costs is not None:
        cached = own_work(
            chosen.view,
            Dispatch(history_tokens=history, output_tokens=0, cached_tokens=cached, tiers=chosen.tiers),
            costs,
        ).cached_tokens
    return Booking(max(1, history - cached), history)


def tried_by(chosen: Offer, pair: Pair) -> tuple[WorkerView | None, float | None, float]:
    """(whose step model the first token of a pair tries, its prediction, prediction for all else)."""
    terms = chosen.terms
    if not pair.compute or not pair.expected_s or terms is None:
        return None, None, 0.0
    corrected_s = terms["remote_wait"] + terms["remote_prefill"]
    return pair.source, corrected_s / pair.source.correction, first_token_s(terms) - corrected_s


def submit_of(stream: Stream, pair: Pair | None, now: float) -> Submit:
    """The dispatch of a stream's present attempt."""
    request, deadline = stream.request, stream.deadline()
    sampling = request.sampling
    if stream.started and sampling.prompt_logprobs is not None:
        sampling = msgspec.structs.replace(sampling, prompt_logprobs=None)
    return Submit(
        handle=stream.handle,
        request_id=request.request_id,
        choice=stream.choice,
        attempt=stream.attempt,
        prompt=request.prompt,
        output=pack(stream.output),
        sampling=sampling,
        stopping=request.stopping,
        tenant=request.tenant,
        salt=request.salt,
        priority=request.priority,
        budget_s=None if deadline is None else max(0.0, deadline - now),
        output_hint=request.output_hint,
        number=stream.number,
        remote=None if pair is None else Remote(pair.worker, pair.compute, pair.expected_s, pair.kind),
        hint=request.hint,
    )
