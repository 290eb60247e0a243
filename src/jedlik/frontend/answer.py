"""From a call's choices to bytes on the wire: streamed as events, or whole.

Headers wait for the first delivery, so that a refusal is a proper HTTP status and the worker's name is known; a stream
that stays silent for the ping period gets its headers without those.
"""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from jedlik.core.tokens import count
from jedlik.frontend.choice import Choice, Piece
from jedlik.frontend.echo import Echo
from jedlik.frontend.http import SSE, Headers, Web
from jedlik.frontend.hub import Call, Hub
from jedlik.frontend.openai import errors, replies
from jedlik.frontend.openai.logprobs import Columns, Entry, TokenBytes, chat_logprobs, completion_logprobs
from jedlik.frontend.openai.plan import Shape
from jedlik.frontend.openai.replies import Envelope, Json
from jedlik.frontend.pump import Pump
from jedlik.frontend.sse import DONE, PING, ChunkFormat, error_event
from jedlik.frontend.turns import Steps, finish

FEW = 4
"""Choices of an answer that are dealt with at once."""


class Spoken:
    """What one choice has said so far, of an answer that is not streamed."""

    __slots__ = ("_logprobs", "_make", "texts")

    def __init__(self, make: Callable[[Sequence[Entry]], Json]) -> None:
        self.texts: list[str] = []
        self._make = make
        self._logprobs: Columns | None = None

    def add(self, piece: Piece) -> None:
        self.texts += piece.deltas
        if piece.entries:
            self._columns().add(piece.entries)

    def logprobs(self) -> Json:
        """The logprobs of all that was said. They are asked for once."""
        return self._columns().whole()

    def _columns(self) -> Columns:
        if self._logprobs is None:
            self._logprobs = Columns(self._make)
        return self._logprobs


