"""The small routes: models, health, metrics, explain, and texts as tokens and back."""

from collections.abc import Callable
from urllib.parse import parse_qsl

import msgspec

from jedlik import __version__
from jedlik.core import tokens
from jedlik.core.errors import RequestError
from jedlik.core.ids import RequestId
from jedlik.frontend.http import TEXT, Web
from jedlik.frontend.json_body import Reader
from jedlik.frontend.models import Models
from jedlik.frontend.openai.chat import prompt_text, refuse_unserved_chat
from jedlik.frontend.openai.dialects import ANSWER_IDS, Json
from jedlik.frontend.openai.schema import Message, OpenAIBody
from jedlik.frontend.port import GatewayPort
from jedlik.frontend.turns import Steps, Turns

METRICS = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
MAX_PAGE_BODY_BYTES = 1 << 20


class TokenizeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of /tokenize: a text, or messages as for chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None
    """Special tokens are added to a text unless this is false; a template writes them itself."""
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
    """The body of /detokenize: token ids."""

    tokens: list[int]
    model: str | None = None


TOKENIZE, DETOKENIZE = Reader(TokenizeBody), Reader(DetokenizeBody)


class Pages:
    """Answers of the small routes. `started` is when this process began, seconds since the epoch."""

    def __init__(
        self, port: GatewayPort, models: Models, turns: Turns, max_messages: int, metrics: Callable[[], bytes],
        started: float,
    ) -> None:  # fmt: skip
        self._port = port
        self._models = models
        self._turns = turns
        self._max_messages = max_messages
        self._metrics = metrics
        self._started = int(started)

    async def live(self, web: Web) -> None:
        """Answer at all: the event loop turns."""
        await web.reply(200, b"ok", kind=TEXT)

    async def ready(self, web: Web) -> None:
        """Say whether a request would be served now."""
        ready = self._is_ready()
        await web.reply(200 if ready else 503, b"ready" if ready else b"not ready", kind=TEXT)

    async def health(self, web: Web) -> None:
        """Say the same with reasons."""
        ready = self._is_ready()
        health = {"status": "ok" if ready else "unavailable", **self._port.health()}
        await web.reply_json(200 if ready else 503, health)

    def _is_ready(self) -> bool:
        return bool(self._port.cards()) and not self._port.health().get("draining")

    async def metrics(self, web: Web) -> None:
        await web.reply(200, self._metrics(), kind=METRICS)

    async def version(self, web: Web) -> None:
        await web.reply_json(200, {"version": __version__})

    # --- models ---

    def _entries(self) -> list[Json]:
        """The models that a request could be sent to now."""
        return [self._entry(name) for name in self._models.ready()]

    def _entry(self, name: str) -> Json:
        """One item of /v1/models, with vLLM's extras that clients read, and what holds where a request says nothing."""
        limits = self._models.limits(name)
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "jedlik",
            "root": name,
            "parent": None,
            "max_model_len": None if limits is None else limits.max_model_len,
            "default_sampling_params": None if limits is None else msgspec.to_builtins(limits.defaults),
        }

    async def models(self, web: Web) -> None:
        await web.reply_json(200, {"object": "list", "data": self._entries()})

    async def model(self, web: Web) -> None:
        found = next((model for model in self._entries() if model["id"] == web.argument), None)
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
        """Show the routing decisions of one of the caller's own requests; others' are as unknown as none.

        The answer's own id does as well as the request's.
        """
        asked = web.argument
        for name in (asked, *[asked.removeprefix(kind) for kind in ANSWER_IDS if asked.startswith(kind)]):
            decisions = self._port.explain(RequestId(name))
            own = [msgspec.to_builtins(decision) for decision in decisions if decision.tenant == web.tenant]
            if own:
                await web.reply_json(200, {"request_id": name, "decisions": own})
                return
        raise RequestError("No such request is remembered.", param="request_id", code="not_found", status=404)

    # --- tokens ---

    async def tokenizer_info(self, web: Web) -> None:
        """Show the model's tokenizer_config.json, in vLLM's form."""
        query = dict(parse_qsl(web.scope.get("query_string", b"").decode("latin-1")))
        model = self._models.meant(query.get("model"))
        await web.reply_json(200, self._models.text(model).info)

    async def tokenize(self, web: Web) -> None:
        """Return a text's tokens in vLLM's form, which lm-eval uses."""
        raw = await web.json_body(MAX_PAGE_BODY_BYTES)
        body = await self._turns.run(TOKENIZE.steps(raw))
        model = self._models.meant(body.model)
        limits, text = self._models.limits(model), self._models.text(model)
        try:
            ids = tokens.unpack(await self._turns.run(self._ids(body, model)))
        except UnicodeError as error:
            param = "messages" if body.prompt is None else "prompt"
            raise RequestError(f"{param} is not valid Unicode.", param=param, code="invalid_value") from error
        most = None if limits is None else limits.max_model_len
        names = await self._turns.run(text.tokeniser.names(ids)) if body.return_token_strs else None
        await web.reply_json(200, {"count": len(ids), "max_model_len": most, "tokens": ids, "token_strs": names})

    def _ids(self, body: TokenizeBody, model: str) -> Steps[bytes]:
        if (body.prompt is None) == (body.messages is None):
            raise RequestError("Give prompt or messages, one of them.", param="prompt", code="missing_parameter")
        if body.prompt is not None:
            for name in CHAT_FIELDS:
                if getattr(body, name) is not None:
                    raise RequestError(f"{name} needs messages.", param=name, code="invalid_value")
            return (
                yield from self._models.text(model).tokeniser.steps(body.prompt, body.add_special_tokens is not False)
            )
        fields = {name: getattr(body, name) for name in CHAT_FIELDS if name in OpenAIBody.__struct_fields__}
        chat = OpenAIBody(model=model, **fields)
        refuse_unserved_chat(chat, self._models.text(model))
        text, tokeniser = yield from prompt_text(chat, self._models.text(model), self._max_messages)
        return (yield from tokeniser.steps(text, bool(body.add_special_tokens)))

    async def detokenize(self, web: Web) -> None:
        raw = await web.json_body(MAX_PAGE_BODY_BYTES)
        body = await self._turns.run(DETOKENIZE.steps(raw))
        model = self._models.meant(body.model)
        limits = self._models.limits(model)
        detokenisers = self._models.text(model).detokenisers
        size = len(detokenisers.table.bytes) if limits is None else limits.vocab_size
        if body.tokens and not (min(body.tokens) >= 0 and max(body.tokens) < size):
            why = f"tokens has an entry that is no token id of this model: ids go from 0 to {size - 1}."
            raise RequestError(why, param="tokens", code="invalid_value")
        await web.reply_json(
            200, {"prompt": await self._turns.run(detokenisers.steps(body.tokens, skip_special=False))}
        )
