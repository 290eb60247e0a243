"""The worker node: a worker that schedules itself, as a pure state machine between its clients and one engine.

This is the front page. The node joins two halves:

    clients <--> sessions.py: attempts, token columns, cache facts, load timing, role and drain
                    |
                 node.py: a submit becomes a sequence, a sequence that ends becomes the end of an attempt
                    |
    engine  <--> steps.py (what runs now) over scheduling/batch (what runs next), moving/movement (KV on the move),
                 pace.py (how fast, and the load report)

Promises: every attempt ends with exactly one `Finished`, unless its client cancelled, replaced or lost it; one `Tokens`
message per step and client; at most one step runs and one waits behind it; cache facts are numbered without gaps.
The node reads no clock, knows no text and does not measure itself. CPU: bench/worker_node. Files entered: bench/inside.
"""

from math import inf

from jedlik.core.config import Role, WorkerConfig
from jedlik.core.effects import Drained, Note, Wake, WorkerEffect
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
    Goodbye,
    Load,
    Reserve,
    Resync,
    StepCosts,
    Submit,
)
from jedlik.core.step import StepDone
from jedlik.kv.cache_report import CacheReport
from jedlik.kv.hashing import Names
from jedlik.kv.pool import BlockPool
from jedlik.moving.movement import Movement
from jedlik.moving.outgoing import released
from jedlik.nodes.worker.pace import StepPace, load_of
from jedlik.nodes.worker.sessions import ClientSession, Sessions
from jedlik.nodes.worker.steps import Ending, Steps
from jedlik.scheduling.batch import Batch
from jedlik.scheduling.booking import SequenceBlocks
from jedlik.scheduling.sequence import Phase, Sequence
from jedlik.scheduling.step_plan import LIVE, Leaps, StepPlan

WorkerSession = ClientSession[Sequence]


