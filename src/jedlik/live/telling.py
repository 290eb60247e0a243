"""What people are told of the fleet while it serves: decisions with their reasons, and workers that end or start again.

One line per thing worth knowing; `GET /plan` has the rest.
"""

from jedlik.core.facts import Fact, MemberMoved, Planned
from jedlik.core.plans import Reason
from jedlik.live.child import Say

MOST_REASONS = 6


class Telling:
    """Facts become lines. Says of a decision what is done, and nothing where nothing is."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._how: dict[str, str] = {}
        """How workers' processes ended, until it is known what follows."""
        self._advised = ""

    def ended(self, name: str, words: str) -> None:
        """A process of this worker has ended; the facts that follow say what becomes of the worker."""
        self._how[name] = words

    def fact(self, fact: Fact) -> None:
        if isinstance(fact, MemberMoved):
            self._moved(fact)
        elif isinstance(fact, Planned):
            self._planned(fact)

    def _moved(self, fact: MemberMoved) -> None:
        how = self._how.pop(fact.name, "has ended") if fact.state in ("waiting", "ended", "held") else ""
        if fact.state == "waiting":
            _, _, when = fact.why.partition("; ")
            loop = "; its output says why" if "crash loop" in when else ""
            self._say(f"{fact.name} {how}; starting it again ({when or fact.why}){loop}")
        elif how:
            self._say(f"{fact.name} {how} ({fact.why})")

    def _planned(self, fact: Planned) -> None:
        done = "; ".join(fact.done)
        if not done or (fact.advice and done == self._advised):
            return
        self._advised = done if fact.advice else ""
        verb = "would " if fact.advice else ""
        reasons = ", ".join(shown(reason) for reason in fact.reasons[:MOST_REASONS])
        self._say(f"{fact.planner}: {verb}{done}. {fact.why}" + (f" ({reasons})" if reasons else ""))


def shown(reason: Reason) -> str:
    """`rate 3.2 1/s`."""
    value = "unknown" if reason.value is None else f"{reason.value:.4g}"
    return f"{reason.name} {value}{' ' + reason.unit if reason.unit else ''}"
