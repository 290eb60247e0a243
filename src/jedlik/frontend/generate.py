"""Answering requests for generation in any dialect: from body to answer, and no trace remains.

read the body ─▶ wait for the model's first worker ─▶ plan ─▶ open the call ─▶ write its answer ─▶ close the call
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any

from jedlik.core.config import FrontendConfig
from jedlik.core.errors import Fault
from jedlik.core.ids import RequestId
from jedlik.core.trace import trace_of
from jedlik.frontend.answer import AnswerWriter
from jedlik.frontend.choice import ChoiceStream, Echo, echo_of
from jedlik.frontend.dialect import AnswerPlan, BodyT, Dialect
from jedlik.frontend.http import Receive, Web
from jedlik.frontend.hub import Call, Hub
from jedlik.frontend.json_body import SMALL_BYTES
from jedlik.frontend.models import FirstWorkers, Models, disconnected
from jedlik.frontend.turns import Steps, finish

WATCH_AFTER_S = 0.005
"""Below any engine's step: who leaves earlier is noticed then, and costs no step more."""
NO_WORKER = Fault(
    kind="unavailable", message="No worker for this model is ready yet.", code="no_worker", retry_after_s=1.0
)
SESSION_HEADER = b"x-session-id"


class Generation:
    """Answers requests. `fresh_id` makes request ids, `wall` is seconds since the epoch."""

    def __init__(
        self,
        hub: Hub,
        models: Models,
        first_workers: FirstWorkers,
        config: FrontendConfig,
        fresh_id: Callable[[], str],
        wall: Callable[[], float],
    ) -> None:
        self._hub = hub
        self._models = models
        self._first_workers = first_workers
        self._config = config
        self._fresh_id = fresh_id
        self._wall = wall

    async def answer(self, web: Web, dialect: Dialect[BodyT]) -> None:
        """Answer a request in a dialect. Raises RequestError for one that can't be served, Disconnected."""
        raw = await web.json_body(self._config.max_body_bytes)
        turns = self._hub.turns
        reading = dialect.read(raw)
        body = finish(reading) if len(raw) <= SMALL_BYTES else await turns.run(reading)
        limits = await self._first_workers.limits(web, body.model)
        if limits is None:
            await web.refuse(NO_WORKER)
            return
        plan = await turns.run(dialect.plan(body, self._models.text(body.model), limits))
        echoes = await turns.run(_echoes(plan)) if plan.echo else []
        if self._hub.busy(web.request_id):
            web.request_id = self._fresh_id()
        # nothing may be awaited before the call is open: its id is its own from then on
        call = self._call(web, plan, echoes)
        writer = AnswerWriter(call, plan, self._hub, echoes)
        created = int(self._wall())
        if plan.stream:
            writing = writer.stream(web, dialect.streamed(plan, web.request_id, created))
        else:
            writing = writer.whole(web, dialect.whole(plan, web.request_id, created))
        await self._hold_open(web, call, writing)

    def _call(self, web: Web, plan: AnswerPlan, echoes: Sequence[Echo]) -> Call:
        first = self._hub.reserve(len(plan.prompts) * plan.n)
        session = session_of(plan.conversation, web.headers, web.tenant)
        requests = plan.requests(RequestId(web.request_id), first, web.tenant, session, trace_of(web.scope["headers"]))
        choices = []
        for index in range(len(plan.prompts) * plan.n):
            at = index // plan.n
            echo = echoes[at] if echoes else None
            stream = plan.text.detokenisers.stream(plan.skip_special) if echo is None else echo.detokeniser()
            choices.append(ChoiceStream(index, requests[at], plan, stream, 0 if echo is None else len(echo.text)))
        return Call(requests, choices, eager=plan.stream)

    async def _hold_open(self, web: Web, call: Call, writing: Coroutine[Any, Any, None]) -> None:
        """Open the call, watch for the client's leaving, and close it whatever happens."""
        call.task = task = asyncio.current_task()
        watch = DisconnectWatch(web.receive, call)
        try:
            await self._hub.turns.run(self._hub.open(call))
            await writing
        except asyncio.CancelledError:
            if not call.stalled or task is None:
                raise
            task.uncancel()
            web.cut()
        finally:
            writing.close()
            self._hub.close(call)
            await watch.stop()


def _echoes(plan: AnswerPlan) -> Steps[list[Echo]]:
    made = []
    for prompt in plan.prompts:
        made.append((yield from echo_of(prompt.ids, plan.text.detokenisers.stream(plan.skip_special))))
    return made


def session_of(conversation: tuple[str, str], headers: Mapping[bytes, bytes], tenant: str) -> str:
    """Return what says to routing that requests belong to one conversation; empty where the request says nothing.

    It is a digest with the tenant in it: the values are the client's own (a user name may be an address), of any
    length, and mean nothing across tenants.
    """
    before, after = conversation
    name = before or headers.get(SESSION_HEADER, b"").decode("latin-1") or after
    if not name:
        return ""
    text = f"{len(tenant)}/{tenant}/{name}".encode(errors="replace")
    return blake2b(text, digest_size=8).hexdigest()


class DisconnectWatch:
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
        await disconnected(self._receive)
        self._call.gone = True
        self._call.wake()
