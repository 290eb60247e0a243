"""The contract of routing policies: filter, score, pick. What every policy gets, and what most of them share.

A policy sees workers that *can* take the request (healthy, not draining, context long enough: `choose.excluded`) and
says which is best. There is one instance per gateway. It may keep state, changed in `pick` only, and draws nothing but
by the turn of the ask, so the same events give the same choices. Views are for reading.
"""

from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import Literal, Protocol

import msgspec
from xxhash import xxh3_64_intdigest

from jedlik.core.facts import Candidate, Elsewhere
from jedlik.core.ids import RequestId, WorkerId
from jedlik.core.protocol import StepCosts
from jedlik.routing.cost import Dispatch, Tiers
from jedlik.routing.estimates import OutputLengths
from jedlik.routing.view import WorkerView

TIE = 0.01
"""Costs within this share of the lowest are equal (the model knows no better) where as much is cached."""
MASK = (1 << 64) - 1
_worker = attrgetter("worker")


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt that needs a worker."""

    request_id: RequestId
    choice: int
    model: str
    history_tokens: int
    """Prompt plus output delivered so far."""
    output_tokens: int
    """Output tokens that are expected to follow."""
    avoid: Collection[WorkerId] = ()
    """Workers at which the request failed."""
    session: str = ""
    """Requests of one conversation have the same; empty: unknown."""
    ttft_s: float | None = None
    """The rest of the time to first token that counts as good; None: there is no such objective."""
    itl_s: float | None = None
    """Mean time between tokens that counts as good."""
    waited_s: float = 0.0
    """Seconds that the request has been at the gateway."""
    lengths: OutputLengths = msgspec.field(default_factory=OutputLengths)
    """Lengths of recent answers."""
    shed: bool = False
    """Whether the request may be refused."""
    pressed: bool = False
    """Whether requests had to be refused recently because of load."""
    reuse: float = 0.0
    """The times that a computed token is found again, on average; 0 where this prefix is wanted at more workers."""
    taken: bool = False
    """The request was taken in before (another attempt, another choice): it can neither wait nor be refused."""
    alone: bool = False
    """The prompt has to be computed where it is decoded."""
    turn: int = 0
    """Counts a gateway's asks; no two gateways begin with the same."""


class Matches(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of one history that workers have cached; workers that have nothing are absent."""

    cached: dict[WorkerId, int]
    """Tokens that workers have on their devices."""
    shared: dict[WorkerId, int] = msgspec.field(default_factory=dict)
    """The part of `cached` that other choices of the same request are about to compute there."""
    alone: bool = False
    """The history has to be computed where it is decoded, whatever is cached anywhere."""
    wanted: bool = False
    """The prefix is popular: more workers should have it than do."""
    tiers: dict[WorkerId, Tiers] = msgspec.field(default_factory=dict)
    """Tokens in lower tiers, where that is more than on the device. Workers named here are in `cached`, too."""

    def depth(self, worker: WorkerId) -> int:
        """Return the most tokens that any of a worker's tiers has."""
        tiers = self.tiers.get(worker)
        return tiers[-1][1] if tiers else self.cached.get(worker, 0)


class Wait(msgspec.Struct, frozen=True):
    """A filter's answer: nowhere now. The gateway asks again when a worker has changed, or at the latest in time."""

    seconds: float
    why: str
    candidates: tuple[Candidate, ...] = ()
    """The candidates it was decided on, for `explain`, where the policy says so."""


class Refuse(msgspec.Struct, frozen=True, kw_only=True):
    """A filter's answer: the objectives can't be met because of load."""

    retry_after_s: float
    why: str
    pressed: bool = False
    """An idle worker could have met them: there is more load than the fleet can bear."""
    kind: Literal["late", "long", "harm", "policy"] = "policy"
    """The reason, for counting."""
    candidates: tuple[Candidate, ...] = ()


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Another worker that prefills a history for one that decodes it, or sends it what it has cached."""

    source: WorkerView
    kind: str
    """The kind of hand-off (`Card.handoffs`)."""
    compute: bool
    """False: it only sends what it has cached."""
    supplied_tokens: int
    """Tokens of the history that the decoding worker need not compute then."""
    computed_tokens: int = 0
    """Tokens that the source computes."""
    own_s: float = 0.0
    """Seconds of the source's prefill, by its step model alone; 0 where that is unknown."""
    expected_s: float = 0.0
    """Seconds until everything has arrived, queue included; 0 where that is unknown."""

    @property
    def worker(self) -> WorkerId:
        return self.source.card.worker


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """One worker that could take the attempt."""

    view: WorkerView
    cached_tokens: int
    """Tokens of the history that are on its device."""
    shared_tokens: int = 0
    """The part of `cached_tokens` that other choices of the same request are about to compute there."""
    tiers: Tiers = ()
    pair: Pair | None = None
    """The best partner for this worker; None: it is best to do everything itself."""
    terms: dict[str, float] | None = None
    """The cost in seconds with the best partner or without one, where that was compared (`routing/pairs`)."""
    instead: Elsewhere | None = None
    """The best of the placements that were not preferred."""

    @property
    def worker(self) -> WorkerId:
        return self.view.card.worker


def dispatch_of(offer: Offer, ask: Ask) -> Dispatch:
    """Return what an attempt would ask of an offered worker."""
    return Dispatch(
        history_tokens=ask.history_tokens,
        output_tokens=ask.output_tokens,
        cached_tokens=offer.cached_tokens,
        shared_tokens=offer.shared_tokens,
        tiers=offer.tiers,
    )


class Policy(Protocol):
    """A way to choose among workers. `offers` is never empty."""

    name: str
    everyone: bool
    """True: all workers are offered. False: the best holders of the prefix and the least loaded, at any size."""

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer] | Wait | Refuse:
        """Return the offers to score, at least one; or that there is none now, or that the request is refused."""

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        """Return the terms of each offer's cost, by name; their sum is compared."""

    def pick(self, scored: Sequence[Candidate], ask: Ask) -> Candidate:
        """Return one of the candidates: for most policies `lowest`."""

    def unit(self, offers: Sequence[Offer]) -> str:
        """Return the unit of the terms of these offers: "s", "tokens", ..."""


