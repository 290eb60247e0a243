"""jedlik's own planners by name. Planners of users are loaded by `serve/plugins.py`."""

from collections.abc import Mapping
from difflib import get_close_matches

from jedlik.core.errors import ConfigError
from jedlik.core.plans import Counts, Wish
from jedlik.planning.jedlik import JedlikPlanner
from jedlik.planning.policy import PlannerMaker, Situation, Terms


class Static:
    """A planner that always wants the counts at start: for mode off, and to compare others with."""

    name = "static"

    def __init__(self, initial: Counts, terms: Terms) -> None:
        self.tick_s = terms.tick_s
        self._wish = Wish(dict(initial), "the counts at start")

    def decide(self, situation: Situation) -> Wish:
        return self._wish


OWN: Mapping[str, PlannerMaker] = {"jedlik": lambda initial, terms: JedlikPlanner(terms), "static": Static}


def maker_of(name: str) -> PlannerMaker:
    """Return the maker of one of jedlik's own planners. Raises ConfigError with the nearest name."""
    if name not in OWN:
        near = get_close_matches(name, OWN, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(OWN)}"
        raise ConfigError(f"no planner is called {name!r}: {hint} (a file of your own is named as FILE.py[:NAME])")
    return OWN[name]
