"""Requests that wait at the gateway: which of them is tried again, and when. A decider of its own.

A routing policy says that a request should wait, and until when at most (`policy.Wait`). Its waiting is recorded here.
The node asks two questions: who may be tried because a worker has changed, and whose time is over. A request is tried
as a whole, all of its choices together. The contract is in docs/contracts/waiting.md.
"""

from collections.abc import Iterator
from itertools import islice
from math import inf
from typing import Generic, Protocol, TypeVar

import msgspec

from jedlik.core.errors import Bug
from jedlik.core.ids import RequestId

ItemT = TypeVar("ItemT")
MAX_LOOKS = 4
"""Waiting requests that are tried when a worker has changed: the first is not overtaken by many."""


class Waiter(msgspec.Struct, Generic[ItemT], kw_only=True):
    """One request that waits."""

    request_id: RequestId
    tenant: str
    priority: int
    """The class of the request: lower is more urgent, compared within a tenant."""
    since_s: float
    """When the request arrived."""
    until_s: float
    """When it is tried again at the latest."""
    choices: list[ItemT]
    """The choices that are still wanted, at least one."""


class WaitingOrder(Protocol[ItemT]):
    """The contract of the decider: keyed by request, free to order by tenant and class. It never reads a clock."""

    def hold(self, waiter: Waiter[ItemT]) -> None:
        """Let a request wait. One that waits already takes the new time and keeps its place."""

    def release(self, request_id: RequestId) -> Waiter[ItemT] | None:
        """End a request's waiting: it was taken in, or has ended. Returns None if it did not wait."""

    def get(self, request_id: RequestId) -> Waiter[ItemT] | None:
        """Return a request that waits; None if it does not."""

    def next_up(self) -> list[Waiter[ItemT]]:
        """Return the requests to try now that a worker has changed, in order; at least one if any waits."""

    def due(self, now: float) -> list[Waiter[ItemT]]:
        """Return every request whose time is over, in order."""

    def next_due_s(self) -> float:
        """Return the earliest time at which one is due; infinity if nothing waits."""

    def __len__(self) -> int:
        """Return the number of requests that wait."""

    def __iter__(self) -> Iterator[Waiter[ItemT]]:
        """Iterate over those that wait, in order."""

    def check(self) -> None:
        """Raise Bug if an invariant is broken."""


class FirstCome(Generic[ItemT]):
    """The order of arrival, whatever the tenant and the class: the first `MAX_LOOKS` are tried."""

    def __init__(self) -> None:
        self._waiters: dict[RequestId, Waiter[ItemT]] = {}

    def hold(self, waiter: Waiter[ItemT]) -> None:
        self._waiters[waiter.request_id] = waiter

    def release(self, request_id: RequestId) -> Waiter[ItemT] | None:
        return self._waiters.pop(request_id, None)

    def get(self, request_id: RequestId) -> Waiter[ItemT] | None:
        return self._waiters.get(request_id)

    def next_up(self) -> list[Waiter[ItemT]]:
        return list(islice(self._waiters.values(), MAX_LOOKS))

    def due(self, now: float) -> list[Waiter[ItemT]]:
        return [waiter for waiter in self._waiters.values() if waiter.until_s <= now]

    def next_due_s(self) -> float:
        return min((waiter.until_s for waiter in self._waiters.values()), default=inf)

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Waiter[ItemT]]:
        return iter(self._waiters.values())

    def check(self) -> None:
        for request_id, waiter in self._waiters.items():
            if waiter.request_id != request_id or not waiter.choices:
                raise Bug(f"waiting: {request_id} is filed as {waiter.request_id}, with {len(waiter.choices)} choices")
