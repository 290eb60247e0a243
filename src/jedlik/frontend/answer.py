"""A call's choices become bytes on the wire, in any dialect: streamed as events, or whole.

Headers wait for the first delivery, so that a refusal is a proper HTTP status and the worker's name is known; a stream
that stays silent for the ping period gets its headers without those.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from jedlik.core.tokens import count
from jedlik.frontend.choice import ChoiceStream, Echo
from jedlik.frontend.dialect import AnswerPlan, StreamedAnswer, Text, Usage, WholeAnswer
from jedlik.frontend.http import SSE, Headers, Web
from jedlik.frontend.hub import Call, Hub
from jedlik.frontend.pump import Pump
from jedlik.frontend.turns import Steps, finish

T = TypeVar("T")
FEW = 4
"""An answer with at most so many choices is short, unless it has logprobs or an echo."""


class AnswerWriter:
    """Writes one call's answer. `echoes` has one per prompt, or none."""

    def __init__(self, call: Call, plan: AnswerPlan, hub: Hub, echoes: Sequence[Echo]) -> None:
        self._call = call
        self._plan = plan
        self._hub = hub
        self._echoes = echoes
        self._to_echo = set(range(len(call.choices))) if echoes else set()
        self._plain = plan.logprobs is None and not plan.running_usage
        self._short = self._plain and not echoes and len(call.choices) <= FEW

    # --- streamed ---

    async def stream(self, web: Web, events: StreamedAnswer) -> None:
        """Send events until all is sent, the client has gone, or a fault broke the answer."""
        call = self._call
        opened = False
        pump = Pump(call, web, lambda: self._news(events), self._hub.now)
        try:
            while True:
                await call.news()
                await pump.settle()
                if call.gone:
                    return
                fault = call.fault if call.ending else None
                if not web.begun:
                    if fault is not None and not any(choice.started for choice in call.choices):
                        await web.refuse(fault)
                        return
                    await web.begin(200, [*SSE, *self._origin()])
                body = await self._hub.turns.run(self._echoed(events)) if self._to_echo else b""
                body += self._news(events)
                if body and not opened:
                    body, opened = self._opening(events) + body, True
                if body and not self._to_echo:
                    call.pump = pump
                if fault is not None:
                    await self._send(web, body + events.error(fault), more=False)
                    return
                if call.ending and call.over:
                    opening = b"" if opened else self._opening(events)
                    await self._send(web, body + opening + events.end(self._usage()), more=False)
                    return
                if body or call.silent:
                    await self._send(web, body or events.ping, more=True)
        finally:
            pump.stop()

    async def _send(self, web: Web, body: bytes, more: bool) -> None:
        """While the client takes nothing this waits, and the hub's tick sees since when."""
        call = self._call
        call.silent = False
        call.quiet_since = call.sending_since = self._hub.now()
        await web.send({"type": "http.response.body", "body": body, "more_body": more})
        call.sending_since = None

    def _news(self, events: StreamedAnswer) -> bytes:
        """Events for all that was delivered. It is acknowledged a little before it is sent: 8 tokens of a stream."""
        touched = [choice for choice in self._call.choices if choice.news]
        if self._to_echo:
            touched = [choice for choice in touched if choice.index not in self._to_echo]
        body = b"".join([self._events(choice, events) for choice in touched])
        for choice in touched:
            self._hub.taken(choice)
        return body

    def _events(self, choice: ChoiceStream, events: StreamedAnswer) -> bytes:
        index = choice.index
        if self._plain and choice.plain:
            return b"".join([events.text(index, text) for text in choice.texts() if text])
        deltas = choice.advance()
        if self._plain:
            made = [events.delta(index, delta, None) for delta in deltas]
        else:
            made = [events.delta(index, delta, self._usage_of(choice, delta.position)) for delta in deltas]
        if choice.cut:
            self._hub.taken(choice)  # cancel first, then send
            self._call.ending = True
        if choice.finish is not None:
            made.append(events.finish(index, choice.finish, self._usage_of(choice, choice.position)))
        return b"".join(made)

    def _opening(self, events: StreamedAnswer) -> bytes:
        return b"".join([events.opening(each.index, self._usage_of(each, 0)) for each in self._call.choices])

    def _echoed(self, events: StreamedAnswer) -> Steps[bytes]:
        """Events for the prompts of choices that have news now."""
        made = []
        for choice in self._call.choices:
            if choice.index in self._to_echo and choice.news:
                for delta in self._echo(choice):
                    if delta.text or delta.tokens:
                        made.append(events.delta(choice.index, delta, self._usage_of(choice, 0)))
                    yield None
                self._to_echo.remove(choice.index)
        return b"".join(made)

    # --- whole ---

    async def whole(self, web: Web, answer: WholeAnswer) -> None:
        """Collect all choices, then answer at once."""
        call = self._call
        over = False
        while not over:  # looked at after the news: a refusal may be there before the first wait
            await call.news()
            if call.gone:
                return
            await self._in_turns(self._collect(answer))
            fault = call.fault
            if fault is not None:
                await web.refuse(fault)
                return
            over = call.over
        body = await self._in_turns(answer.body(self._usage()))
        call.sending_since = self._hub.now()
        await web.reply(200, body, self._origin())

    async def _in_turns(self, steps: Steps[T]) -> T:
        """Run steps. Those of a short answer are run at once: they take less than a turn's bookkeeping."""
        return finish(steps) if self._short else await self._hub.turns.run(steps)

    def _collect(self, answer: WholeAnswer) -> Steps[None]:
        """Take what was delivered, a choice per step."""
        for choice in self._call.choices:
            if not choice.news:
                continue
            index = choice.index
            if index in self._to_echo:
                self._to_echo.remove(index)
                for delta in self._echo(choice):
                    answer.delta(index, delta)
                    yield None
            if self._plain and choice.plain:
                answer.text(index, "".join(choice.texts()))
            else:
                for delta in choice.advance():
                    answer.delta(index, delta)
            if choice.finish is not None:
                answer.finish(index, choice.finish)
            self._hub.taken(choice)
            yield None

    # --- both ---

    def _echo(self, choice: ChoiceStream) -> Iterator[Text]:
        """The prompt as the beginning of a choice."""
        started = choice.started or self._first(choice).started
        logprobs = started.prompt_logprobs if started is not None else None
        return self._echoes[choice.index // self._plan.n].deltas(logprobs)

    def _first(self, choice: ChoiceStream) -> ChoiceStream:
        """The first choice of the same prompt, which says how much of the prompt was cached."""
        return self._call.choices[choice.index // self._plan.n * self._plan.n]

    def _usage_of(self, choice: ChoiceStream, output_tokens: int) -> Usage:
        """The usage of one choice by the time that it has so many tokens."""
        started = self._first(choice).started
        request = self._call.requests[choice.index // self._plan.n]
        return Usage(count(request.prompt), output_tokens, 0 if started is None else started.cached_tokens)

    def _usage(self) -> Usage:
        prompt_tokens = sum(count(request.prompt) for request in self._call.requests)
        return Usage(prompt_tokens, sum(choice.position for choice in self._call.choices), self._cached_tokens())

    def _cached_tokens(self) -> int:
        firsts = self._call.choices[:: self._plan.n]
        return sum(choice.started.cached_tokens for choice in firsts if choice.started is not None)

    def _origin(self) -> Headers:
        """Who answers, and how much of the prompt it had; unknown before the first delivery."""
        started = next((each.started for each in self._call.choices if each.started is not None), None)
        if started is None:
            return ()
        return (
            (b"x-jedlik-worker", str(started.worker).encode("latin-1", "replace")),
            (b"x-jedlik-cached-tokens", b"%d" % self._cached_tokens()),
        )
