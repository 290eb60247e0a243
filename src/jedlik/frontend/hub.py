"""The HTTP calls in flight: the hub gives them what the gateway delivers, and its tick pings and cuts them in time.

One `Deliver` carries many streams' tokens; the hub files them and wakes each call once, however many tokens came.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from jedlik.core.config import FrontendConfig
from jedlik.core.effects import Deliver
from jedlik.core.errors import Bug, Fault
from jedlik.core.events import Abandoned, Arrived, Consumed, Cut
from jedlik.core.requests import Request
from jedlik.frontend.choice import ChoiceStream
from jedlik.frontend.port import GatewayPort
from jedlik.frontend.turns import Steps, Turns

ACKNOWLEDGE_EVERY = 16
"""Tokens between `Consumed` events of a stream: well below protocol.RUN_AHEAD_TOKENS, or workers would wait."""
TICKS_PER_LIMIT = 4
SLOWEST_TICK_S, FASTEST_TICK_S = 1.0, 0.01


class Call:
    """One HTTP call in flight: its choices, and what its task waits for."""

    def __init__(self, requests: Sequence[Request], choices: Sequence[ChoiceStream], eager: bool) -> None:
        self.requests = requests
        self.choices = choices
        self.eager = eager
        """Streamed: wake for every token; else only when it is time to acknowledge, or over."""
        self.arrived = 0
        """The number of requests that were sent to the node."""
        self.ending = False
        """One of its choices has ended: it may be over, or broken."""
        self.gone = False
        """The client went away."""
        self.stalled = False
        """The client takes nothing: the task was cancelled for it."""
        self.task: asyncio.Task[None] | None = None
        self.sending_since: float | None = None
        """Set while a send waits for the client."""
        self.quiet_since = 0.0
        self.silent = False
        """Nothing was sent for the ping period."""
        self.pump: Callable[[], None] | None = None
        """Sends what choices have to say without waking the task; set while a stream is under way."""
        self._news = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def fault(self) -> Fault | None:
        """The fault of the first choice that failed, or None."""
        return next((c.ended.fault for c in self.choices if c.ended is not None and c.ended.fault is not None), None)

    @property
    def over(self) -> bool:
        return all(choice.over for choice in self.choices)

    def wake(self) -> None:
        self._news = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def news(self) -> None:
        """Return at once if something happened since the last time, else when it does."""
        if not self._news:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._news = False


class HubState(msgspec.Struct, frozen=True):
    """Counts for tests and metrics."""

    streams: int
    calls: int


class Hub:
    """All calls of one gateway process. Runs on one event loop; `now` is its clock, in seconds."""

    def __init__(self, port: GatewayPort, config: FrontendConfig, now: Callable[[], float]) -> None:
        self._port = port
        self._config = config
        self.now = now
        self.turns = Turns()
        self._streams: dict[int, tuple[ChoiceStream, Call]] = {}
        self._calls: dict[str, Call] = {}
        self._next_stream = 1
        self._ticking = False
        shortest = min(config.ping_s, config.stalled_client_s) / TICKS_PER_LIMIT
        self._tick_s = min(SLOWEST_TICK_S, max(FASTEST_TICK_S, shortest))
        port.listen(self.deliver)

    def reserve(self, count: int) -> int:
        """Return the first of `count` fresh consecutive stream ids."""
        first = self._next_stream
        self._next_stream += count
        return first

    def busy(self, request_id: str) -> bool:
        """Whether a call with this id is in flight."""
        return request_id in self._calls

    def open(self, call: Call) -> Steps[None]:
        """Register first, then send to the node, a prompt per step: it may refuse before `send` returns."""
        call.quiet_since = self.now()
        self._calls[call.requests[0].request_id] = call
        for choice in call.choices:
            self._streams[choice.stream] = (choice, call)
        self._arm()
        for request in call.requests:
            if call.gone or call.fault is not None:
                return
            call.arrived += 1
            self._port.send(Arrived(request))
            yield None

    def close(self, call: Call) -> None:
        """Forget a call; what still runs for it is given up."""
        for choice in call.choices:
            self._streams.pop(choice.stream, None)
        del self._calls[call.requests[0].request_id]
        running = {c.request_id for c in call.choices if c.ended is None and not c.cut}
        for request in call.requests[: call.arrived]:
            if request.request_id in running:
                self._port.send(Abandoned(request.request_id))

    def taken(self, choice: ChoiceStream) -> None:
        """A choice's tokens went to the client: acknowledge now and then, and cut what a stop string ended."""
        if choice.cut:
            if self._streams.pop(choice.stream, None) is not None and choice.ended is None:
                self._port.send(Cut(choice.stream, choice.position))
        elif choice.ended is None and choice.position - choice.acknowledged >= ACKNOWLEDGE_EVERY:
            choice.acknowledged = choice.position
            self._port.send(Consumed(choice.stream, choice.position))

    def deliver(self, deliver: Deliver) -> None:
        """File what came. Streams that are not known are of calls that ended."""
        streams = self._streams
        for start in deliver.started:
            if (found := streams.get(start.stream)) is not None:
                found[0].started = start
                found[1].wake()
        pumps: dict[Callable[[], None], None] = {}
        """Each call's once, however many of its choices have news."""
        for stream, token in zip(deliver.streams, deliver.tokens, strict=True):
            if (found := streams.get(stream)) is not None:
                choice, call = found
                choice.tokens.append(token)
                if call.pump is not None:
                    pumps[call.pump] = None
                elif call.eager or len(choice.tokens) >= ACKNOWLEDGE_EVERY:
                    call.wake()
        for stream, logprobs in deliver.logprobs:
            if (found := streams.get(stream)) is not None:
                found[0].logprobs.append(logprobs)
        for end in deliver.ended:
            if (found := streams.pop(end.stream, None)) is not None:
                found[0].ended = end
                found[1].ending = True
                found[1].wake()
        for pump in pumps:
            pump()

    # --- the tick ---

    def _arm(self) -> None:
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(self._tick_s, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        now = self.now()
        for call in self._calls.values():
            self._look(call, now)
        if self._calls:
            self._arm()

    def _look(self, call: Call, now: float) -> None:
        """Ping a silent stream; cut a client that takes nothing."""
        since = call.sending_since
        if since is not None:
            if now - since >= self._config.stalled_client_s and call.task is not None and not call.stalled:
                call.stalled = True
                call.task.cancel()
        elif call.eager and now - call.quiet_since >= self._config.ping_s:
            call.silent = True
            call.wake()

    def state(self) -> HubState:
        return HubState(len(self._streams), len(self._calls))

    def check(self) -> None:
        """Every open stream belongs to a call in flight."""
        calls = {id(call) for call in self._calls.values()}
        if any(id(call) not in calls for _, call in self._streams.values()):
            raise Bug("a stream belongs to no call in flight")
