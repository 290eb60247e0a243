"""Planners by name."""

from collections.abc import Callable

from jedlik.core.config import PlannerName
from jedlik.core.plans import Counts
from jedlik.planning.baselines.dynamo import Dynamo
from jedlik.planning.baselines.hpa import Hpa
from jedlik.planning.baselines.kpa import Kpa
from jedlik.planning.jedlik import JedlikPlanner
from jedlik.planning.policy import Planner, Terms
from jedlik.planning.static import Static

MAKERS: dict[PlannerName, Callable[[Counts, Terms], Planner]] = {
    "jedlik": lambda initial, terms: JedlikPlanner(terms),
    "static": lambda initial, terms: Static(initial, terms),
    "hpa": Hpa,
    "kpa": Kpa,
    "dynamo": Dynamo,
}


def make(name: PlannerName, initial: Counts, terms: Terms) -> Planner:
    """A fresh one, for one fleet."""
    return MAKERS[name](initial, terms)
