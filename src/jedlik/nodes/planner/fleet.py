"""The members of a planner's fleet, and what is done to them: every change of a member, as effects and facts.

Promised: a member's starts are numbered without gaps from what was adopted or 0; nobody is started where somebody
still is; who is told to leave is ended when its time is over. What is said of earlier starts is ignored.

A member's lease is what gateways hear of it. One that hangs is fenced by its gateway, killed by its supervisor, and
comes back as `MemberEnded`; one that no gateway has heard of for `LEASE_S`, while gateways report and hear of others,
is ended from here and started again.
"""

from collections.abc import Mapping, Sequence
from math import inf

from jedlik.core.config import Role
from jedlik.core.effects import ChangeRole, End, Launch, Note, PlannerEffect, Retire
from jedlik.core.errors import Bug
from jedlik.core.events import Adopted, Hold, MemberEnded, MemberReady
from jedlik.core.facts import MemberMoved
from jedlik.core.ids import WorkerId
from jedlik.core.plans import ROLES, Cause, Place, WorkerSeen
from jedlik.core.sums import float_sum
from jedlik.fleet.desired import gpus_of
from jedlik.fleet.members import Member
from jedlik.fleet.reconcile import FleetStep
from jedlik.fleet.starts import Starts
from jedlik.planning.policy import Pool

FLIP_S = 30.0
"""A role that was changed and is not seen by then was not changed."""
LEASE_S = 60.0


