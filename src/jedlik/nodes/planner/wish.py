"""The counts that hold, and who set them: the planner's wish or an operator's counts, within floors and ceiling.

A planner is not trusted: one that raises, or answers with what can't be, is kept out, and the last wish stays. While
what is seen is stale a planner's wish may add workers and take none away.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jedlik.core.config import PlannerConfig, Role
from jedlik.core.plans import ROLES, Counts, Place, Wish
from jedlik.fleet.desired import most_workers, within
from jedlik.planning.policy import Limits, Planner, Situation


class Wanted(NamedTuple):
    """Counts within the limits, and where they come from."""

    counts: dict[Role, int]
    by: str
    """The planner's name; "hand"; "static": the counts at start."""
    wish: Wish
    remarks: tuple[str, ...] = ()
    """The changes that were made to the wish, and why."""

    @property
    def why(self) -> str:
        return "; ".join(part for part in (self.wish.why, *self.remarks) if part)


class Bounds:
    """The floors and the ceiling of one fleet."""

    def __init__(self, config: PlannerConfig, places: Sequence[Place], initial: Counts) -> None:
        self.split = is_split(initial)
        self.limits = limits_of(config, places)
        floors: dict[Role, int] = {"prefill": config.min_prefill, "decode": config.min_decode}
        self._floors: dict[Role, int] = floors if self.split else {}
        self._both: dict[Role, int] = {"both": initial.get("both", 0)} if self.split else {}
        """Those that stay as they are, whatever a planner wishes."""

    def counts(self, wish: Counts, by_hand: bool = False, at_least: Counts | None = None) -> dict[Role, int]:
        """The wish within the bounds; where prefill and decode are apart, those that do both stay as they are."""
        stay = {} if by_hand else self._both
        return within({**wish, **stay}, (self._floors, at_least or {}, stay), self.limits.least, self.limits.most)

    def wanted(self, wish: Wish, by: str, committed: Counts | None = None) -> Wanted:
        """`committed`: what must not be taken away now."""
        by_hand = by == "hand"
        counts = self.counts(wish.counts, by_hand)
        remarks = []
        asked = {role: wish.counts.get(role, 0) for role in ROLES}
        if not by_hand and self.split:
            asked["both"] = counts["both"]
        if counts != asked:
            remarks.append(f"kept between floor and ceiling: {in_words(asked)} wished")
        if committed is not None:
            safe = self.counts(wish.counts, by_hand, committed)
            if safe != counts:
                counts = safe
                remarks.append("gateways have not reported: nothing is taken away")
        return Wanted(counts, by, wish, tuple(remarks))


def is_split(initial: Counts) -> bool:
    """Prefill and decode are apart."""
    return initial.get("prefill", 0) + initial.get("decode", 0) > 0


def limits_of(config: PlannerConfig, places: Sequence[Place]) -> Limits:
    """Return the limits, as planners get them."""
    most = most_workers(places, config.budget)
    return Limits(most, min(config.min_workers, most), config.min_prefill, config.min_decode)


def ask(planner: Planner, situation: Situation) -> Wish | str:
    """Return the planner's wish, or why it can't be followed."""
    try:
        wish = planner.decide(situation)
        if not isinstance(wish, Wish):
            raise TypeError(f"decide returned {type(wish).__name__}, not a Wish")
        fault = nonsense(wish.counts, situation.split)
    except (Exception, SystemExit) as error:  # whatever a user's planner does, the fleet goes on
        return f"planner {planner.name} failed ({type(error).__name__}: {error}): its last wish stays"
    return f"planner {planner.name} wishes {fault}: its last wish stays" if fault else wish


def nonsense(counts: Mapping[Role, int], split: bool) -> str:
    """Return what is wrong with counts; the empty string if nothing is."""
    for role, count in counts.items():
        if role not in ROLES:
            return f"workers of a role {role!r}, which there is not"
        if not isinstance(count, int) or count < 0:
            return f"{count!r} workers for {role}"
        if count and not split and role != "both":
            return f"workers for {role} where all do both"
    return ""


def in_words(counts: Counts) -> str:
    """Return counts in words, for people."""
    return ", ".join(f"{counts[role]} {role}" for role in ROLES if counts.get(role)) or "none"
