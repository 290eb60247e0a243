"""One member of the fleet: a place, who works there now, and what is remembered of earlier starts.

A start's number is its incarnation: what is said of an earlier one is ignored. A gang (several processes) serves when
all are up, and ends as a whole. Nothing is done here: whoever changes a member also does what that means.
"""

from collections import deque
from math import inf

from jedlik.core.config import Role
from jedlik.core.errors import Bug
from jedlik.core.ids import WorkerId
from jedlik.core.plans import Cause, Place
from jedlik.fleet.backoff import LOOP_AFTER, Backoff, Restart
from jedlik.fleet.lifecycle import LIVE, Event, State, after

STORY = 8
"""Changes remembered, for bugs."""
NO_FAULT: frozenset[Cause] = frozenset({"killed", "asked"})
"""Ends that, once it served, say nothing against a member."""


class Member:
    """State changes through the verbs below only; all times are the node's."""

    __slots__ = (
        "_backoff",
        "again",
        "cause",
        "due",
        "ended",
        "hopeless",
        "launched_at",
        "no_start",
        "number",
        "ordered_role",
        "place",
        "quick_ends",
        "ready_at",
        "refused",
        "role",
        "role_at",
        "since",
        "start",
        "state",
        "story",
        "turning",
        "up",
        "why",
        "worker",
    )

    def __init__(self, place: Place, number: int, role: Role, now: float) -> None:
        self.place = place
        self.number = number
        """Its rank in the order of places."""
        self.state: State = "free"
        self.start = 0
        self.role: Role = role
        """What it counts as."""
        self.ordered_role: Role = role
        """What its process was last told to be."""
        self.role_at = now
        self.worker: WorkerId | None = None
        self.since = now
        self.why = ""
        self.launched_at: float | None = None
        """None: found running."""
        self.ready_at: float | None = None
        self.due = now
        """Starting: then it is late. Draining: then it is ended. Waiting or free: not started before."""
        self.again = False
        """While it ends: it is to be started again."""
        self.cause: Cause | None = None
        """Why it ends, where it was not told to."""
        self.no_start = False
        self.hopeless = False
        self.quick_ends = 0
        self.turning = False
        """Its process has been told another role, and has not been seen in it."""
        self.refused = 0
        """Changes of its role in a row that came to nothing, in this start."""
        self.up: set[int] = set()
        self.ended: set[int] = set()
        self._backoff = Backoff()
        self.story: deque[str] = deque(maxlen=STORY)

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def live(self) -> bool:
        """Return whether the member has processes."""
        return self.state in LIVE

    @property
    def committed(self) -> bool:
        """Return whether the member works in its role, or is on the way to."""
        return self.state in ("starting", "serving", "waiting") or (self.state == "ending" and self.again)

    @property
    def looping(self) -> bool:
        """Return whether the member keeps ending quickly."""
        return self.quick_ends >= LOOP_AFTER

    @property
    def shown(self) -> str:
        """Return the member's state, for people."""
        return "ended" if self.state == "free" and self.start else self.state

    def launch(self, role: Role, now: float, late_s: float) -> None:
        """Start it: the next incarnation."""
        self._move("launch", now, "again" if self.state == "waiting" else "wanted")
        self._begin(self.start + 1, role, now, late_s)
        self.launched_at = now

    def adopt(self, start: int, role: Role, now: float, late_s: float) -> None:
        """Take over a worker that was found running."""
        self._move("adopt", now, "found running")
        self._begin(start, role, now, late_s)
        self.launched_at = None

    def ready(self, worker: WorkerId, rank: int, now: float) -> bool:
        """A process is up. Returns whether the member serves from now on."""
        if self.state != "starting":
            return False  # it was told to end meanwhile
        self.up.add(rank)
        if rank == 0:
            self.worker = worker
        if len(self.up) < self.place.processes:
            return False
        self._move("ready", now, "ready")
        self.ready_at, self.due = now, inf
        return True

    def retire(self, now: float, budget_s: float, why: str) -> None:
        """Have the member finish what it has and leave."""
        self._move("retire", now, why)
        self.due = now + budget_s

    def end(self, now: float, why: str, cause: Cause | None = None, again: bool = False) -> None:
        """Have the member leave now; then it is started again, or not."""
        self._move("end", now, why)
        self.due, self.again, self.cause = inf, again, cause

    def gone(self, now: float, why: str) -> None:
        """All its processes have ended, and nobody wants it back here; or it no longer waits."""
        not_before = self.due if self.state == "waiting" else now
        self._move("gone", now, why)
        self._over()
        self.due = not_before
        if self.no_start:
            self._move("hold", now, "held")

    def wait(self, now: float, cause: Cause) -> Restart:
        """All its processes have ended: it is started again, when it may."""
        served_s = 0.0 if self.ready_at is None else now - self.ready_at
        restart = self._backoff.ended(served_s, served_s, cause in NO_FAULT)
        again = "crash loop, " if restart.crash_loop else ""
        self._move("again", now, f"{cause}; {again}next start in {restart.delay_s:g} s")
        self._over()
        self.quick_ends = restart.quick_ends
        self.due = now + restart.delay_s
        return restart

    def hold(self, now: float) -> None:
        """Nobody is to be started here. What is alive must be told to leave first."""
        self.no_start, self.again = True, False
        if self.state == "waiting":
            self.gone(now, "held")
        elif self.state == "free":
            self._move("hold", now, "held")

    def release(self, now: float) -> None:
        """Somebody may be started here again."""
        self.no_start = self.hopeless = False
        if self.state == "held":
            self._move("release", now, "no longer held")
            self.due = now

    def turn(self, role: Role, now: float) -> None:
        """Count the member as of this role from now on."""
        self.story.append(f"{now:g} {self.role} to {role}")
        self.role, self.role_at = role, now

    def check(self) -> None:
        """Raises Bug where its parts contradict each other."""
        fine = (
            (self.state != "serving" or len(self.up) == self.place.processes)
            and (self.live or not (self.up or self.ended or self.again))
            and len(self.ended) < self.place.processes + (not self.live)
            and (self.state not in ("draining", "waiting", "starting") or self.due < inf)
            and (not self.no_start or self.state not in ("free", "waiting"))
            and (self.live or self.worker is None)
        )
        if not fine:
            raise Bug(f"member {self.name} contradicts itself ({self.state}): {'; '.join(self.story)}")

    def _begin(self, start: int, role: Role, now: float, late_s: float) -> None:
        self._over()
        self.start, self.role, self.ordered_role, self.role_at = start, role, role, now
        self.due = now + late_s
        self.refused, self.turning = 0, False

    def _over(self) -> None:
        self.up.clear()
        self.ended.clear()
        self.worker = self.ready_at = self.cause = None
        self.again = False

    def _move(self, event: Event, now: float, why: str) -> None:
        state = after(self.state, event, f"{self.name}: {'; '.join(self.story)}")
        self.story.append(f"{now:g} {event}: {state} ({why})")
        self.state, self.since, self.why = state, now, why
