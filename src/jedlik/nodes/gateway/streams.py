"""The choices in flight at a gateway: what was delivered, and which attempt is at work on it."""

from collections.abc import Iterator

from jedlik.core.errors import Bug
from jedlik.core.facts import Answered, Routed
from jedlik.core.ids import Handle, RequestId, StreamId, WorkerId
from jedlik.core.requests import Request
from jedlik.core.tokens import count, pack
from jedlik.nodes.gateway.peers import Peer
from jedlik.routing.view import WorkerView

NO_HANDLE = Handle(0)


class Stream:
    """One choice of one request. `peer` is None while no attempt is at work on it."""

    __slots__ = (
        "acked",
        "arrived_at",
        "attempt",
        "avoid",
        "cached_tokens",
        "choice",
        "first_token_at",
        "handle",
        "id",
        "modelled_s",
        "number",
        "output",
        "park_until",
        "peer",
        "prefiller",
        "queued_s",
        "reason",
        "request",
        "rest_s",
        "routed",
        "seen",
        "started",
        "tried",
    )

    def __init__(self, request: Request, choice: int, now: float) -> None:
        self.request = request
        self.choice = choice
        self.id = StreamId(request.first_stream + choice)
        self.arrived_at = now
        self.attempt = 0
        self.handle = NO_HANDLE
        self.number = 0
        """Of the submit at its worker."""
        self.peer: Peer[Stream] | None = None
        self.output: list[int] = []
        """Every token delivered."""
        self.acked = 0
        """Output position its worker knows (or will know) to be consumed."""
        self.started = False
        self.seen = False
        """Its prompt was counted among those that came."""
        self.first_token_at: float | None = None
        self.queued_s: float | None = None
        self.cached_tokens = 0
        self.avoid: frozenset[WorkerId] = frozenset()
        """Workers at which an attempt failed."""
        self.reason = ""
        """Why the last attempt was given up."""
        self.park_until = 0.0
        self.routed: Routed | None = None
        """How its present attempt's worker was chosen."""
        self.modelled_s: float | None = None
        """Of its time to first token: what one worker's step model predicts, before any correction."""
        self.rest_s = 0.0
        """Of the same: what is predicted for all else."""
        self.tried: WorkerView | None = None
        """Whose step model that is; None: of nobody alone."""
        self.prefiller: WorkerView | None = None
        """Who prefills for its present attempt."""

    def history(self) -> bytes:
        """Prompt and delivered output, packed."""
        return self.request.prompt + pack(self.output) if self.output else self.request.prompt

    def history_tokens(self) -> int:
        return count(self.request.prompt) + len(self.output)

    def deadline(self) -> float | None:
        """When a first token is no longer worth having; None: no limit, or it is there."""
        limit = self.request.deadline_s
        return None if limit is None or self.output else self.arrived_at + limit

    def complete(self, eos_token_ids: tuple[int, ...]) -> tuple[bool, int | None]:
        """Whether nothing can follow the delivered tokens, and the token that ended it, if one did."""
        stopping, output = self.request.stopping, self.output
        if output:
            last = output[-1]
            if last in stopping.stop_token_ids or (last in eos_token_ids and not stopping.ignore_eos):
                return True, last
        return len(output) >= stopping.max_tokens and (bool(output) or self.started), None

    def answered(self, outcome: str, output_tokens: int, now: float) -> Answered:
        """The fact to leave behind."""
        first = self.first_token_at
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
        )


class Streams:
    """All of them, by id and by request."""

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
        """The choices of a request that are still in flight."""
        return list(self._by_request.get(request_id, ()))

    def everyone(self) -> list[Stream]:
        """Oldest first."""
        return list(self._by_id.values())

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
        """Both tables hold the same streams."""
        if sorted(s.id for group in self._by_request.values() for s in group) != sorted(self._by_id):
            raise Bug("gateway: streams by request differ from streams by id")
