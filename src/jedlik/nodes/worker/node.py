"""The worker node: a worker that schedules itself, as a pure state machine between gateways and one engine.

Promises: every attempt ends with exactly one `Finished`, unless its gateway cancelled, replaced or lost it; one
`Tokens` message per step and gateway; at most one step runs and one waits behind it; cache facts are numbered without
gaps. CPU: bench/worker_node. Does not: read a clock, know text, or measure itself.
"""

from math import inf

from jedlik.core.config import Role, WorkerConfig
from jedlik.core.effects import Drained, Note, ToClient, Wake, WorkerEffect
from jedlik.core.errors import Fault
from jedlik.core.events import (
    ClientJoined,
    ClientLost,
    Drain,
    FromClient,
    StepEnded,
    Woken,
    WorkerEvent,
)
from jedlik.core.facts import StepRan
from jedlik.core.ids import ClientId
from jedlik.core.protocol import (
    Ack,
    AssumeRole,
    Cancel,
    Card,
    Facts,
    Goodbye,
    Load,
    Reserve,
    Resync,
    Snapshot,
    State,
    StepCosts,
    Submit,
)
from jedlik.core.step import StepDone
from jedlik.kv.cache_report import CacheReport
from jedlik.kv.hashing import Names
from jedlik.kv.pool import BlockPool
from jedlik.moving.movement import Movement
from jedlik.moving.outgoing import released
from jedlik.nodes.worker.answers import Answers, Ending
from jedlik.nodes.worker.flights import Flights
from jedlik.nodes.worker.load import LoadTimes, load_of
from jedlik.nodes.worker.pace import Pace
from jedlik.nodes.worker.peers import Intake, Peer
from jedlik.scheduling.batch import Batch
from jedlik.scheduling.booking import Booking
from jedlik.scheduling.sequence import Phase, Sequence
from jedlik.scheduling.step_plan import LIVE, Leaps, StepPlan