class Scored:
    """A policy's members beyond its name and its score, where it needs nothing special: for subclassing."""

    everyone = False

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer] | Wait | Refuse:
        return offers

    def pick(self, scored: Sequence[Candidate], ask: Ask) -> Candidate:
        return lowest(scored, ask)

    def unit(self, offers: Sequence[Offer]) -> str:
        return "s"


class Exact(Scored):
    """The base of published rules: everybody is offered, and only costs equal to the last bit are equal."""

    everyone = True

    def pick(self, scored: Sequence[Candidate], ask: Ask) -> Candidate:
        return exact(scored, ask)


class Fewest(Exact):
    """The base of rules whose filter does the choosing: of what it returns, the fewest requests decide."""

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        return [{"requests": float(offer.view.sequences)} for offer in offers]

    def unit(self, offers: Sequence[Offer]) -> str:
        return "requests"


def step_costs(offers: Sequence[Offer]) -> list[StepCosts] | None:
    """Return each worker's step costs; None while one that will tell its own has not: nothing compares in seconds."""
    known: list[StepCosts] = []
    for offer in offers:
        costs = offer.view.costs
        if costs is None:
            return None
        known.append(costs)
    return known


def lowest(scored: Sequence[Candidate], ask: Ask) -> Candidate:
    """Return the lowest cost; among nearly equal ones with as much cached the turn decides: nobody is herded."""
    if len(scored) == 1:
        return scored[0]
    least = min([c.cost_s for c in scored])
    limit = least + abs(least) * TIE
    near = [c for c in scored if c.cost_s <= limit]
    if len(near) == 1:
        return near[0]
    cached = min([c for c in near if c.cost_s == least], key=_worker).cached_tokens
    return drawn([c for c in near if c.cached_tokens == cached], ask)


def exact(scored: Sequence[Candidate], ask: Ask) -> Candidate:
    """Return the lowest cost; the turn decides among those that are equal to the last bit."""
    if len(scored) == 1:
        return scored[0]
    least = min([c.cost_s for c in scored])
    return drawn([c for c in scored if c.cost_s == least], ask)


def drawn(equals: list[Candidate], ask: Ask) -> Candidate:
    """Return one of several candidates that are as good as each other, in whatever order they come."""
    if len(equals) == 1:
        return equals[0]
    equals.sort(key=_worker)
    return equals[draw(ask, "tie", len(equals))]


def draw(ask: Ask, purpose: str, count: int) -> int:
    """Return one of so many, from 0 on: a function of the ask's turn and the purpose.

    Turns in a row are spread as evenly as can be (a Weyl sequence: multiples of a number, modulo 2^64), so that hardly
    anybody gets more than its share of a hundred requests, as by dice somebody would.
    """
    return ((ask.turn * (xxh3_64_intdigest(purpose.encode()) | 1)) & MASK) * count >> 64
