"""Counts of how often the policies of a run were asked for a worker, and how often and why they failed."""

import msgspec

from jedlik.core.facts import Routed

MOST_CAUSES = 20
OTHERS = "other causes"


class Asked(msgspec.Struct):
    """The choices of one policy."""

    choices: int = 0
    """The number of choices that the policy was asked for. Some may be to hold a request back or to refuse it."""
    failures: int = 0
    causes: dict[str, int] = {}
    """The number of failures by cause."""

    def note(self, failure: str) -> None:
        """Count that the policy was asked once; `failure` is empty where it answered."""
        self.choices += 1
        if failure:
            self.failures += 1
            known = failure in self.causes or len(self.causes) < MOST_CAUSES
            cause = failure if known else OTHERS
            self.causes[cause] = self.causes.get(cause, 0) + 1

    @property
    def usual_cause(self) -> str:
        return max(self.causes, key=lambda cause: self.causes[cause], default="")


class Choices(msgspec.Struct):
    """The choices of all gateways."""

    serving: Asked = msgspec.field(default_factory=Asked)
    shadow: Asked = msgspec.field(default_factory=Asked)

    def note(self, fact: Routed) -> None:
        """A gateway has chosen. Where no worker could be offered nobody was asked."""
        if fact.chosen is not None or fact.deferred or fact.failure:
            self.serving.note(fact.failure)
        if fact.shadow is not None:
            self.shadow.note(fact.shadow.failure)
