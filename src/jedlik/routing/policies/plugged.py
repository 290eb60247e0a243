"""A user's own policy, kept to the contract: what it answers is checked, so that nonsense becomes an exception here.

`choose` turns the exception into the default's choice. Not promised: anything about code that never returns.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import ParamSpec, TypeVar

from jedlik.core.facts import Candidate
from jedlik.routing.policy import Ask, Offer, Policy, Refuse, Wait

P = ParamSpec("P")
T = TypeVar("T")
MEMBERS = ("name", "everyone", "filter", "score", "pick", "unit")


class Nonsense(Exception):
    """An answer that can't be followed."""


class Plugged:
    """A policy around an object that has `MEMBERS`."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.name = str(policy.name)
        self.everyone = bool(policy.everyone)

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer] | Wait | Refuse:
        answer = _answer(self._policy.filter, tuple(offers), ask)
        if isinstance(answer, Wait | Refuse):
            return _checked(answer, ask)
        chosen = list(answer)
        if not chosen:
            raise Nonsense("filter returned no worker")
        if not {id(offer) for offer in chosen} <= {id(offer) for offer in offers}:
            raise Nonsense("filter returned something that was not offered")
        return chosen

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        parts = list(_answer(self._policy.score, tuple(offers), ask))
        if len(parts) != len(offers):
            raise Nonsense(f"score gave {len(parts)} costs for {len(offers)} workers")
        return [_terms(terms) for terms in parts]

    def pick(self, scored: Sequence[Candidate], ask: Ask) -> Candidate:
        chosen = _answer(self._policy.pick, tuple(scored), ask)
        if not any(chosen is candidate for candidate in scored):
            raise Nonsense("pick returned something that was not scored")
        return chosen

    def unit(self, offers: Sequence[Offer]) -> str:
        return str(_answer(self._policy.unit, tuple(offers)))


def _answer(asked: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Raises Exception only: what would end the process, as `sys.exit` does, is this policy's failure and no more."""
    try:
        return asked(*args, **kwargs)
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise Nonsense(f"{type(error).__name__}: {error}") from error


def _checked(answer: Wait | Refuse, ask: Ask) -> Wait | Refuse:
    """Return the answer if its time passes and the request can still wait or be refused."""
    seconds = answer.seconds if isinstance(answer, Wait) else answer.retry_after_s
    if ask.taken:
        raise Nonsense("filter would hold back a request that was taken in already")
    if not isfinite(seconds) or (isinstance(answer, Wait) and seconds <= 0):
        raise Nonsense(f"filter said {type(answer).__name__} with {seconds} s")
    return answer


def _terms(terms: object) -> dict[str, float]:
    """Return the terms as plain numbers, which can be stored and sent."""
    if not isinstance(terms, Mapping):
        raise Nonsense(f"score gave {type(terms).__name__} where a dict of terms belongs")
    plain = {str(name): float(value) for name, value in terms.items()}
    if not all(map(isfinite, plain.values())):
        raise Nonsense(f"score gave a cost that is no finite number: {plain}")
    return plain
