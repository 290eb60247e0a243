"""Everything that is not generation: models, health, metrics, explain, tokenize."""

from collections.abc import Callable
from urllib.parse import parse_qsl

import msgspec

from jedlik import __version__
from jedlik.core import tokens
from jedlik.core.errors import RequestError
from jedlik.core.ids import RequestId
from jedlik.frontend.generate import Desk
from jedlik.frontend.http import TEXT, Web
from jedlik.frontend.json_body import Reader
from jedlik.frontend.openai import replies
from jedlik.frontend.openai.replies import ANSWERS
from jedlik.frontend.openai.schema import Body, Message
from jedlik.frontend.openai.weight import weighed
from jedlik.frontend.turns import Steps

METRICS = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
MAX_PAGE_BODY_BYTES = 1 << 20


class TokenizeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text, or messages as for chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None
    """Default: for a text; a template writes them itself."""
    return_token_strs: bool | None = None
    # with messages
    add_generation_prompt: bool | None = None
    chat_template: object = None
    chat_template_kwargs: dict[str, object] | None = None
    continue_final_message: object = None
    mm_processor_kwargs: object = None
    tools: object = None


TEXT_FIELDS = frozenset({"model", "prompt", "add_special_tokens", "return_token_strs"})
CHAT_FIELDS = frozenset(TokenizeBody.__struct_fields__) - TEXT_FIELDS


class DetokenizeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tokens: list[int]
    model: str | None = None


TOKENIZE, DETOKENIZE = Reader(TokenizeBody), Reader(DetokenizeBody)


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
        return [self._model(name) for name in self._desk.models.ready()]

    def _model(self, name: str) -> replies.Json:
        return replies.model_entry(name, self._started, self._desk.models.limits(name))

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
        """Routing decisions of one of the caller's own requests; others' are as unknown as none.

        The answer's own id does as well as the request's.
        """
        asked = web.argument
        for name in (asked, *[asked.removeprefix(kind) for kind in ANSWERS if asked.startswith(kind)]):
            decisions = self._desk.port.explain(RequestId(name))
            own = [msgspec.to_builtins(decision) for decision in decisions if decision.tenant == web.tenant]
            if own:
                await web.reply_json(200, {"request_id": name, "decisions": own})
                return
        raise RequestError("No such request is remembered.", param="request_id", code="not_found", status=404)

    # --- tokens ---

    async def tokenizer_info(self, web: Web) -> None:
        """The model's tokenizer_config.json, in vLLM's form."""
        query = dict(parse_qsl(web.scope.get("query_string", b"").decode("latin-1")))
        model = self._desk.models.meant(query.get("model"))
        await web.reply_json(200, self._desk.models.text(model).info)

    async def tokenize(self, web: Web) -> None:
        """vLLM's form, which lm-eval uses."""
        turns = self._desk.hub.turns
        raw = await web.json_body(MAX_PAGE_BODY_BYTES)
        body = await turns.run(weighed(raw, TOKENIZE))
        model = self._desk.models.meant(body.model)
        limits, text = self._desk.models.limits(model), self._desk.models.text(model)
        try:
            ids = tokens.unpack(await turns.run(self._ids(body, model)))
        except UnicodeError as error:
            param = "messages" if body.prompt is None else "prompt"
            raise RequestError(f"{param} is not valid Unicode.", param=param, code="invalid_value") from error
        most = None if limits is None else limits.max_model_len
        names = await turns.run(text.tokeniser.names(ids)) if body.return_token_strs else None
        await web.reply_json(200, {"count": len(ids), "max_model_len": most, "tokens": ids, "token_strs": names})

    def _ids(self, body: TokenizeBody, model: str) -> Steps[bytes]:
        if (body.prompt is None) == (body.messages is None):
            raise RequestError("Give prompt or messages, one of them.", param="prompt", code="missing_parameter")
        if body.prompt is not None:
            for name in CHAT_FIELDS:
                if getattr(body, name) is not None:
                    raise RequestError(f"{name} needs messages.", param=name, code="invalid_value")
            return (
                yield from self._desk.models.text(model).tokeniser.steps(
                    body.prompt, body.add_special_tokens is not False
                )
            )
        given = {name: getattr(body, name) for name in CHAT_FIELDS if name in Body.__struct_fields__}
        chat = Body(model=body.model or "", **given)
        planner = self._desk.planner(model)
        planner.refuse_unserved(chat)
        text, tokeniser = yield from planner.rendered(chat)
        return (yield from tokeniser.steps(text, bool(body.add_special_tokens)))

    async def detokenize(self, web: Web) -> None:
        turns = self._desk.hub.turns
        raw = await web.json_body(MAX_PAGE_BODY_BYTES)
        body = await turns.run(weighed(raw, DETOKENIZE))
        model = self._desk.models.meant(body.model)
        limits = self._desk.models.limits(model)
        detokenisers = self._desk.models.text(model).detokenisers
        size = len(detokenisers.table.bytes) if limits is None else limits.vocab_size
        if body.tokens and not (min(body.tokens) >= 0 and max(body.tokens) < size):
            why = f"tokens has an entry that is no token id of this model: ids go from 0 to {size - 1}."
            raise RequestError(why, param="tokens", code="invalid_value")
        await web.reply_json(200, {"prompt": await turns.run(detokenisers.steps(body.tokens, skip_special=False))})
