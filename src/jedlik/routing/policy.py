"""The contract of routing policies: filter, score, pick. What every policy gets, and what most of them share.

A policy sees workers that *can* take the request (healthy, not draining, context long enough: `choose.excluded` has
said so) and says which is best. One instance per gateway: it may keep state, changed in `pick` only, and draws nothing
but by the turn of the ask, so the same events give the same choices. Views are for reading.
"""

from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import Literal, Protocol

import msgspec
from xxhash import xxh3_64_intdigest

from jedlik.core.facts import Candidate, Elsewhere
from jedlik.core.ids import RequestId, WorkerId
from jedlik.core.protocol import StepCosts
from jedlik.routing.cost import Tiers
from jedlik.routing.lengths import OutputLengths
from jedlik.routing.view import WorkerView

TIE = 0.01
"""Costs within this share of the lowest are equal (the model knows no better) where as much is cached."""
MASK = (1 << 64) - 1
_worker = attrgetter("worker")


class Ask(msgspec.Struct, frozen=True):
    """One attempt that needs a worker."""

    request_id: RequestId
    choice: int
    model: str
    history_tokens: int
    output_tokens: int
    """Expected to follow."""
    avoid: Collection[WorkerId] = ()
    """Workers at which it failed."""
    session: str = ""
    """Requests of one conversation have the same; empty: unknown."""
    ttft_s: float | None = None
    """What is left of the time to first token that counts as good; None: no such promise."""
    itl_s: float | None = None
    """Mean time between tokens that counts as good."""
    waited_s: float = 0.0
    """At the gateway, for a worker to go to."""
    lengths: OutputLengths = msgspec.field(default_factory=OutputLengths)
    """Of answers seen lately."""
    shed: bool = False
    """It may be refused."""
    pressed: bool = False
    """Lately requests had to be refused because of load."""
    reuse: float = 0.0
    """How often a token that is computed is found again, on average; 0 where this prefix is wanted at more workers."""
    taken: bool = False
    """It was taken in before (another attempt, another choice of it): it can neither wait nor be refused."""
    alone: bool = False
    """Its prompt has to be computed where it is decoded."""
    turn: int = 0
    """Counts a gateway's asks; no two gateways begin with the same."""


class Wait(msgspec.Struct, frozen=True):
    """A filter's answer: nowhere now. Ask again when a worker has changed, or at the latest after so long."""

    seconds: float
    why: str
    candidates: tuple[Candidate, ...] = ()
    """What it was decided on, where the policy tells: for `explain`."""


class Refuse(msgspec.Struct, frozen=True):
    """A filter's answer: what was promised can't be kept because of load."""

    retry_after_s: float
    why: str
    pressed: bool = False
    """It could have been kept on an idle worker: there is more load than the fleet can bear."""
    kind: Literal["late", "long", "harm", "policy"] = "policy"
    """For counting."""
    candidates: tuple[Candidate, ...] = ()


class Pair(msgspec.Struct, frozen=True):
    """Another worker that prefills a history for one that decodes it, or sends it what it has cached."""

    source: WorkerView
    compute: bool
    """False: it only sends what it has cached."""
    supplied_tokens: int
    """Of the history, that the decoding worker need not compute then."""
    computed_tokens: int = 0
    """By the source."""
    own_s: float = 0.0
    """What the source's prefill takes, by its step model alone; 0 where that is unknown."""
    expected_s: float = 0.0
    """Until all is there, queue included; 0 where that is unknown."""

    @property
    def worker(self) -> WorkerId:
        return self.source.card.worker


class Offer(msgspec.Struct, frozen=True):
    """One worker that could take the attempt."""

    view: WorkerView
    cached_tokens: int
    """Of the history, on its device."""
    shared_tokens: int = 0
    """Of what counts as cached: tokens that other choices of the same request are about to compute there."""
    tiers: Tiers = ()
    pair: Pair | None = None
    """Who else takes part, where that is best for this worker; None: it does all itself."""
    terms: dict[str, float] | None = None
    """Its cost in seconds with the best partner or without one, where that was compared (`routing/pairs`)."""
    instead: Elsewhere | None = None
    """The best of the places that were not preferred."""

    @property
    def worker(self) -> WorkerId:
        return self.view.card.worker


class Policy(Protocol):
    """How to choose among workers. `offers` is never empty."""

    name: str
    everyone: bool
    """True: all workers are offered. False: the best holders of the prefix and the least loaded, at any size."""

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer] | Wait | Refuse:
        """Those worth scoring, at least one; or that there is none now, or that the request is to be refused."""

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        """The terms of each one's cost, by name; their sum is compared."""

    def pick(self, scored: Sequence[Candidate], ask: Ask) -> Candidate:
        """One of them: for most policies `lowest`."""

    def unit(self, offers: Sequence[Offer]) -> str:
        """Of the terms of these: "s", "tokens", ..."""


class Scored:
    """What a policy is beyond its name and its score, where it needs nothing special: for subclassing."""

    everyone = False

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer] | Wait | Refuse:
        """All of them."""
        return offers

    def pick(self, scored: Sequence[Candidate], ask: Ask) -> Candidate:
        """The lowest cost."""
        return lowest(scored, ask)

    def unit(self, offers: Sequence[Offer]) -> str:
        """Seconds."""
        return "s"


class Exact(Scored):
    """For published rules: everybody is offered, and only costs that are equal to the last bit are equal."""

    everyone = True

    def pick(self, scored: Sequence[Candidate], ask: Ask) -> Candidate:
        """The lowest cost, exactly."""
        return exact(scored, ask)


class Fewest(Exact):
    """Where the filter has done the choosing: of those it leaves, who has the fewest requests."""

    def score(self, offers: Sequence[Offer], ask: Ask) -> list[dict[str, float]]:
        """Running, waiting and booked at each worker."""
        return [{"requests": float(offer.view.sequences)} for offer in offers]

    def unit(self, offers: Sequence[Offer]) -> str:
        return "requests"


def step_costs(offers: Sequence[Offer]) -> list[StepCosts] | None:
    """Each worker's; None where one of them has told none, and so nothing can be compared in seconds."""
    known: list[StepCosts] = []
    for offer in offers:
        costs = offer.view.costs
        if costs is None:
            return None
        known.append(costs)
    return known


def lowest(scored: Sequence[Candidate], ask: Ask) -> Candidate:
    """The lowest cost; among nearly equal ones with as much cached the turn decides: nobody is herded."""
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
    """The lowest cost; the turn decides among those that are equal to the last bit."""
    if len(scored) == 1:
        return scored[0]
    least = min([c.cost_s for c in scored])
    return drawn([c for c in scored if c.cost_s == least], ask)


def drawn(equals: list[Candidate], ask: Ask) -> Candidate:
    """One of several that are as good as each other, in whatever order they come."""
    if len(equals) == 1:
        return equals[0]
    equals.sort(key=_worker)
    return equals[draw(ask, "tie", len(equals))]


def draw(ask: Ask, purpose: str, count: int) -> int:
    """One of so many, from 0 on: a function of the ask's turn and the purpose.

    Turns in a row are spread as evenly as can be (a Weyl sequence: multiples of a number, modulo 2^64), so that hardly
    anybody gets more than its share of a hundred requests, as by dice somebody would.
    """
    return ((ask.turn * (xxh3_64_intdigest(purpose.encode()) | 1)) & MASK) * count >> 64