class WorkerNode:
    """A worker's decider: it takes events of clients, engine and transfers, and returns effects."""

    def __init__(
        self,
        card: Card,
        config: WorkerConfig,
        hasher: Names,
        leaps: Leaps = LIVE,
        profile: StepCosts | None = None,
        role: Role = "both",
    ) -> None:
        """Make a node for an engine that holds what `card` says, and use of it as much at once as `config` allows.

        `profile` says what steps take, where that is known: else it is learnt. `leaps` is for simulations.
        """
        self._config, self._hasher, self._leaps = config, hasher, leaps
        self._pool = BlockPool(card.total_blocks)
        booking = SequenceBlocks(self._pool, hasher)
        self._batch = Batch(config, booking, leaps.longest, keeps=bool(card.tiers))
        self._pace = StepPace(profile)
        self._movement = Movement(card, config, self._batch, booking)
        caches = [CacheReport(self._pool), *self._movement.tiers.reports()]
        self._sessions: Sessions[Sequence] = Sessions(card, config, role, caches)
        self._steps = Steps(self._sessions.open, self._batch, booking, self._pace, 1 + config.run_ahead)
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
                self._set_wake(self._report(now, out), now, out)
                return out
        elif isinstance(event, ClientJoined):
            self._lose(event.client, now, out)
            self._sessions.join(event.client, event.follows, lambda last: self._load(last, now), out)
        elif isinstance(event, ClientLost):
            self._lose(event.client, now, out)
        elif isinstance(event, Drain):
            self._sessions.change(out, draining=True)
        else:
            self._movement.take(event, now, out)
        self._advance(now, out)
        return out

    def load(self, now: float) -> Load:
        """Return what a load report would say now. Changes nothing."""
        return self._load(0, now)

    # --- clients ---

    def _from_client(self, event: FromClient, now: float, out: list[WorkerEffect]) -> None:
        session = self._sessions.open.get(event.client)
        if session is None:
            return  # sent before its connection was lost
        message = event.message
        if isinstance(message, Ack):
            attempts = session.attempts  # a client's slip ends nobody
            for handle, position in zip(message.handles, message.positions, strict=False):
                if (sequence := attempts.get(handle)) is not None:
                    self._batch.acknowledge(sequence, position)
        elif isinstance(message, Submit):
            self._submit(session, message, now, out)
        elif isinstance(message, Cancel):
            for handle in message.handles:
                self._drop(session, session.attempts.get(handle), now, out)
        elif isinstance(message, Reserve):
            self._movement.reserve(session.attempts.get(message.handle), message, out)
        elif isinstance(message, Resync):
            self._sessions.send_snapshots(session.client, out)
        elif isinstance(message, AssumeRole):
            self._sessions.change(out, role=message.role)
        elif isinstance(message, Goodbye):
            self._lose(event.client, now, out)

    def _submit(self, session: WorkerSession, submit: Submit, now: float, out: list[WorkerEffect]) -> None:
        self._sessions.changed = True
        older, fault = session.replaced(submit)
        if fault is None:
            self._drop(session, older, now, out)
            fault = self._sessions.fault(submit, self._movement.fault(submit))
        if fault is not None:
            self._refuse(session, submit, fault, out)
            return
        self._arrived += 1
        root, limits = self._hasher.root(submit.tenant, submit.salt), self._sessions.limits
        sequence = Sequence(submit, session.client, self._arrived, now, root, self._leaps.window_tokens)
        sequence.limit(limits.max_length, limits.stops(submit))
        if submit.output and sequence.known >= sequence.end_at:
            session.finish(submit.handle, "length")  # it had all its tokens when its last worker was lost
            return
        if self._batch.full(sequence):
            self._refuse(session, submit, self._overloaded(), out)
            return
        session.own(sequence)
        if not self._movement.begin(sequence, self._batch.steps, self._pace.costs, now, out):
            self._batch.add(sequence)

    def _refuse(self, session: WorkerSession, submit: Submit, fault: Fault, out: list[WorkerEffect]) -> None:
        session.refuse(submit.handle, fault)
        if submit.push is not None:
            out.append(released(session.client, submit.handle))

    def _overloaded(self) -> Fault:
        wait_s = self._pace.wait_s(self._batch.waiting.tokens, self._config.max_step_tokens)
        return Fault(
            kind="overloaded", message=f"{self._batch.lined_up} sequences wait here already", retry_after_s=wait_s
        )

    def _lose(self, client: ClientId, now: float, out: list[WorkerEffect]) -> None:
        session = self._sessions.lose(client)
        if session is not None:
            for sequence in list(session.attempts.values()):
                self._drop(session, sequence, now, out)

    def _drop(self, session: WorkerSession, sequence: Sequence | None, now: float, out: list[WorkerEffect]) -> None:
        """End an attempt that nobody waits for; nothing more is said of it."""
        if sequence is not None:
            session.forget(sequence)
            self._end(sequence, now, out)

    def _fail(self, sequence: Sequence, fault: Fault, now: float, out: list[WorkerEffect]) -> None:
        """End an attempt that can't be served any more, and tell its client why."""
        session = self._sessions.open[sequence.client]
        session.refuse(sequence.handle, fault)
        self._drop(session, sequence, now, out)

    def _finish(self, ending: Ending, now: float, out: list[WorkerEffect]) -> None:
        s = ending.sequence
        session = self._sessions.open[s.client]
        session.finish(s.handle, ending.reason, ending.stop_token)
        self._drop(session, s, now, out)

    def _end(self, sequence: Sequence, now: float, out: list[WorkerEffect]) -> None:
        self._sessions.changed = True
        self._movement.leaving(sequence, now, out)
        self._batch.end(sequence)
        self._movement.sequence_ended(sequence, out)

    # --- steps ---

    def _step_ended(self, done: StepDone, now: float, out: list[WorkerEffect]) -> None:
        if self._broken:
            return  # a step behind the one that failed
        plan = self._steps.land(done)
        self._landed = done.step_id
        if done.error is not None:
            self._break(done.error, plan, now, out)
            return
        self._pace.ended(plan, done, now)
        for ending in self._steps.take(plan, done):
            self._finish(ending, now, out)
        if plan.prefills or plan.preempted:
            self._sessions.changed = True
        ran = StepRan(
            step_id=done.step_id,
            elapsed_s=done.elapsed_s,
            prefill_tokens=plan.prefill_tokens,
            decode_sequences=len(plan.decodes),
            preempted=plan.preempted,
            steps=done.steps,
        )
        out.append(Note(ran))

    def _break(self, error: str, failed: StepPlan, now: float, out: list[WorkerEffect]) -> None:
        """The engine is gone: everybody's answer ends, and the process should leave."""
        self._broken = True
        fault = Fault(kind="internal", message=f"the engine failed: {error}")
        for sequence in list(self._sessions.attempts()):
            self._fail(sequence, fault, now, out)
        for plan in (failed, *self._steps):
            for sequence in (*plan.chunked, *plan.decoded):
                sequence.in_flight -= 1
                if not sequence.in_flight:
                    self._batch.settle(sequence)
        self._steps.abandon()
        self._sessions.change(out, draining=True)

    # --- after every event ---

    def _advance(self, now: float, out: list[WorkerEffect]) -> None:
        batch, moving, sessions = self._batch, self._movement, self._sessions
        if batch.waiting.deadlines:
            late = Fault(kind="timeout", message="no place in the batch within the request's deadline")
            for sequence in batch.waiting.overdue(now):
                self._fail(sequence, late, now, out)
        if moving.active or batch.lingering or now >= moving.due_s:
            moving.advance(self._pace.costs, now, out)
            self._hand_off(now, out)
        self._steps.plan(now, out)
        if batch.needs_blocks:
            self._make_room(now, out)
        if moving.active or batch.lingering:
            moving.settle(now, out)
        sessions.flush(self._pace.steps, out)
        report_s = self._report(now, out)
        if sessions.state.draining and not (self._drained or self._steps) and batch.idle and moving.idle:
            self._drained = True
            out.append(Drained())
        self._set_wake(report_s, now, out)

    def _hand_off(self, now: float, out: list[WorkerEffect]) -> None:
        """Push what is computed for other workers, end what is done or can't be sent."""
        done, failed = self._movement.push(self._landed, out)
        for s in done:
            self._finish(Ending(s, "length"), now, out)
        for s in failed:
            self._fail(s, Fault(kind="unavailable", message="the blocks could not be sent"), now, out)

    def _make_room(self, now: float, out: list[WorkerEffect]) -> None:
        """Somebody who runs lacks blocks that belong to what is on its way: have them back, or preempt."""
        self._batch.clear_need()
        if self._movement.make_room(now, out):
            self._steps.plan(now, out)
        elif not self._movement.give_up_latest(now, out):
            self._steps.plan(now, out, preempt=True)
            self._batch.clear_need()

    def _only_time_has_passed(self, now: float) -> bool:
        """Nothing can be planned now that could not be planned before: no deadline is over and no leap is late."""
        return self._due_s() > now and not self._steps.late(now)

    def _due_s(self) -> float:
        """When somebody waits in vain; inf: nobody can."""
        due_s = self._movement.due_s
        if self._batch.waiting.deadlines and (waiting_s := self._batch.waiting.next_due_s()) is not None:
            return min(due_s, waiting_s)
        return due_s

    def _report(self, now: float, out: list[WorkerEffect]) -> float:
        """Tell every client that follows how much there is to do, if it is time to. Return when it is time again."""
        report_s = self._sessions.next_report_s()
        if report_s > now:
            return report_s
        self._sessions.report(lambda last: self._load(last, now), now, out)
        return self._sessions.next_report_s()

    def _load(self, last_submit: int, now: float) -> Load:
        paths = self._movement.moves.paths
        running = self._steps.running
        return load_of(self._batch, self._pool, self._pace, running, paths, last_submit=last_submit, now=now)

    def _set_wake(self, report_s: float, now: float, out: list[WorkerEffect]) -> None:
        """One timer for the next report and the next deadline. One that is set too early only costs a look."""
        at = min(self._due_s(), report_s)
        if at != inf and (self._wake_at is None or at < self._wake_at or self._wake_at <= now):
            self._wake_at = at
            out.append(Wake(at))

    def check(self) -> None:
        """Assert the invariants of the node and everything below it."""
        self._batch.check(self._movement.reserved())
        self._movement.check()
        self._sessions.check()
        owned = sum(len(session.attempts) for session in self._sessions.open.values())
        alive = len(self._batch.waiting) + len(self._batch.parked)
        alive += sum(s.phase not in (Phase.ENDED, Phase.WAITING) and s.number > 0 for s in self._batch.everyone())
        assert owned == alive
        self._steps.check()
