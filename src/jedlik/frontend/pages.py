"""Everything that is not generation: models, health, metrics, explain, tokenize."""

import asyncio
from collections.abc import Callable

import msgspec

from jedlik import __version__
from jedlik.core import tokens
from jedlik.core.errors import RequestError
from jedlik.core.ids import RequestId
from jedlik.frontend.generate import Desk
from jedlik.frontend.http import TEXT, Web
from jedlik.frontend.json_body import Reader
from jedlik.frontend.openai import replies

METRICS = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
MAX_PAGE_BODY_BYTES = 1 << 20


class TokenizeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prompt: str
    model: str | None = None
    add_special_tokens: bool = True


class DetokenizeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tokens: list[int]
    model: str | None = None


_read_tokenize = Reader(TokenizeBody).read
_read_detokenize = Reader(DetokenizeBody).read


class Pages:
    """Small answers. `started` is when this process began, seconds since the epoch."""

    def __init__(self, desk: Desk, metrics: Callable[[], bytes], started: float) -> None:
        self._desk = desk
        self._metrics = metrics
        self._started = int(started)

    async def live(self, web: Web) -> None:
        """The event loop turns."""
        await web.reply(200, b"ok", kind=TEXT)

    async def ready(self, web: Web) -> None:
        """A request would be served now."""
        ready = self._is_ready()
        await web.reply(200 if ready else 503, b"ready" if ready else b"not ready", kind=TEXT)

    async def health(self, web: Web) -> None:
        """The same with reasons."""
        ready = self._is_ready()
        health = {"status": "ok" if ready else "unavailable", **self._desk.port.health()}
        await web.reply_json(200 if ready else 503, health)

    def _is_ready(self) -> bool:
        return bool(self._desk.port.cards()) and not self._desk.port.health().get("draining")

    async def metrics(self, web: Web) -> None:
        await web.reply(200, self._metrics(), kind=METRICS)

    async def version(self, web: Web) -> None:
        await web.reply_json(200, {"version": __version__})

    # --- models ---

    def _models(self) -> list[replies.Json]:
        """Only what a request could be sent to now."""
        book = self._desk.book
        book.update(self._desk.port.cards())
        return [self._model(name) for name in sorted(book.ready)]

    def _model(self, name: str) -> replies.Json:
        return replies.model_entry(name, self._started, self._desk.book.of(name))

    async def models(self, web: Web) -> None:
        await web.reply_json(200, {"object": "list", "data": self._models()})

    async def model(self, web: Web) -> None:
        found = next((model for model in self._models() if model["id"] == web.argument), None)
        if found is None:
            raise RequestError(
                f"The model {web.argument[:200]!r} is not served now.",
                param="model",
                code="model_not_found",
                status=404,
            )
        await web.reply_json(200, found)

    # --- explain ---

    async def explain(self, web: Web) -> None:
        """Routing decisions of one of the caller's own requests; others' are as unknown as none."""
        decisions = self._desk.port.explain(RequestId(web.argument))
        own = [msgspec.to_builtins(decision) for decision in decisions if decision.tenant == web.tenant]
        if not own:
            raise RequestError("No such request is remembered.", param="request_id", code="not_found", status=404)
        await web.reply_json(200, {"request_id": web.argument, "decisions": own})

    # --- tokens ---

    async def tokenize(self, web: Web) -> None:
        """vLLM's form, which lm-eval uses."""
        body = _read_tokenize(await web.json_body(MAX_PAGE_BODY_BYTES))
        tokeniser = self._desk.text.tokeniser
        try:
            for _ in tokeniser.warm(body.prompt, limit=len(body.prompt)):
                await asyncio.sleep(0)
            ids = tokens.unpack(tokeniser.encode(body.prompt, body.add_special_tokens))
        except UnicodeError as error:
            raise RequestError(f"prompt is not valid Unicode: {error}", param="prompt") from error
        models = self._models()
        most = models[0]["max_model_len"] if models else None
        await web.reply_json(200, {"count": len(ids), "max_model_len": most, "tokens": ids})

    async def detokenize(self, web: Web) -> None:
        body = _read_detokenize(await web.json_body(MAX_PAGE_BODY_BYTES))
        if any(not 0 <= token < 1 << 32 for token in body.tokens):
            raise RequestError("tokens has an entry that is no token id.", param="tokens", code="invalid_value")
        await web.reply_json(200, {"prompt": self._desk.text.detokenisers.decode(body.tokens, skip_special=False)})
