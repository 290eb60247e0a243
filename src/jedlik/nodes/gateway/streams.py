"""The records of a gateway: streams (choices in flight) and peers (connected workers) with the attempts there.

A stream points to its peer and the peer has it among its attempts, or neither does.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from jedlik.core.config import Role
from jedlik.core.effects import GatewayEffect, ToWorkerEffect
from jedlik.core.errors import Bug
from jedlik.core.facts import Answered, Routed
from jedlik.core.ids import Handle, RequestId, StreamId, WorkerId
from jedlik.core.protocol import Ack, Card, Remote, Submit
from jedlik.core.requests import Request
from jedlik.core.tokens import count, pack
from jedlik.routing.fitted import Mark
from jedlik.routing.policy import Pair
from jedlik.routing.view import WorkerView

Health = Literal["ok", "suspect", "fenced"]
NO_HANDLE = Handle(0)
RESYNC_S = 1.0
"""A snapshot is asked for at most this often, less and less often where none comes."""


@dataclass(slots=True, eq=False, kw_only=True)
class Peer:
    """One connected worker: its view, the attempts at work there, and whether it is trusted."""

    view: WorkerView
    heard_at: float
    id: WorkerId = field(init=False)
    vocab_size: int = field(init=False)
    health: Health = "ok"
    attempts: "dict[Handle, Stream]" = field(default_factory=dict)
    """Streams at work here; a handle that is not among them is stale."""
    acks: dict[Handle, int] = field(default_factory=dict)
    """Positions to acknowledge with the next message."""
    resync_wait_s: float = RESYNC_S
    resync_at: float = field(init=False)
    """When a snapshot may be asked for (again)."""
    next_role: Role | None = None
    """The role that the worker was asked to take and has not reported yet."""

    def __post_init__(self) -> None:
        self.id, self.vocab_size = self.view.card.worker, self.view.card.vocab_size
        self.resync_at = self.heard_at + RESYNC_S

    def role(self) -> Role:
        """Return the role that the worker has or is about to have."""
        return self.next_role or self.view.state.role

    def take_acks(self) -> list[GatewayEffect]:
        """Return the acknowledgements that are due, as one message, and forget them."""
        if not self.acks:
            return []
        ack = Ack(list(self.acks), list(self.acks.values()))
        self.acks.clear()
        return [ToWorkerEffect(self.id, ack)]


@dataclass(slots=True, eq=False, kw_only=True)
class Stream:
    """One choice of one request. `peer` is None while no attempt is at work on it."""

    request: Request
    choice: int
    arrived_at: float
    id: StreamId = field(init=False)
    attempt: int = 0
    handle: Handle = NO_HANDLE
    card: Card | None = None
    """The card of the last attempt's worker."""
    number: int = 0
    """The number of the submit at its worker."""
    peer: Peer | None = None
    output: list[int] = field(default_factory=list)
    """Every token that was delivered."""
    acked: int = 0
    """The output position that its worker knows (or will know) to be consumed."""
    started: bool = False
    seen: bool = False
    """Whether its prompt was counted for `Reuse`."""
    first_token_at: float | None = None
    queued_s: float | None = None
    cached_tokens: int = 0
    avoid: frozenset[WorkerId] = frozenset()
    """Workers at which an attempt failed."""
    reason: str = ""
    """Why the last attempt was given up."""
    park_until: float = 0.0
    routed: Routed | None = None
    """The choice of its present attempt's worker."""
    modelled_s: float | None = None
    """The part of its time to first token that one worker's step model predicts, before any correction."""
    rest_s: float = 0.0
    """The prediction for all other parts of it."""
    tried: WorkerView | None = None
    """The worker of that step model; None: of no worker alone."""
    prefiller: WorkerView | None = None
    """The worker that prefills for its present attempt."""
    at_idle: bool = False
    """Whether its worker had nothing else to do when its present attempt began there, without a partner."""
    mark: tuple[Mark, int] | None = None
    """The work seen at its worker, and the length of its output, when the attempt's first token had come."""

    def __post_init__(self) -> None:
        self.id = StreamId(self.request.first_stream + self.choice)

    def history(self) -> bytes:
        """Return prompt and delivered output, packed."""
        return self.request.prompt + pack(self.output) if self.output else self.request.prompt

    def history_tokens(self) -> int:
        return count(self.request.prompt) + len(self.output)

    def deadline(self) -> float | None:
        """Return when a first token has no use any more; None: no limit, or it has come."""
        limit = self.request.deadline_s
        return None if limit is None or self.output else self.arrived_at + limit

    def complete(self, eos_token_ids: tuple[int, ...]) -> tuple[bool, int | None]:
        """Return whether nothing can follow the delivered tokens, and the token that ended it, if one did."""
        stopping, output = self.request.stopping, self.output
        if output:
            last = output[-1]
            if last in stopping.stop_token_ids or (last in eos_token_ids and not stopping.ignore_eos):
                return True, last
        return len(output) >= stopping.max_tokens and (bool(output) or self.started), None

    def submit(self, pair: Pair | None, now: float) -> Submit:
        """Return the message that begins the present attempt."""
        request, deadline = self.request, self.deadline()
        sampling = request.sampling
        if self.started and sampling.prompt_logprobs is not None:
            sampling = msgspec.structs.replace(sampling, prompt_logprobs=None)
        return Submit(
            handle=self.handle,
            request_id=request.request_id,
            choice=self.choice,
            attempt=self.attempt,
            prompt=request.prompt,
            output=pack(self.output),
            sampling=sampling,
            stopping=request.stopping,
            tenant=request.tenant,
            salt=request.salt,
            priority=request.priority,
            budget_s=None if deadline is None else max(0.0, deadline - now),
            output_hint=request.output_hint,
            number=self.number,
            remote=None if pair is None else Remote(pair.worker, pair.compute, pair.expected_s, pair.kind),
            hint=request.hint,
            trace=request.trace,
        )

    def answered(self, outcome: str, output_tokens: int, now: float) -> Answered:
        """Return the fact that the stream has ended."""
        first, card = self.first_token_at, self.card
        return Answered(
            request_id=self.request.request_id,
            choice=self.choice,
            outcome=outcome,
            prompt_tokens=count(self.request.prompt),
            cached_tokens=self.cached_tokens,
            output_tokens=output_tokens,
            attempts=self.attempt,
            queued_s=self.queued_s,
            ttft_s=None if first is None else first - self.arrived_at,
            duration_s=now - self.arrived_at,
            tenant=self.request.tenant,
            model=self.request.model,
            worker=None if card is None else card.worker,
            pool="" if card is None else card.pool,
            trace=self.request.trace,
        )


class Streams:
    """All streams in flight, by id and by request."""

    def __init__(self) -> None:
        self._by_id: dict[StreamId, Stream] = {}
        self._by_request: dict[RequestId, list[Stream]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._by_id.values())

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._by_request

    def get(self, stream: StreamId) -> Stream | None:
        return self._by_id.get(stream)

    def of(self, request_id: RequestId) -> list[Stream]:
        """Return the choices of a request that are still in flight."""
        return list(self._by_request.get(request_id, ()))

    def add(self, stream: Stream) -> None:
        if stream.id in self._by_id:
            raise Bug(f"stream {stream.id} is in flight already: stream ids must not be re-used")
        self._by_id[stream.id] = stream
        self._by_request.setdefault(stream.request.request_id, []).append(stream)

    def remove(self, stream: Stream) -> None:
        del self._by_id[stream.id]
        siblings = self._by_request[stream.request.request_id]
        siblings.remove(stream)
        if not siblings:
            del self._by_request[stream.request.request_id]

    def check(self) -> None:
        """Raise Bug unless both tables have the same streams."""
        if sorted(s.id for group in self._by_request.values() for s in group) != sorted(self._by_id):
            raise Bug("gateway: streams by request differ from streams by id")
