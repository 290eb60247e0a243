"""/v1/chat/completions and /v1/completions: from body to answer, and no trace left behind."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from jedlik.core.config import FrontendConfig
from jedlik.core.errors import Fault
from jedlik.core.ids import RequestId, StreamId
from jedlik.core.requests import Request
from jedlik.frontend.answer import Answer
from jedlik.frontend.choice import Choice, Place
from jedlik.frontend.echo import Echo, echo_of
from jedlik.frontend.http import Receive, Web
from jedlik.frontend.hub import Call, Hub
from jedlik.frontend.models import FirstWorkers, Models
from jedlik.frontend.openai.errors import of_fault
from jedlik.frontend.openai.plan import Plan, Planner, Shape
from jedlik.frontend.openai.replies import CHAT, COMPLETION, Envelope
from jedlik.frontend.openai.schema import BODY
from jedlik.frontend.openai.weight import SMALL_BYTES, weighed
from jedlik.frontend.port import GatewayPort
from jedlik.frontend.session import session_of
from jedlik.frontend.turns import Steps

WATCH_AFTER_S = 0.005
"""Below any engine's step: who leaves earlier is noticed then, and costs no step more."""
NO_WORKER = Fault(
    kind="unavailable", message="No worker for this model is ready yet.", code="no_worker", retry_after_s=1.0
)


class Desk:
    """What answering a request takes; made once."""

    def __init__(self, port: GatewayPort, hub: Hub, models: Models, config: FrontendConfig, rng: random.Random) -> None:
        self.port = port
        self.hub = hub
        self.models = models
        self.config = config
        self._rng = rng

    def planner(self, model: str) -> Planner:
        return Planner(self.models.text(model), self.config, self._rng)


class Generation:
    """Answers requests. `fresh_id` makes request ids, `wall` is seconds since the epoch."""

    def __init__(
        self, desk: Desk, first_workers: FirstWorkers, fresh_id: Callable[[], str], wall: Callable[[], float]
    ) -> None:
        self._desk = desk
        self._first_workers = first_workers
        self._fresh_id = fresh_id
        self._wall = wall

    async def chat(self, web: Web) -> None:
        await self._answer(web, chat=True)

    async def completion(self, web: Web) -> None:
        await self._answer(web, chat=False)

    async def _answer(self, web: Web, chat: bool) -> None:
        desk = self._desk
        raw = await web.json_body(desk.config.max_body_bytes)
        turns = desk.hub.turns
        body = BODY.read(raw) if len(raw) <= SMALL_BYTES else await turns.run(weighed(raw, BODY))
        limits = await self._first_workers.limits(web, body.model)
        if limits is None:
            await web.refuse(of_fault(NO_WORKER))
            return
        planner = desk.planner(body.model)
        plan = await turns.run(planner.chat(body, limits) if chat else planner.completion(body, limits))
        echoes = await turns.run(self._echoes(plan)) if plan.shape.echo else []
        if desk.hub.busy(web.request_id):
            web.request_id = self._fresh_id()
        await self._run(web, plan, echoes, session_of(body, web.headers, web.tenant))

    async def _run(self, web: Web, plan: Plan, echoes: Sequence[Echo], session: str) -> None:
        """Nothing may be awaited before the call is open: its id is its own from then on."""
        desk = self._desk
        first = desk.hub.streams(len(plan.prompts) * plan.n)
        requests = plan.requests(RequestId(web.request_id), first, web.tenant, session)
        choices = [
            self._choice(request, at * plan.n, number, plan.shape, echoes[at] if echoes else None)
            for at, request in enumerate(requests)
            for number in range(plan.n)
        ]
        call = Call(requests, choices, eager=plan.shape.stream)
        prefix = CHAT if plan.shape.chat else COMPLETION
        envelope = Envelope(prefix + web.request_id, int(self._wall()), plan.model, plan.shape.chat, plan.fingerprint)
        answer = Answer(
            call, plan.shape, envelope, desk.hub, echoes, desk.models.text(plan.model).detokenisers.token_bytes
        )
        await self._held(web, call, answer.stream if plan.shape.stream else answer.whole)

    def _choice(self, request: Request, base: int, number: int, shape: Shape, echo: Echo | None) -> Choice:
        stream = StreamId(request.first_stream + number)
        place = Place(base + number, stream, request.request_id, number == 0)
        if echo is not None:
            return Choice(place, shape, echo.detokeniser(), len(echo.text))
        return Choice(place, shape, self._desk.models.text(request.model).detokenisers.stream(shape.skip_special))

    def _echoes(self, plan: Plan) -> Steps[list[Echo]]:
        made = []
        for prompt in plan.prompts:
            stream = self._desk.models.text(plan.model).detokenisers.stream(plan.shape.skip_special)
            made.append((yield from echo_of(prompt.ids, stream)))
        return made

    async def _held(self, web: Web, call: Call, work: Callable[[Web], Awaitable[None]]) -> None:
        """Open the call, watch for the client's leaving, and close it whatever happens."""
        call.task = task = asyncio.current_task()
        watcher = Watcher(web.receive, call)
        try:
            await self._desk.hub.turns.run(self._desk.hub.open(call))
            await work(web)
        except asyncio.CancelledError:
            if not call.stalled or task is None:
                raise
            task.uncancel()
            web.cut()
        finally:
            self._desk.hub.close(call)
            await watcher.stop()


class Watcher:
    """Sees the client leave: at once on streams; else a moment later, when short answers are out and spared a task."""

    def __init__(self, receive: Receive, call: Call) -> None:
        self._receive = receive
        self._call = call
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        if call.eager:
            self._begin()
        else:
            self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._begin)

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._watch(), name="watch for disconnect")

    async def _watch(self) -> None:
        """The body is read, so what comes next is the end of the connection (or pipelined noise)."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._call.gone = True
        self._call.wake()