class WorkerNode:
    """See the module. `card` says what the engine can hold, `config` how much of it to use at once.

    `profile` says what steps take, where that is known: else it is learnt. `leaps` is for simulations.
    """

    def __init__(
        self,
        card: Card,
        config: WorkerConfig,
        hasher: Names,
        leaps: Leaps = LIVE,
        profile: StepCosts | None = None,
        role: Role = "both",
    ) -> None:
        self._config, self._hasher, self._leaps = config, hasher, leaps
        self._intake = Intake(card)
        self._pool = BlockPool(card.total_blocks)
        self._booking = Booking(self._pool, hasher)
        self._batch = Batch(config, self._booking, leaps.longest, keeps=bool(card.tiers))
        self._cache = CacheReport(self._pool)
        self._times = LoadTimes(config)
        self._pace = Pace(profile)
        self._state = State(1, role)
        self._peers: dict[ClientId, Peer] = {}
        self._flights = Flights(self._batch, self._pace, 1 + config.run_ahead)
        self._answers = Answers(self._peers, self._batch, self._booking)
        self._movement = Movement(card, config, self._batch, self._booking)
        self._arrived = self._landed = 0
        """How many sequences ever came; the last step that ended."""
        self._wake_at: float | None = None
        self._broken = self._drained = False

    def handle(self, event: WorkerEvent, now: float) -> list[WorkerEffect]:
        """Take one event; return what to do, in order."""
        out: list[WorkerEffect] = []
        if isinstance(event, StepEnded):
            self._step_ended(event.done, now, out)
        elif isinstance(event, FromClient):
            self._from_client(event, now, out)
        elif isinstance(event, Woken):
            self._wake_at = None
            if self._only_time_has_passed(now):
                self._report(now, out)
                self._set_wake(now, out)
                return out
        elif isinstance(event, ClientJoined):
            self._join(event, now, out)
        elif isinstance(event, ClientLost):
            self._lose(event.client, now, out)
        elif isinstance(event, Drain):
            self._change(State(self._state.epoch + 1, self._state.role, True), out)
        else:
            self._movement.take(event, now, out)
        self._advance(now, out)
        return out

    def load(self, now: float) -> Load:
        """What a load report would say now. Changes nothing."""
        return self._load(0, now)

    # --- gateways ---

    def _from_client(self, event: FromClient, now: float, out: list[WorkerEffect]) -> None:
        peer = self._peers.get(event.client)
        if peer is None:
            return  # sent before its connection was lost
        message = event.message
        if isinstance(message, Ack):
            for handle, position in zip(message.handles, message.positions, strict=False):  # a peer's slip ends nobody
                if (sequence := peer.sequences.get(handle)) is not None:
                    self._batch.acknowledge(sequence, position)
        elif isinstance(message, Submit):
            self._submit(peer, message, now, out)
        elif isinstance(message, Cancel):
            for handle in message.handles:
                self._drop(peer, peer.sequences.get(handle), now, out)
        elif isinstance(message, Reserve):
            self._movement.reserve(peer.sequences.get(message.handle), message, out)
        elif isinstance(message, Resync):
            out += [ToClient(peer.client, chunk) for chunk in self._snapshot()]
        elif isinstance(message, AssumeRole):
            self._change(State(self._state.epoch + 1, message.role, self._state.draining), out)
        elif isinstance(message, Goodbye):
            self._lose(event.client, now, out)

    def _submit(self, peer: Peer, submit: Submit, now: float, out: list[WorkerEffect]) -> None:
        peer.last_submit = max(peer.last_submit, submit.number)
        self._times.changed = True
        older = peer.choices.get((submit.request_id, submit.choice))
        if submit.handle in peer.sequences or (older is not None and older.submit.attempt >= submit.attempt):
            self._refuse(peer, submit, Fault("invalid", "this attempt is not newer than the one that runs"), out)
            return
        self._drop(peer, older, now, out)
        fault = self._intake.fault(submit) or self._movement.fault(submit) or self._unwilling()
        if fault is not None:
            self._refuse(peer, submit, fault, out)
            return
        self._arrived += 1
        root = self._hasher.root(submit.tenant, submit.salt)
        sequence = Sequence(submit, peer.client, self._arrived, now, root, self._leaps.window_tokens)
        sequence.limit(self._intake.max_length, self._intake.stops(submit))
        if submit.output and sequence.known >= sequence.end_at:
            peer.finish(submit.handle, "length")  # it had all its tokens when its last worker was lost
            return
        if self._batch.full(sequence):
            self._refuse(peer, submit, self._overloaded(), out)
            return
        peer.own(sequence)
        if not self._movement.begin(sequence, self._batch.steps, self._pace.costs, now, out):
            self._batch.add(sequence)

    def _refuse(self, peer: Peer, submit: Submit, fault: Fault, out: list[WorkerEffect]) -> None:
        peer.refuse(submit.handle, fault)
        if submit.push is not None:
            out.append(released(peer.client, submit.handle))

    def _unwilling(self) -> Fault | None:
        return Fault("unavailable", "this worker is draining") if self._state.draining else None

    def _overloaded(self) -> Fault:
        wait_s = self._pace.wait_s(self._batch.waiting.tokens, self._config.max_step_tokens)
        return Fault("overloaded", f"{self._batch.lined_up} sequences wait here already", retry_after_s=wait_s)

    def _join(self, joined: ClientJoined, now: float, out: list[WorkerEffect]) -> None:
        client = joined.client
        self._lose(client, now, out)
        peer = self._peers[client] = Peer(client, joined.follows)
        out.append(ToClient(client, self._state))
        if not peer.follows:
            return
        out.append(ToClient(client, self._load(peer.last_submit, now)))
        out += [ToClient(client, chunk) for chunk in self._snapshot()]

    def _snapshot(self) -> list[Snapshot]:
        return [*self._cache.snapshot(), *self._movement.tiers.snapshot()]

    def _lose(self, client: ClientId, now: float, out: list[WorkerEffect]) -> None:
        peer = self._peers.pop(client, None)
        if peer is not None:
            for sequence in list(peer.sequences.values()):
                self._drop(peer, sequence, now, out)

    def _drop(self, peer: Peer, sequence: Sequence | None, now: float, out: list[WorkerEffect]) -> None:
        """End an attempt that nobody waits for; nothing more is said of it."""
        if sequence is not None:
            peer.forget(sequence)
            self._end(sequence, now, out)

    def _end(self, sequence: Sequence, now: float, out: list[WorkerEffect]) -> None:
        self._times.changed = True
        self._movement.leaving(sequence, now, out)
        self._batch.end(sequence)
        self._movement.left(sequence, out)

    def _change(self, state: State, out: list[WorkerEffect]) -> None:
        self._state = state
        out += [ToClient(client, state) for client in self._peers]

    # --- steps ---

    def _step_ended(self, done: StepDone, now: float, out: list[WorkerEffect]) -> None:
        if self._broken:
            return  # a step behind the one that failed
        plan = self._flights.land(done)
        self._landed = done.step_id
        if done.error is not None:
            self._break(done.error, plan, now, out)
            return
        self._pace.ended(plan, done, now)
        for ending in self._answers.take(plan, done):
            self._finish(self._peers[ending.sequence.client], ending, now, out)
        if plan.prefills or plan.preempted:
            self._times.changed = True
        ran = StepRan(done.step_id, done.elapsed_s, plan.prefill_tokens, len(plan.decodes), plan.preempted, done.steps)
        out.append(Note(ran))

    def _finish(self, peer: Peer, ending: Ending, now: float, out: list[WorkerEffect]) -> None:
        s = ending.sequence
        peer.finish(s.handle, ending.reason, ending.stop_token)
        peer.forget(s)
        self._end(s, now, out)

    def _break(self, error: str, failed: StepPlan, now: float, out: list[WorkerEffect]) -> None:
        """The engine is gone: everybody's answer ends, and the process should leave."""
        self._broken = True
        fault = Fault("internal", f"the engine failed: {error}")
        for peer in self._peers.values():
            for sequence in list(peer.sequences.values()):
                peer.refuse(sequence.handle, fault)
                self._drop(peer, sequence, now, out)
        for plan in (failed, *self._flights):
            for sequence in (*plan.chunked, *plan.decoded):
                sequence.in_flight -= 1
                if not sequence.in_flight:
                    self._batch.settle(sequence)
        self._flights.abandon()
        self._change(State(self._state.epoch + 1, self._state.role, True), out)

    # --- after every event ---

    def _advance(self, now: float, out: list[WorkerEffect]) -> None:
        for sequence in self._batch.waiting.overdue(now):
            peer = self._peers[sequence.client]
            peer.refuse(sequence.handle, Fault("timeout", "no place in the batch within the request's deadline"))
            self._drop(peer, sequence, now, out)
        self._movement.advance(self._pace.costs, now, out)
        self._hand_off(now, out)
        self._flights.plan(now, out)
        if self._batch.short:
            self._make_room(now, out)
        self._hand_off(now, out)
        self._movement.settle(now, out)
        for peer in self._peers.values():
            if (tokens := peer.flush(self._pace.steps)) is not None:
                out.append(ToClient(peer.client, tokens))
        if (facts := self._cache.facts()) is not None:
            self._tell_all(facts, out)
        if self._movement.tiers:
            for facts in self._movement.tiers.facts():
                self._tell_all(facts, out)
        self._report(now, out)
        if self._state.draining and not (self._drained or self._flights) and self._batch.idle and self._movement.idle:
            self._drained = True
            out.append(Drained())
        self._set_wake(now, out)

    def _tell_all(self, facts: Facts, out: list[WorkerEffect]) -> None:
        out += [ToClient(peer.client, facts) for peer in self._peers.values() if peer.follows]

    def _hand_off(self, now: float, out: list[WorkerEffect]) -> None:
        """Tell those whose prefill has begun, push what is computed, end what is done or can't be."""
        done, failed = self._movement.push(self._landed, out)
        for s in done:
            self._finish(self._peers[s.client], Ending(s, "length"), now, out)
        for s in failed:
            peer = self._peers[s.client]
            peer.refuse(s.handle, Fault("unavailable", "the blocks could not be sent"))
            self._drop(peer, s, now, out)

    def _make_room(self, now: float, out: list[WorkerEffect]) -> None:
        """Somebody who runs lacks blocks that belong to what is on its way: have them back, or preempt."""
        self._batch.short = False
        if self._movement.make_room(now, out):
            self._flights.plan(now, out)
        elif not self._movement.give_up_latest(now, out):
            self._batch.starved = True
            self._flights.plan(now, out)
            self._batch.starved = self._batch.short = False

    def _only_time_has_passed(self, now: float) -> bool:
        """Nothing can be planned now that could not be planned before: no deadline is over and no leap is late."""
        return self._due_s() > now and not self._flights.late(now)

    def _due_s(self) -> float:
        """When somebody waits in vain; inf: nobody can."""
        waiting_s, arriving_s = self._batch.waiting.next_due_s(), self._movement.next_due_s()
        return arriving_s if waiting_s is None else min(arriving_s, waiting_s)

    def _report(self, now: float, out: list[WorkerEffect]) -> None:
        """Tell every gateway how much there is to do, if it is time to."""
        if self._times.due_s() > now or not self._peers:
            return
        for peer in self._peers.values():
            if peer.follows:
                out.append(ToClient(peer.client, self._load(peer.last_submit, now)))
        self._times.sent(now)

    def _load(self, last_submit: int, now: float) -> Load:
        return load_of(
            self._batch, self._pool, self._pace, self._flights.running, self._movement.moves.paths, last_submit, now
        )

    def _set_wake(self, now: float, out: list[WorkerEffect]) -> None:
        """One timer for the next report and the next deadline. One that is set too early only costs a look."""
        at = min(self._due_s(), self._times.due_s() if self._peers else inf)
        if at != inf and (self._wake_at is None or at < self._wake_at or self._wake_at <= now):
            self._wake_at = at
            out.append(Wake(at))

    def check(self) -> None:
        """Assert the invariants of the node and everything below it."""
        self._batch.check(self._movement.reserved())
        self._movement.check()
        owned = 0
        for peer in self._peers.values():
            peer.check()
            owned += len(peer.sequences)
        alive = len(self._batch.waiting) + len(self._batch.parked)
        alive += sum(s.phase not in (Phase.ENDED, Phase.WAITING) and s.number > 0 for s in self._batch.everyone())
        assert owned == alive
        self._flights.check()
