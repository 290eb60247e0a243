"""The steps of a worker: they are planned, handed to the engine, and their answers become tokens of sessions.

One step runs and one waits behind it (run-ahead), or a leap runs and nothing waits behind it:

    batch.plan --> [waits] --> [runs] --> land --> take: histories grow, full blocks are published, tokens go out

A leap ends early if a live worker would have planned otherwise meanwhile. A live worker had handed over the step after
it already, before whatever came up: with run-ahead that step is planned first, for those that run only.
`take` is the hot path of a worker: one loop over the sequences of a step. It returns the sequences that have ended;
ending them is the node's business.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from jedlik.core.effects import EndLeap, RunStep, WorkerEffect
from jedlik.core.errors import Bug
from jedlik.core.ids import ClientId
from jedlik.core.protocol import FinishReason
from jedlik.core.step import StepDone
from jedlik.core.tokens import pack
from jedlik.nodes.worker.pace import StepPace
from jedlik.nodes.worker.sessions import ClientSession
from jedlik.scheduling.batch import Batch
from jedlik.scheduling.booking import SequenceBlocks
from jedlik.scheduling.sequence import Phase, Sequence
from jedlik.scheduling.step_plan import StepPlan


class Ending(NamedTuple):
    """A sequence that has got its last token, and why it was the last."""

    sequence: Sequence
    reason: FinishReason
    stop_token: int | None = None


class Steps:
    """The steps that are handed over, in order."""

    def __init__(
        self,
        sessions: dict[ClientId, ClientSession[Sequence]],
        batch: Batch,
        booking: SequenceBlocks,
        pace: StepPace,
        depth: int,
    ) -> None:
        """Hand over at most `depth` steps at once; tokens go to the columns of `sessions`."""
        self._sessions, self._batch, self._booking, self._pace, self._depth = sessions, batch, booking, pace, depth
        self._plans: deque[StepPlan] = deque()
        self._landed = False
        """A leap has just ended."""

    def __iter__(self) -> Iterator[StepPlan]:
        return iter(self._plans)

    def __len__(self) -> int:
        return len(self._plans)

    @property
    def running(self) -> StepPlan | None:
        """The one that the engine works on."""
        return self._plans[0] if self._plans else None

    def land(self, done: StepDone) -> StepPlan:
        """The first has ended. Raises Bug if the answer is another's."""
        plan = self._plans.popleft() if self._plans else None
        if plan is None or plan.step_id != done.step_id:
            raise Bug(f"step {done.step_id} ended; in flight: {plan and plan.step_id}")
        if done.error is not None:
            return plan
        if done.lanes != (plan.sampled_lanes() if plan.prefills else plan.decodes):
            raise Bug(f"step {done.step_id} answers for lanes {done.lanes}, asked were {plan.sampled_lanes()}")
        self._landed = plan.repeat > 1
        if done.steps != plan.repeat:
            self._batch.shorten(plan, done.steps)
        return plan

    def abandon(self) -> None:
        """The engine is gone: nothing is handed over any more."""
        self._plans.clear()
        self._depth = 0

    def late(self, now: float) -> bool:
        """A leap runs that should be over."""
        return bool(self._plans) and self._plans[0].repeat > 1 and self._pace.late(self._plans[0], now)

    def plan(self, now: float, out: list[WorkerEffect], preempt: bool = False) -> None:
        """Hand over what can be planned; `preempt`: sequences that lack blocks take them from others that run."""
        plans, depth = self._plans, self._depth
        if self._landed and depth > 1:
            self._launch(self._batch.plan(now, admit=False, preempt=preempt), now, out)
        self._landed = False
        while not plans or len(plans) < depth or plans[-1].repeat > 1:
            if plans and plans[-1].repeat > 1 and not self._end_leap(plans[-1], now, out):
                return
            if len(plans) >= depth or not self._launch(self._batch.plan(now, preempt=preempt), now, out):
                return

    def _launch(self, plan: StepPlan | None, now: float, out: list[WorkerEffect]) -> bool:
        if plan is None:
            return False
        self._pace.launch(plan, now, behind=bool(self._plans))
        self._plans.append(plan)
        out.append(RunStep(plan.step()))
        return True

    def _end_leap(self, leap: StepPlan, now: float, out: list[WorkerEffect]) -> bool:
        """End a leap if something came up. True if it has not begun: it is one step now, and planning goes on."""
        runs = len(self._plans) == 1
        if leap.interrupted or not (self._batch.unplanned(leap) or (runs and self._pace.late(leap, now))):
            return False
        out.append(EndLeap(leap.step_id))
        if runs:
            leap.interrupted = True
        else:
            self._batch.shorten(leap, 1)
        return not runs

    def take(self, plan: StepPlan, done: StepDone) -> list[Ending]:
        """A step has ended. Returns those that ended with it, in its order."""
        if done.logprobs or done.prompt_logprobs:
            self._take_logprobs(plan, done)
        ended: list[Ending] = []
        for sequence, chunk in zip(plan.chunked, plan.prefills, strict=True):
            sequence.computed = chunk.start + chunk.length
            if not chunk.sample:
                self._take_chunk(sequence, ended)
        prefilled = len(plan.prefill_sampled)
        if prefilled:
            self._take_tokens(plan.prefill_sampled, done.tokens[:prefilled], ended)
        if done.steps > 1:
            self._take_leap(plan, done, ended)
        else:
            self._take_tokens(plan.decoded, done.tokens[prefilled:] if prefilled else done.tokens, ended)
        return ended

    def _take_tokens(self, sequences: list[Sequence], tokens: list[int], endings: list[Ending]) -> None:
        """The hot loop: one new token each."""
        sessions, ended, leaving = self._sessions, Phase.ENDED, Phase.LEAVING
        client = None
        for s, token in zip(sequences, tokens, strict=True):
            s.in_flight -= 1
            phase = s.phase
            if phase is ended:  # a dead token
                if not s.in_flight:
                    self._batch.settle(s)
                continue
            s.history += token.to_bytes(4, "little")
            s.known = known = s.known + 1
            if s.client is not client:
                client = s.client
                session = sessions[client]
                add_handle, add_token = session.handles.append, session.tokens.append
            add_handle(s.handle)
            add_token(token)
            if not s.started:
                session.start(s)
            if known >= s.publish_at:
                self._booking.publish(s)
            if token in s.stops and known > s.min_length:
                endings.append(Ending(s, "stop", token))
            elif known >= s.end_at:
                endings.append(Ending(s, "length"))
            elif phase is leaving and not s.in_flight:
                self._batch.settle(s)

    def _take_leap(self, plan: StepPlan, done: StepDone, endings: list[Ending]) -> None:
        """Several tokens in a row for each; nobody's stop token is among them."""
        self._batch.take_leap(plan)
        sessions, steps, tokens = self._sessions, done.steps, done.tokens
        for at, s in enumerate(plan.decoded):
            s.in_flight -= 1
            if s.phase is Phase.ENDED:
                if not s.in_flight:
                    self._batch.settle(s)
                continue
            run = tokens[at * steps : (at + 1) * steps]
            s.history += pack(run)
            s.known += steps
            session = sessions[s.client]
            session.handles.append(s.handle)
            session.tokens += run
            session.each = steps
            self._booking.publish(s)
            if s.known >= s.end_at:
                endings.append(Ending(s, "length"))

    def _take_chunk(self, s: Sequence, endings: list[Ending]) -> None:
        s.in_flight -= 1
        if s.in_flight:
            return  # its next chunk is under way, or a move reads its blocks
        if s.phase in (Phase.ENDED, Phase.LEAVING):
            self._batch.settle(s)
        elif s.phase is Phase.DECODE and s.known >= s.end_at and not s.pushes:  # asked only for its prompt
            self._sessions[s.client].start(s)
            endings.append(Ending(s, "length"))

    def _take_logprobs(self, plan: StepPlan, done: StepDone) -> None:
        for s in plan.chunked:
            if s.prompt_logprobs is not None and s.phase is not Phase.ENDED:
                s.prompt_logprobs += done.prompt_logprobs.get(s.lane, [])
        for lane, s in zip(done.lanes, plan.prefill_sampled + plan.decoded, strict=True):
            logprobs = done.logprobs.get(lane)
            if logprobs is not None and s.phase is not Phase.ENDED:
                self._sessions[s.client].explain(s.handle, logprobs)

    def check(self) -> None:
        """Every sequence knows how many steps in flight name it, and how many moves read its blocks."""
        named = dict(self._batch.readers)
        for plan in self._plans:
            for s in (*plan.chunked, *plan.decoded):
                named[s.number] = named.get(s.number, 0) + 1
        for s in self._batch.everyone():
            assert s.in_flight == named.pop(s.number, 0)
        assert not named
        assert len(self._plans) <= max(1, self._depth)
