"""Planners by name."""

from collections.abc import Callable

from jedlik.core.config import PlannerName
from jedlik.core.errors import Bug
from jedlik.core.plans import Counts
from jedlik.planning.baselines.dynamo import Dynamo
from jedlik.planning.baselines.hpa import Hpa
from jedlik.planning.baselines.kpa import Kpa
from jedlik.planning.policy import Planner, Terms
from jedlik.planning.static import Static

MAKERS: dict[PlannerName, Callable[[Counts, Terms], Planner]] = {
    "static": lambda initial, terms: Static(initial, terms),
    "hpa": Hpa,
    "kpa": Kpa,
    "dynamo": Dynamo,
}


def make(name: PlannerName, initial: Counts, terms: Terms) -> Planner:
    """A fresh one, for one fleet."""
    maker = MAKERS.get(name)
    if maker is None:
        raise Bug(f"planner {name} is not there yet")
    return maker(initial, terms)