class Answer:
    """One call's way out. `echoes` has one per prompt, or none."""

    def __init__(
        self, call: Call, shape: Shape, envelope: Envelope, hub: Hub, echoes: Sequence[Echo], token_bytes: TokenBytes
    ) -> None:
        self._call = call
        self._shape = shape
        self._envelope = envelope
        self._hub = hub
        self._echoes = echoes
        self._token_bytes = token_bytes
        self._to_echo = set(range(len(call.choices))) if echoes else set()
        self._plain = not echoes and shape.logprobs is None
        self._each = len(call.choices) // len(call.requests)
        """Choices of a prompt."""

    # --- streamed ---

    async def stream(self, web: Web) -> None:
        """Send events until all is said, the client has gone, or a fault broke the answer."""
        call = self._call
        chunks = ChunkFormat(self._envelope, self._shape.include_usage and not self._shape.running_usage)
        opened = False
        pump = Pump(call, web, lambda: self._news(chunks), self._hub.now)
        try:
            while True:
                await call.news()
                await pump.settle()
                if call.gone:
                    return
                fault = call.fault if call.ending else None
                if not web.begun:
                    if fault is not None and not any(choice.started for choice in call.choices):
                        await web.refuse(errors.of_fault(fault))
                        return
                    await web.begin(200, [*SSE, *self._origin()])
                body = await self._hub.turns.run(self._echoed(chunks)) if self._to_echo else b""
                body += self._news(chunks)
                if body and not opened:
                    body, opened = self._opening(chunks) + body, True
                if body and not self._to_echo:
                    call.pump = pump
                over = call.ending and (fault is not None or call.over)
                if over:
                    ending = error_event(errors.fault_object(fault)) if fault else self._close(opened, chunks)
                    await self._send(web, body + ending, more=False)
                    return
                if body or call.silent:
                    await self._send(web, body or PING, more=True)
        finally:
            pump.stop()

    async def _send(self, web: Web, body: bytes, more: bool) -> None:
        """While the client takes nothing this waits, and the hub's tick sees since when."""
        call = self._call
        call.silent = False
        call.quiet_since = call.sending_since = self._hub.now()
        await web.send({"type": "http.response.body", "body": body, "more_body": more})
        call.sending_since = None

    def _news(self, chunks: ChunkFormat) -> bytes:
        """Events for all that was delivered. It is acknowledged a little before it is sent: 8 tokens of a stream."""
        touched = [choice for choice in self._call.choices if choice.news]
        if self._to_echo:
            touched = [choice for choice in touched if choice.place.index not in self._to_echo]
        body = b"".join([self._chunk(choice, chunks) for choice in touched])
        for choice in touched:
            self._hub.taken(choice)
        return body

    def _chunk(self, choice: Choice, chunks: ChunkFormat) -> bytes:
        index = choice.place.index
        if self._plain and choice.plain:
            if self._shape.running_usage:
                first = choice.position + 1
                deltas = enumerate(choice.deltas(), first)
                return b"".join([self._counted(choice, at, chunks.text(index, text)) for at, text in deltas if text])
            return b"".join([chunks.text(index, delta) for delta in choice.deltas() if delta])
        piece = choice.advance()
        if self._plain:
            said = [piece.text] if self._shape.running_usage else piece.deltas
            text = b"".join([self._counted(choice, choice.position, chunks.text(index, each)) for each in said if each])
        else:
            text = self._text(choice, choice.position, piece, chunks)
        if choice.cut:
            self._hub.taken(choice)  # cancel first, then send
            self._call.ending = True
        if choice.finish is not None:
            text += self._counted(choice, choice.position, chunks.finish(index, choice.finish, choice.stop_reason))
        return text

    def _text(self, choice: Choice, output: int, piece: Piece, chunks: ChunkFormat) -> bytes:
        if not piece.text and not piece.entries:
            return b""
        logprobs = self._logprobs(piece.entries) if piece.entries else None
        return self._counted(choice, output, chunks.text(choice.place.index, piece.text, logprobs))

    def _echoed(self, chunks: ChunkFormat) -> Steps[bytes]:
        """Events for the prompts of choices that have something to say now."""
        events = []
        for choice in self._call.choices:
            if choice.place.index in self._to_echo and choice.news:
                for piece in self._echo(choice):
                    events.append(self._text(choice, 0, piece, chunks))
                    yield None
                self._to_echo.remove(choice.place.index)
        return b"".join(events)

    def _counted(self, choice: Choice, output: int, chunk: bytes) -> bytes:
        """The chunk, with what this choice has used by then where every chunk is to say so (as vLLM does)."""
        if not self._shape.running_usage:
            return chunk
        started = self._first(choice).started
        cached = 0 if started is None else started.cached_tokens
        request = self._call.requests[choice.place.index // self._each]
        return ChunkFormat.with_usage(chunk, replies.usage(count(request.prompt), output, cached))

    def _opening(self, chunks: ChunkFormat) -> bytes:
        choices = self._call.choices
        return b"".join([self._counted(choice, 0, chunks.role(choice.place.index)) for choice in choices])

    def _close(self, opened: bool, chunks: ChunkFormat) -> bytes:
        """What ends an answer, and begins it if nothing was ever said."""
        opening = b"" if opened else self._opening(chunks)
        return opening + (chunks.usage(self._usage()) if self._shape.include_usage else b"") + DONE

    # --- whole ---

    async def whole(self, web: Web) -> None:
        """Collect all choices, then answer at once."""
        call = self._call
        spoken = [Spoken(self._logprobs) for _ in call.choices]
        few = self._plain and len(call.choices) <= FEW
        over = False
        while not over:  # looked at after the news: a refusal may be there before the first wait
            await call.news()
            if call.gone:
                return
            if few:
                for choice in call.choices:
                    if choice.news:
                        self._hear(choice, spoken)
            else:
                await self._hub.turns.run(self._listen(spoken))
            fault = call.fault
            if fault is not None:
                await web.refuse(errors.of_fault(fault))
                return
            over = call.over
        choices = finish(self._choices(spoken)) if few else await self._hub.turns.run(self._choices(spoken))
        call.sending_since = self._hub.now()
        await web.reply(200, replies.whole(self._envelope, choices, self._usage()), self._origin())

    def _listen(self, spoken: Sequence["Spoken"]) -> Steps[None]:
        """Take what was delivered, a choice per step."""
        for choice in self._call.choices:
            if choice.news:
                index = choice.place.index
                if index in self._to_echo:
                    self._to_echo.remove(index)
                    for piece in self._echo(choice):
                        spoken[index].add(piece)
                        yield None
                self._hear(choice, spoken)
                yield None

    def _hear(self, choice: Choice, spoken: Sequence["Spoken"]) -> None:
        spoken[choice.place.index].add(choice.advance())
        self._hub.taken(choice)

    def _choices(self, spoken: Sequence["Spoken"]) -> Steps[list[Json | msgspec.Raw]]:
        """Choices as JSON, one per step."""
        made: list[Json | msgspec.Raw] = []
        make = replies.chat_choice if self._shape.chat else replies.completion_choice
        for choice in self._call.choices:
            said = spoken[choice.place.index]
            logprobs = None if self._shape.logprobs is None else said.logprobs()
            one = make(choice.place.index, "".join(said.texts), logprobs, choice.finish, choice.stop_reason)
            made.append(one if len(spoken) <= FEW else replies.encoded(one))
            yield None
        return made

    # --- both ---

    def _echo(self, choice: Choice) -> Iterator[Piece]:
        """What a choice says of its prompt."""
        started = choice.started or self._first(choice).started
        echo = self._echoes[choice.place.index // self._each]
        return echo.pieces(started.prompt_logprobs if started is not None else None)

    def _first(self, choice: Choice) -> Choice:
        """The first choice of the same prompt."""
        return self._call.choices[choice.place.index // self._each * self._each]

    def _logprobs(self, entries: Sequence[Entry]) -> Json:
        make = chat_logprobs if self._shape.chat else completion_logprobs
        return make(entries, self._shape.logprobs or 0, self._token_bytes)

    def _cached(self) -> int:
        firsts = [c for c in self._call.choices if c.place.first and c.started is not None]
        return sum(c.started.cached_tokens for c in firsts if c.started is not None)

    def _usage(self) -> Json:
        prompt = sum(count(request.prompt) for request in self._call.requests)
        return replies.usage(prompt, sum(c.position for c in self._call.choices), self._cached())

    def _origin(self) -> Headers:
        """Who answers, and how much of the prompt it had; unknown before the first delivery."""
        started = next((c.started for c in self._call.choices if c.started is not None), None)
        if started is None:
            return ()
        return (
            (b"x-jedlik-worker", str(started.worker).encode("latin-1", "replace")),
            (b"x-jedlik-cached-tokens", b"%d" % self._cached()),
        )
