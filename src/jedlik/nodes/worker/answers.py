"""From a step's answer to everybody's tokens: histories grow, full blocks are published, and who has ended is told.

The hot path of a worker: one loop over the sequences of a step. Says who has ended; ending them is the node's business.
"""

from typing import NamedTuple

from jedlik.core.ids import ClientId
from jedlik.core.protocol import FinishReason
from jedlik.core.step import StepDone
from jedlik.core.tokens import pack
from jedlik.nodes.worker.peers import Peer
from jedlik.scheduling.batch import Batch
from jedlik.scheduling.booking import Booking
from jedlik.scheduling.sequence import Phase, Sequence
from jedlik.scheduling.step_plan import StepPlan


class Ending(NamedTuple):
    """A sequence has got its last token."""

    sequence: Sequence
    reason: FinishReason
    stop_token: int | None = None


class Answers:
    """Of one worker; `peers` is the node's own table."""

    def __init__(self, peers: dict[ClientId, Peer], batch: Batch, booking: Booking) -> None:
        self._peers, self._batch, self._booking = peers, batch, booking

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
        peers, ended, leaving = self._peers, Phase.ENDED, Phase.LEAVING
        for s, token in zip(sequences, tokens, strict=True):
            s.in_flight -= 1
            phase = s.phase
            if phase is ended:  # a dead token
                if not s.in_flight:
                    self._batch.settle(s)
                continue
            s.history += token.to_bytes(4, "little")
            s.known = known = s.known + 1
            peer = peers[s.client]
            peer.handles.append(s.handle)
            peer.tokens.append(token)
            if not s.started:
                peer.start(s)
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
        peers, steps, tokens = self._peers, done.steps, done.tokens
        for at, s in enumerate(plan.decoded):
            s.in_flight -= 1
            if s.phase is Phase.ENDED:
                if not s.in_flight:
                    self._batch.settle(s)
                continue
            run = tokens[at * steps : (at + 1) * steps]
            s.history += pack(run)
            s.known += steps
            peer = peers[s.client]
            peer.handles.append(s.handle)
            peer.tokens += run
            peer.each = steps
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
            self._peers[s.client].start(s)
            endings.append(Ending(s, "length"))

    def _take_logprobs(self, plan: StepPlan, done: StepDone) -> None:
        for s in plan.chunked:
            if s.prompt_logprobs is not None and s.phase is not Phase.ENDED:
                s.prompt_logprobs += done.prompt_logprobs.get(s.lane, [])
        for lane, s in zip(done.lanes, plan.prefill_sampled + plan.decoded, strict=True):
            logprobs = done.logprobs.get(lane)
            if logprobs is not None and s.phase is not Phase.ENDED:
                self._peers[s.client].explain(s.handle, logprobs)
