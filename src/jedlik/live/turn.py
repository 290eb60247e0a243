"""The one door into a live node: take an event, tell the node the time, perform what it wants, in order.

Promises: no event is handled inside another's effects (one that arrives there waits until they are performed, else an
older Wake could replace a newer one); an exception of a node or of a doer is kept in `failed` and the node never called
again, because its state can't be trusted: the process must end.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

Event = TypeVar("Event")
Effect = TypeVar("Effect")
EventIn = TypeVar("EventIn", contravariant=True)
EffectIn = TypeVar("EffectIn", contravariant=True)


class Recorder(Protocol[EventIn, EffectIn]):
    """Keeps what happened (`live/recorder`)."""

    def record(self, event: EventIn, effects: Sequence[EffectIn], now: float) -> None:
        """Called after the node has decided, before anything is performed."""


class Turn(Generic[Event, Effect]):
    """Runs one node on the running loop."""

    def __init__(
        self,
        handle: Callable[[Event, float], list[Effect]],
        perform: Callable[[Effect, float], None],
        recorder: Recorder[Event, Effect] | None = None,
    ) -> None:
        self._handle = handle
        self._perform = perform
        self._recorder = recorder
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Event] = deque()
        self._busy = self._stopped = False
        self.failed: asyncio.Future[None] = self._loop.create_future()
        """Gets the exception that ended this node; never a result."""

    def send(self, event: Event) -> None:
        """Handle an event and perform its effects before returning (or, from inside an effect, right after it)."""
        if self._busy:
            self._waiting.append(event)
            return
        if self.failed.done() or self._stopped:
            return
        self._busy = True
        try:
            self._take(event)
            while self._waiting and not self.failed.done():
                self._take(self._waiting.popleft())
        except Exception as error:
            self.fail(error)
        finally:
            self._busy = False

    def stop(self) -> None:
        """No event is handled any more: who performs effects is leaving."""
        self._waiting.clear()
        self._stopped = True

    def fail(self, error: Exception) -> None:
        """No event is handled any more. The first reason counts."""
        self._waiting.clear()
        if not self.failed.done():
            self.failed.set_exception(error)

    def _take(self, event: Event) -> None:
        now = self._loop.time()
        effects = self._handle(event, now)
        if self._recorder is not None:
            self._recorder.record(event, effects, now)
        for effect in effects:
            self._perform(effect, now)


class WakeTimer:
    """A node's one wake."""

    def __init__(self, woken: Callable[[], None]) -> None:
        self._woken = woken
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._at = 0.0

    def set(self, at: float) -> None:
        """Replaces the wake set before."""
        if self._timer is not None:
            if self._at == at:
                return
            self._timer.cancel()
        self._at = at  # kept here: uvloop gives a handle without `when` for a time that has passed
        self._timer = self._loop.call_at(at, self._fire)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self._woken()
