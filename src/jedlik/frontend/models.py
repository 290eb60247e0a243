"""The models that a server has: their texts, what their workers can do, and requests that wait for a first worker.

A request may go to any worker of its model, so it may ask for what all of them can do. Requests that come before a
model's first worker wait here, since nobody can say yet how to read them; later ones wait in the gateway's node.
Promised: nobody waits longer than `gateway.no_worker_wait_s`, after the client has left, or once the gateway drains;
and no more requests wait than may be in flight.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import msgspec

from jedlik import __version__
from jedlik.core.config import GatewayConfig
from jedlik.core.errors import RequestError
from jedlik.core.protocol import Card
from jedlik.core.requests import OPENAI, Defaults
from jedlik.frontend.http import Disconnected, Receive, Web
from jedlik.frontend.port import GatewayPort
from jedlik.frontend.text.model import TextModel, load_text

LOOK_EVERY_S = 0.05
"""Cards are looked at this often while requests wait, once for all of them."""


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model as whoever starts the frontend describes it."""

    directory: Path
    """A Hugging Face directory. Only its text side is read: tokenizer.json, its config and the chat template."""
    defaults: Defaults = OPENAI
    """Sampling parameters take these values where a request says nothing."""


class ModelLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits that all workers of one model have together: the least of their cards."""

    max_model_len: int
    vocab_size: int
    sampling: frozenset[str]
    max_logprobs: int
    choices: int
    defaults: Defaults = OPENAI
    """Sampling parameters take these values where a request says nothing."""
    fingerprint: str = ""

    def needs(self, name: str, param: str) -> None:
        """Raise RequestError naming `param` unless all workers honour the field `name`."""
        if name not in self.sampling:
            raise RequestError(
                f"The model's workers do not support {param}.", param=param, code="unsupported_parameter"
            )


def merge(cards: Sequence[Card], defaults: Defaults = OPENAI) -> ModelLimits:
    """Return the limits of at least one card. What a worker can't honour is no default."""
    capabilities = [card.capabilities for card in cards]
    sampling = frozenset.intersection(*(each.sampling for each in capabilities))
    return ModelLimits(
        max_model_len=min(card.max_model_len for card in cards),
        vocab_size=min(card.vocab_size for card in cards),
        sampling=sampling,
        max_logprobs=min(each.max_logprobs for each in capabilities),
        choices=min(each.choices for each in capabilities),
        defaults=defaults.within(sampling),
        fingerprint=_fingerprint(cards),
    )


def _fingerprint(cards: Sequence[Card]) -> str:
    """The same as long as nothing changes that may change an answer: revision, engines, layout, our own version."""
    kinds = {(card.revision, card.engine, card.layout, card.capabilities.deterministic) for card in cards}
    text = "\n".join([__version__, *sorted(map(repr, kinds))])
    return f"fp_{blake2b(text.encode(), digest_size=5).hexdigest()}"


def load_texts(
    served: Mapping[str, ServedModel], wall: Callable[[], float], cache_bytes: int, special_in_text: bool
) -> dict[str, TextModel]:
    """Read the text side of each model, a quarter of a second each. They share `cache_bytes`. Raises ConfigError."""
    each_bytes = cache_bytes // max(1, len(served))
    return {name: load_text(one.directory, wall, each_bytes, special_in_text) for name, one in served.items()}


class Models:
    """Texts and limits by the name of a model.

    Limits are worked out anew only when the set of workers changes. While no worker is there the last known limits
    hold, so that the node may let a request wait for one.
    """

    def __init__(self, texts: Mapping[str, TextModel], served: Mapping[str, ServedModel], port: GatewayPort) -> None:
        self._texts = texts
        self._served = served
        self._port = port
        self._workers: tuple[str, ...] | None = None
        self._limits: dict[str, ModelLimits] = {}
        self._ready: frozenset[str] = frozenset()

    def text(self, model: str) -> TextModel:
        """Return the text side of a known model."""
        return self._texts[model]

    def ready(self) -> list[str]:
        """Return the names of models that have a worker now, sorted."""
        self._update()
        return sorted(self._ready)

    def limits(self, model: str) -> ModelLimits | None:
        """Return a model's limits; None where no worker has shown them yet. Raises RequestError for an unknown model.

        Every model that is served is known, even while no worker is there.
        """
        self._update()
        if model not in self._texts:
            raise RequestError(
                f"The model {model[:200]!r} does not exist here.", param="model", code="model_not_found", status=404
            )
        return self._limits.get(model)

    def meant(self, model: str | None) -> str:
        """Return the model that a request names, by default the only one. Raises RequestError."""
        if model is None and len(self._texts) == 1:
            return next(iter(self._texts))
        if model is None:
            raise RequestError(
                f"Say which model: this server has {', '.join(sorted(self._texts))}.",
                param="model", code="missing_parameter",
            )  # fmt: skip
        self.limits(model)
        return model

    def caches(self) -> dict[str, tuple[int, int]]:
        """Return the items and bytes that are cached of texts, by kind, over all models."""
        total: dict[str, tuple[int, int]] = {}
        for text in self._texts.values():
            for name, (items, size) in text.caches().items():
                before = total.get(name, (0, 0))
                total[name] = before[0] + items, before[1] + size
        return total

    def _update(self) -> None:
        cards = self._port.cards()
        workers = tuple([card.worker for card in cards])
        if workers == self._workers:
            return
        self._workers = workers
        self._ready = frozenset(card.model for card in cards if card.model in self._texts)
        for model in self._ready:
            own = [card for card in cards if card.model == model]
            self._limits[model] = merge(own, self._served[model].defaults)


class FirstWorkers:
    """Requests wait here for their model's first worker, as the module says. Runs on one event loop."""

    def __init__(self, port: GatewayPort, models: Models, config: GatewayConfig) -> None:
        self._port, self._models, self._config = port, models, config
        self._waiting: dict[asyncio.Future[None], str] = {}
        """The model that each waiting request is for."""

    def __len__(self) -> int:
        return len(self._waiting)

    async def limits(self, web: Web, model: str) -> ModelLimits | None:
        """Return what the model's workers can do; None if no worker came in time. Raises RequestError, Disconnected."""
        limits = self._models.limits(model)
        if limits is None and self._config.no_worker_wait_s > 0 and len(self) < self._config.max_in_flight:
            await self._wait(web.receive, model)
            limits = self._models.limits(model)
        return limits

    async def _wait(self, receive: Receive, model: str) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        if not self._waiting:
            loop.call_later(LOOK_EVERY_S, self._tick)
        self._waiting[ready] = model
        leaving = asyncio.create_task(disconnected(receive), name="watch for disconnect")
        try:
            wait_s = self._config.no_worker_wait_s
            await asyncio.wait((ready, leaving), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                raise Disconnected
        finally:
            del self._waiting[ready]
            leaving.cancel()
            with suppress(asyncio.CancelledError):
                await leaving

    def _tick(self) -> None:
        draining = bool(self._port.health().get("draining"))
        for ready, model in self._waiting.items():
            if not ready.done() and (draining or self._models.limits(model) is not None):
                ready.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._tick)


async def disconnected(receive: Receive) -> None:
    """Wait until the client has left. The body is read, so only the end of the connection (or noise) can come."""
    while (await receive())["type"] != "http.disconnect":
        pass
