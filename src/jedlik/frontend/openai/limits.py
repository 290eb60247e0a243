"""What the workers of one model can do, together: a request may go to any of them, so it may ask what all can."""

from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from jedlik import __version__
from jedlik.core.errors import RequestError
from jedlik.core.protocol import Card
from jedlik.core.requests import OPENAI, Defaults


class ModelLimits(msgspec.Struct, frozen=True):
    """The least of the cards of one model."""

    max_model_len: int
    vocab_size: int
    sampling: frozenset[str]
    max_logprobs: int
    choices: int
    defaults: Defaults = OPENAI
    """Sampling parameters take these values where a request says nothing."""
    fingerprint: str = ""

    def needs(self, name: str, param: str) -> None:
        """Raises RequestError naming `param` unless all workers honour the field `name`."""
        if name not in self.sampling:
            raise RequestError(
                f"The model's workers do not support {param}.", param=param, code="unsupported_parameter"
            )


def merge(cards: Sequence[Card], defaults: Defaults = OPENAI) -> ModelLimits:
    """Limits of at least one card. What a worker can't honour is no default: else no request could be served."""
    able = [card.capabilities for card in cards]
    sampling = frozenset.intersection(*(a.sampling for a in able))
    return ModelLimits(
        min(card.max_model_len for card in cards),
        min(card.vocab_size for card in cards),
        sampling,
        min(a.max_logprobs for a in able),
        min(a.choices for a in able),
        defaults.within(sampling),
        _fingerprint(cards),
    )


def _fingerprint(cards: Sequence[Card]) -> str:
    """The same as long as nothing changes that may change an answer: revision, engines, layout, our own version."""
    kinds = {(card.revision, card.engine, card.layout, card.capabilities.deterministic) for card in cards}
    told = "\n".join([__version__, *sorted(map(repr, kinds))])
    return f"fp_{blake2b(told.encode(), digest_size=5).hexdigest()}"


class LimitsBook:
    """Limits by model, worked out anew only when the set of workers changes.

    While no worker is there the last known limits hold, so that the node may let a request wait for one.
    """

    def __init__(self, served: Sequence[str], defaults: Defaults = OPENAI) -> None:
        self._served = frozenset(served)
        self._defaults = defaults
        self._seen: tuple[str, ...] | None = None
        self._limits: dict[str, ModelLimits] = {}
        self.ready: frozenset[str] = frozenset()
        """Models with a worker now."""

    def update(self, cards: Sequence[Card]) -> None:
        workers = tuple([card.worker for card in cards])
        if workers == self._seen:
            return
        self._seen = workers
        self.ready = frozenset(card.model for card in cards)
        for model in sorted(self.ready):
            self._limits[model] = merge([card for card in cards if card.model == model], self._defaults)

    def known(self, model: str) -> bool:
        return model in self._served or model in self.ready

    def of(self, model: str) -> ModelLimits | None:
        """None: known, but no worker has shown what it can do. Raises RequestError for an unknown model."""
        if not self.known(model):
            raise RequestError(
                f"The model {model[:200]!r} does not exist here.", param="model", code="model_not_found", status=404
            )
        return self._limits.get(model)
