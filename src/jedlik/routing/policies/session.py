"""session: requests of one conversation go to one worker, unless it has far more to do than the others.

The worker is the one with the highest hash of (session, worker name): rendezvous hashing, so that a worker that comes
or goes moves only its own sessions. It is left for the least loaded while it has more than `FREE_REQUESTS` requests and
one more would exceed `BOUND` times the mean: the bound of consistent hashing with bounded loads (Mirrokni et al.).
Requests without a session go to the least loaded.
"""

from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

from jedlik.routing.policies.least_loaded import LeastLoaded
from jedlik.routing.policies.signals import requests
from jedlik.routing.policy import Ask, Offer

BOUND = 1.25
FREE_REQUESTS = 4
"""Few requests are no overload, however idle the others are."""


class Session(LeastLoaded):
    name = "session"

    def filter(self, offers: Sequence[Offer], ask: Ask) -> Sequence[Offer]:
        """The session's worker, or the least loaded."""
        if ask.session:
            home = max(offers, key=lambda offer: (_weight(ask.session, offer.view.card.name), offer.worker))
            if not overloaded(home, offers):
                return [home]
        return super().filter(offers, ask)


def overloaded(home: Offer, offers: Sequence[Offer]) -> bool:
    """One more request would be too much there."""
    there = requests(home) + 1
    mean = (sum(map(requests, offers)) + 1) / len(offers)
    return there > FREE_REQUESTS and there > BOUND * mean


def _weight(session: str, worker: str) -> int:
    return xxh3_64_intdigest(f"{session}/{worker}".encode())
