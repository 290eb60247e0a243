"""Tokens from workers to the frontend: one step's tokens in, columns and effects out. The hot path.

Tokens of stale handles (attempts that are over) are dropped.
"""

from collections.abc import Mapping

from jedlik.core.effects import Deliver, GatewayEffect, Note, StreamEnded, StreamStarted, ToWorkerEffect
from jedlik.core.errors import Fault
from jedlik.core.facts import Fact
from jedlik.core.ids import Handle, StreamId, WorkerId
from jedlik.core.protocol import Ack, AssumeRole, Cancel, Finished, Resync, Started, Submit, Tokens
from jedlik.core.step import TokenLogprobs
from jedlik.nodes.gateway.streams import Stream


class Outbox:
    """The effects of one event: columns for the frontend and a list, filled while the event is handled at `now`."""

    __slots__ = ("effects", "ended", "logprobs", "now", "started", "streams", "tokens")

    def __init__(self, now: float) -> None:
        self.now = now
        self.streams: list[StreamId] = []
        self.tokens: list[int] = []
        self.started: list[StreamStarted] = []
        self.ended: list[StreamEnded] = []
        self.logprobs: list[tuple[StreamId, TokenLogprobs]] = []
        self.effects: list[GatewayEffect] = []

    def send(self, worker: WorkerId, message: Submit | Cancel | Ack | Resync | AssumeRole) -> None:
        """Send a message to a worker."""
        self.effects.append(ToWorkerEffect(worker, message))

    def note(self, fact: Fact) -> None:
        """Report a fact to telemetry."""
        self.effects.append(Note(fact))

    def close(self) -> list[GatewayEffect]:
        """Return all effects, the delivery first."""
        if not (self.streams or self.started or self.ended):
            return self.effects
        deliver = Deliver(
            streams=self.streams, tokens=self.tokens, started=self.started, ended=self.ended, logprobs=self.logprobs
        )
        return [deliver, *self.effects]


def violation(message: Tokens, vocab_size: int) -> str | None:
    """Return how a message breaks the protocol; None for a sound message."""
    tokens = message.tokens
    if message.each < 1 or len(tokens) != len(message.handles) * message.each:
        return f"{len(message.handles)} handles with {len(tokens)} tokens"
    if tokens and (min(tokens) < 0 or max(tokens) >= vocab_size):
        return f"a token outside the vocabulary of {vocab_size}"
    return None


def take_plain(attempts: Mapping[Handle, Stream], message: Tokens, vocab_size: int) -> list[GatewayEffect] | None:
    """Return the delivery of a message of tokens only; None, and nothing taken, if it is not sound."""
    drawn, handles = message.tokens, message.handles
    if len(drawn) == 1 and len(handles) == 1:  # a batch of one has no one to share the cost of a message with
        token = drawn[0]
        if not 0 <= token < vocab_size:
            return None
        stream = attempts.get(handles[0])
        if stream is None:
            return []
        stream.output.append(token)
        return [Deliver(streams=[stream.id], tokens=[token])]
    if violation(message, vocab_size) is not None:
        return None
    streams: list[StreamId] = []
    tokens: list[int] = []
    take_tokens(attempts, message, streams, tokens)
    return [Deliver(streams=streams, tokens=tokens)] if streams else []


def take_tokens(attempts: Mapping[Handle, Stream], message: Tokens, streams: list[StreamId], tokens: list[int]) -> None:
    """Append each live attempt's token to its stream and to the columns. The message must be sound (`violation`)."""
    get, drawn, each = attempts.get, message.tokens, message.each
    for at, handle in enumerate(message.handles):
        stream = get(handle)
        if stream is None:
            continue
        if each > 1:  # after a leap
            run = drawn[at * each : (at + 1) * each]
            stream.output += run
            streams += [stream.id] * each
            tokens += run
        else:
            token = drawn[at]
            stream.output.append(token)
            streams.append(stream.id)
            tokens.append(token)


def take_started(attempts: Mapping[Handle, Stream], message: Tokens, out: Outbox) -> list[Stream]:
    """Put first tokens into the outbox; return the streams that began."""
    begun = []
    for started in message.started:
        stream = attempts.get(started.handle)
        if stream is not None and not stream.started:
            out.started.append(_start(stream, started, out.now))
            begun.append(stream)
    return begun


def take_rest(attempts: Mapping[Handle, Stream], message: Tokens, out: Outbox) -> list[tuple[Stream, Finished]]:
    """Put logprobs into the outbox; return the live attempts that are finished."""
    for handle, logprobs in message.logprobs:
        stream = attempts.get(handle)
        if stream is not None:
            out.logprobs.append((stream.id, logprobs))
    ends = {finished.handle: finished for finished in message.finished}
    return [(attempts[handle], finished) for handle, finished in ends.items() if handle in attempts]


def _start(stream: Stream, started: Started, now: float) -> StreamStarted:
    assert stream.peer is not None
    stream.started = True
    stream.first_token_at = now
    stream.cached_tokens = started.cached_tokens
    stream.queued_s = started.queued_s
    return StreamStarted(stream.id, stream.peer.id, started.cached_tokens, started.prompt_logprobs)


def failure(finished: Finished) -> Fault | None:
    """Return the fault of an attempt that failed, None for one that ended well."""
    if finished.reason != "abort":
        return None
    return finished.fault or Fault(kind="internal", message="the worker gave up without saying why")


def retryable(fault: Fault, stream: Stream) -> bool:
    """Return whether another worker may do better."""
    if fault.kind == "overloaded":
        return not stream.output
    return fault.kind in ("unavailable", "internal")