class PlannedFleet:
    """All members, in the order of their places."""

    def __init__(self, places: Sequence[Place], starts: Starts, drain_s: float) -> None:
        self.members = [Member(place, number, place.role or "both", 0.0) for number, place in enumerate(places)]
        self._by_name = {member.name: member for member in self.members}
        if len(self._by_name) != len(places):
            raise Bug("two places have the same name")
        self._starts = starts
        self._drain_s = drain_s
        self._out: list[PlannerEffect] = []
        self._done: list[str] = []

    def take(self) -> tuple[list[PlannerEffect], list[str]]:
        """(effects, what was done in words) since the last call."""
        out, self._out = self._out, []
        done, self._done = self._done, []
        return out, done

    # --- what happens ---

    def adopted(self, event: Adopted, now: float) -> None:
        member = self._member(event.name)
        member.adopt(event.start, event.role, now, self._starts.late_s)
        self._state_changed(member, now)

    def ready(self, event: MemberReady, now: float) -> None:
        member = self._member(event.name)
        if event.start != member.start or not member.ready(event.worker, event.rank, now):
            return
        if member.launched_at is not None:
            self._starts.took(now - member.launched_at)
        self._state_changed(member, now)
        if member.role != member.ordered_role and member.worker is not None:
            self._tell_role(member, now)

    def ended(self, event: MemberEnded, now: float) -> WorkerId | None:
        """Returns the worker that is no more, if one is."""
        member = self._member(event.name)
        if event.start != member.start or not member.live or event.rank in member.ended:
            return None
        member.ended.add(event.rank)
        if len(member.ended) < member.place.processes:
            self._end_gang(member, event.cause, now)
            return None
        worker = member.worker
        self._over(member, member.cause or event.cause, now)
        return worker

    def hold(self, event: Hold, now: float) -> None:
        member = self._member(event.name)
        if event.active == member.no_start:
            if not event.active:
                member.release(now)
            return
        before = member.state
        if event.active:
            if member.state in ("starting", "serving"):
                self._leave(member, now, "held")
            member.hold(now)
        else:
            member.release(now)
        if member.state != before and not member.live:
            self._state_changed(member, now)

    def overdue(self, now: float) -> None:
        """End what took too long."""
        for member in self.members:
            if member.due > now:
                continue
            if member.state == "starting":
                self._end(member, now, "late: it still does not serve", "late", again=True)
                self._done.append(f"end {member.name} (late)")
            elif member.state == "draining":
                self._end(member, now, "the time to finish is over")
                self._done.append(f"end {member.name} (its time to finish is over)")

    def seen(self, workers: dict[WorkerId, WorkerSeen], now: float) -> None:
        """Take the roles that gateways report. They count, unless a change is under way."""
        for member in self.members:
            found = None if member.worker is None else workers.get(member.worker)
            if member.state != "serving" or found is None:
                continue
            if found.role == member.role:
                member.refused = 0 if member.turning else member.refused
                member.turning = False
            elif now >= member.role_at + FLIP_S:
                why = f"gateways say that it is {found.role}, not {member.role}"
                member.refused += member.turning
                member.turning = False
                member.turn(found.role, now)
                member.ordered_role = found.role
                self._out.append(
                    Note(
                        MemberMoved(
                            at=now, name=member.name, start=member.start, state=member.shown, role=member.role, why=why
                        )
                    )
                )

    def lost(self, heard_at: Mapping[WorkerId, float], since: float, now: float) -> None:
        """End those whose lease is over, of those that serve: gateways that have reported without a gap since `since`
        last heard of each at `heard_at`."""
        serving = [member for member in self.members if member.state == "serving" and member.worker is not None]
        last = {member.name: heard_at.get(member.worker, -inf) for member in serving if member.worker is not None}
        if not any(now - at < LEASE_S for at in last.values()):
            return  # it is the gateways that hear nothing
        for member in serving:
            if now - max(member.since, since, last[member.name]) >= LEASE_S:
                self._end(member, now, f"no gateway has heard of it for {LEASE_S:g} s", "late", again=True)
                self._done.append(f"end {member.name} (no gateway hears of it)")

    # --- what is done about the wish ---

    def perform(self, step: FleetStep, why: str, now: float) -> None:
        """One step of a reconciliation."""
        member = step.member
        if step.kind in ("start", "again"):
            self._launch(member, step.role, now)
        elif step.kind == "turn":
            self._turn(member, step.role, now)
        elif step.kind in ("drop", "swap"):
            if member.state == "ending":
                member.again = False
            else:
                member.gone(now, "another place takes over" if step.kind == "swap" else why)
                self._state_changed(member, now)
            self._done.append(f"give up {member.name}")
        else:
            self._leave(member, now, why)

    # --- what is there ---

    def pools(self, now: float) -> dict[Role, Pool]:
        """Return the pools that have members, by role."""
        return {role: self._pool(role, now) for role in ROLES if any(m.role == role for m in self._there())}

    def counts(self) -> dict[Role, int]:
        """Committed members by role."""
        return {role: sum(m.committed and m.role == role for m in self.members) for role in ROLES}

    def used_gpus(self) -> float:
        return float_sum(gpus_of(member.place) for member in self.members if member.live)

    def due_s(self, now: float) -> float:
        """The next deadline after now."""
        times = [member.due for member in self.members if member.state not in ("held", "ending") and member.due > now]
        return min(times, default=inf)

    def check(self) -> None:
        for member in self.members:
            member.check()
        if self._out or self._done:
            raise Bug("effects of the fleet were not taken")

    # --- in detail ---

    def _member(self, name: str) -> Member:
        member = self._by_name.get(name)
        if member is None:
            raise Bug(f"there is no place {name!r} in this fleet")
        return member

    def _there(self) -> list[Member]:
        return [member for member in self.members if member.committed or member.live]

    def _pool(self, role: Role, now: float) -> Pool:
        own = [member for member in self._there() if member.role == role]
        serving = sum(member.state == "serving" for member in own)
        starting = [self._ready_in_s(m, now) for m in own if m.committed and m.state != "serving"]
        draining = sum(not member.committed for member in own)
        return Pool(serving, tuple(sorted(starting)), draining)

    def _ready_in_s(self, member: Member, now: float) -> float:
        expected_s = self._starts.expected_s
        if member.state == "starting":
            return max(0.0, member.since + expected_s - now)
        return expected_s + (max(0.0, member.due - now) if member.state == "waiting" else 0.0)

    def _launch(self, member: Member, role: Role, now: float) -> None:
        again = " again" if member.state == "waiting" else ""
        member.launch(role, now, self._starts.late_s)
        self._out.append(Launch(member.name, member.start, role))
        self._state_changed(member, now)
        self._done.append(f"start {member.name}{again} ({role})")

    def _turn(self, member: Member, role: Role, now: float) -> None:
        self._done.append(f"{member.name}: {member.role} to {role}")
        member.turn(role, now)
        if member.state == "serving" and member.worker is not None:
            self._tell_role(member, now)
        if member.state == "waiting":
            member.ordered_role = role
        why = f"now {role}" if member.state == "serving" else f"to be {role}"
        self._out.append(
            Note(MemberMoved(at=now, name=member.name, start=member.start, state=member.shown, role=role, why=why))
        )

    def _tell_role(self, member: Member, now: float) -> None:
        assert member.worker is not None
        member.ordered_role, member.role_at, member.turning = member.role, now, True
        self._out.append(ChangeRole(member.worker, member.role))

    def _leave(self, member: Member, now: float, why: str) -> None:
        """Finish and go; who does not serve yet has nothing to finish."""
        if member.state == "serving":
            member.retire(now, self._drain_s, why)
            self._out.append(Retire(member.name, member.start, self._drain_s))
            self._state_changed(member, now)
            self._done.append(f"drain {member.name}")
        else:
            self._end(member, now, why)
            self._done.append(f"cancel {member.name}")

    def _end(self, member: Member, now: float, why: str, cause: Cause | None = None, again: bool = False) -> None:
        member.end(now, why, cause, again)
        self._out.append(End(member.name, member.start))
        self._state_changed(member, now)

    def _end_gang(self, member: Member, cause: Cause, now: float) -> None:
        """One of its processes has ended: the others go, too."""
        if member.state == "ending":
            return
        unasked = member.state != "draining"
        self._end(member, now, f"one of its processes has ended ({cause})", cause if unasked else None, again=unasked)

    def _over(self, member: Member, cause: Cause, now: float) -> None:
        """All its processes have ended."""
        again = member.again or member.state in ("starting", "serving")
        if again and cause == "hopeless":
            member.hopeless = True
            member.gone(now, "hopeless: another start can't help")
        elif again and not member.no_start:
            member.wait(now, cause)
        else:
            member.gone(now, "as it was told" if cause == "asked" else cause)
        self._state_changed(member, now)

    def _state_changed(self, member: Member, now: float) -> None:
        fact = MemberMoved(
            at=now, name=member.name, start=member.start, state=member.shown, role=member.role, why=member.why
        )
        self._out.append(Note(fact))
