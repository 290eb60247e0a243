"""What people are told of the fleet while it serves: decisions with their reasons, and workers that end or start again.

One line per thing worth knowing; `GET /plan` has the rest.
"""

from jedlik.core.facts import Fact, MemberMoved, Planned
from jedlik.core.plans import ROLES, Counts, Reason
from jedlik.live.child import Say

MOST_REASONS = 6
AS_ASKED = "static"
"""Who decides where nobody does: the counts at start hold."""
AGAIN = " again "
"""In what is done about a worker that ended by itself, which has a line of its own."""


class Telling:
    """Facts become lines. Says of a decision what is done, and nothing where that is what was asked for at start."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._how: dict[str, str] = {}
        """How workers' processes ended, until it is known what follows."""

    def ended(self, name: str, words: str) -> None:
        """A process of this worker has ended; the facts that follow say what becomes of the worker."""
        self._how[name] = words

    def fact(self, fact: Fact) -> None:
        if isinstance(fact, MemberMoved):
            self._moved(fact)
        elif isinstance(fact, Planned):
            self._planned(fact)

    def _moved(self, fact: MemberMoved) -> None:
        how = self._how.pop(fact.name, None) if fact.state in ("waiting", "ended", "held") else None
        if how is None:
            return
        if fact.state == "waiting":
            _, _, when = fact.why.partition("; ")
            loop = "; its output says why" if "crash loop" in when else ""
            self._say(f"{fact.name} {how}; starting it again ({when or fact.why}){loop}")
        else:
            self._say(f"{fact.name} {how} ({fact.why})")

    def _planned(self, fact: Planned) -> None:
        reasons = ", ".join(shown(reason) for reason in fact.reasons[:MOST_REASONS])
        because = f"{fact.why} ({reasons})" if reasons else fact.why
        done = "; ".join(step for step in fact.done if AGAIN not in step)
        if fact.advice:
            self._say(f"{fact.planner} would have {counted(fact.wanted)} instead of {counted(fact.serving)}. {because}")
        elif done and fact.planner != AS_ASKED:
            self._say(f"{fact.planner}: {done}. {because}")


def counted(counts: Counts) -> str:
    """`2 prefill and 1 decode`; `3 workers`."""
    apart = [f"{counts[role]} {role}" for role in ROLES if role != "both" and counts.get(role)]
    both = counts.get("both", 0)
    if both or not apart:
        apart.append(f"{both} worker{'s' * (both != 1)}")
    return " and ".join(apart)


def shown(reason: Reason) -> str:
    """`rate 3.2 1/s`."""
    value = "unknown" if reason.value is None else f"{reason.value:.4g}"
    return f"{reason.name} {value}{' ' + reason.unit if reason.unit else ''}"
