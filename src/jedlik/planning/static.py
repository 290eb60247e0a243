"""The planner that wishes the same for ever: the counts at start. For mode off, and to compare others with."""

from jedlik.core.plans import Counts, Wish
from jedlik.planning.policy import Situation, Terms


class Static:
    """Asked or not."""

    name = "static"

    def __init__(self, initial: Counts, terms: Terms) -> None:
        self.tick_s = terms.tick_s
        self._wish = Wish(dict(initial), "the counts at start")

    def decide(self, situation: Situation) -> Wish:
        return self._wish
