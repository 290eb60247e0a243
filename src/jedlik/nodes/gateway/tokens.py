"""The hot path: one step's tokens in, columns for the frontend out. Stale handles fall through."""

from collections.abc import Mapping

from jedlik.core.effects import Deliver, GatewayEffect, StreamStarted
from jedlik.core.errors import Fault
from jedlik.core.ids import Handle, StreamId
from jedlik.core.protocol import Finished, Started, Tokens
from jedlik.nodes.gateway.outbox import Outbox
from jedlik.nodes.gateway.streams import Stream

Attempts = Mapping[Handle, Stream]


def violation(message: Tokens, vocab_size: int) -> str | None:
    """What a worker may never send; None for a sound message."""
    tokens = message.tokens
    if message.each < 1 or len(tokens) != len(message.handles) * message.each:
        return f"{len(message.handles)} handles with {len(tokens)} tokens"
    if tokens and (min(tokens) < 0 or max(tokens) >= vocab_size):
        return f"a token outside the vocabulary of {vocab_size}"
    return None


def take_plain(attempts: Attempts, message: Tokens, vocab_size: int) -> list[GatewayEffect] | None:
    """The delivery of a message of tokens only; None, and nothing taken, if it is not sound."""
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


def take_tokens(attempts: Attempts, message: Tokens, streams: list[StreamId], tokens: list[int]) -> None:
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


def take_started(attempts: Attempts, message: Tokens, out: Outbox, now: float) -> list[Stream]:
    """First tokens into the outbox; returns whose they are."""
    begun = []
    for started in message.started:
        stream = attempts.get(started.handle)
        if stream is not None and not stream.started:
            out.started.append(_start(stream, started, now))
            begun.append(stream)
    return begun


def take_rest(attempts: Attempts, message: Tokens, out: Outbox) -> list[tuple[Stream, Finished]]:
    """Logprobs into the outbox; returns which live attempts the worker says are finished."""
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
    """The fault of an attempt that failed, None for one that ended well."""
    if finished.reason != "abort":
        return None
    return finished.fault or Fault(kind="internal", message="the worker gave up without saying why")


def retryable(fault: Fault, stream: Stream) -> bool:
    """Whether another worker may do better."""
    if fault.kind == "overloaded":
        return not stream.output
    return fault.kind in ("unavailable", "internal")
