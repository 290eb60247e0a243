"""The gap between the members that are wanted and those that are there, as steps that close it.

In this order: roles are changed where one has too many and another too few; what is too many leaves, the cheapest
first; who ended by itself is started again when it may; what still lacks is started where it fits best. Never above
the budget: what holds GPUs until it has left is waited for. Where nothing lacks or is too many there are no steps.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from jedlik.core.config import Role
from jedlik.core.plans import ROLES, Counts
from jedlik.core.sums import float_sum
from jedlik.fleet.desired import gpus_of
from jedlik.fleet.loss import Loss
from jedlik.fleet.members import Member
from jedlik.fleet.placement import Board

REFUSALS = 3
"""A member that did not change its role so often in a row is not asked again: another worker is started instead."""
Kind = Literal["turn", "drop", "cancel", "drain", "again", "start", "swap"]
STAGE = {"waiting": 0, "ending": 1, "starting": 2, "serving": 3}
"""The order in which members leave or change: those with whom nothing is lost come first."""


class FleetStep(NamedTuple):
    """turn: take this role; drop: wait no longer for its next start; cancel: end it before it serves; drain; again:
    start it again; start; swap: as drop, because another place takes over."""

    kind: Kind
    member: Member
    role: Role


class Gap(NamedTuple):
    """The counts that are wanted, and the rules for getting there."""

    wanted: Counts
    flips: bool
    budget: float
    """The budget in GPUs."""
    loss: Callable[[Member], Loss]


class _Seat:
    """A member as it will be when the steps so far are done."""

    __slots__ = ("leaving", "live", "member", "role", "seated")

    def __init__(self, member: Member) -> None:
        self.member = member
        self.role = member.role
        self.seated = member.committed
        self.live = member.live
        self.leaving = False


def reconcile(members: Sequence[Member], gap: Gap, now: float) -> list[FleetStep]:
    """The steps for now. `members` in the order of their places."""
    if not _differs(members, gap.wanted):
        return []
    seats = [_Seat(member) for member in members]
    steps: list[FleetStep] = []
    if gap.flips:
        steps += _turns(seats, gap)
    steps += _leavers(seats, gap)
    steps += _swaps(seats, gap, now)
    steps += _restarts(seats, gap, now)
    steps += _starts(seats, gap, now)
    return steps


def _differs(members: Sequence[Member], wanted: Counts) -> bool:
    """Whether there may be something to do: cheap, because mostly there is not."""
    counts: dict[Role, int] = dict.fromkeys(ROLES, 0)
    for member in members:
        if member.state == "waiting":
            return True
        if member.committed:
            counts[member.role] += 1
    return any(counts[role] != wanted.get(role, 0) for role in ROLES)


def _excess(seats: Sequence[_Seat], wanted: Counts) -> dict[Role, int]:
    """By role; negative: so many lack."""
    excess = {role: -wanted.get(role, 0) for role in ROLES}
    for seat in seats:
        if seat.seated:
            excess[seat.role] += 1
    return excess


def _turns(seats: Sequence[_Seat], gap: Gap) -> list[FleetStep]:
    steps = []
    excess = _excess(seats, gap.wanted)
    for role in ROLES:
        while excess[role] < 0:
            able = [seat for seat in reversed(seats) if seat.seated and excess[seat.role] > 0 and _would_turn(seat)]
            if not able:
                break
            seat = min(able, key=lambda seat: (_turning(seat, role, gap), ROLES.index(seat.role)))
            excess[seat.role] -= 1
            seat.role = role
            excess[role] += 1
            steps.append(FleetStep("turn", seat.member, role))
    return steps


def _would_turn(seat: _Seat) -> bool:
    return seat.member.refused < REFUSALS


def _turning(seat: _Seat, role: Role, gap: Gap) -> tuple[int, int, int, tuple[int, int, float]]:
    """Sort key of who changes its role first."""
    member = seat.member
    loss = gap.loss(member).turning if member.state == "serving" else (0, 0, 0.0)
    return STAGE[member.state], member.refused, 0 if member.place.role in (None, role) else 1, loss


def _leavers(seats: Sequence[_Seat], gap: Gap) -> list[FleetStep]:
    steps = []
    for role, count in _excess(seats, gap.wanted).items():
        able = [seat for seat in reversed(seats) if seat.seated and seat.role == role]
        for seat in sorted(able, key=lambda seat: _leaving(seat, gap))[: max(0, count)]:
            seat.seated = False
            steps.append(FleetStep(_way_out(seat), seat.member, role))
    return steps


def _leaving(seat: _Seat, gap: Gap) -> tuple[int, tuple[int, int, float]]:
    """Sort key of who leaves first: of those that start, the one that began last."""
    member = seat.member
    if member.state == "serving":
        return STAGE["serving"], gap.loss(member).leaving
    return STAGE[member.state], (0, 0, -member.since)


def _way_out(seat: _Seat) -> Kind:
    ways: dict[str, Kind] = {"serving": "drain", "starting": "cancel"}
    return ways.get(seat.member.state, "drop")


def _swaps(seats: Sequence[_Seat], gap: Gap, now: float) -> list[FleetStep]:
    """Who waits, in a crash loop or for GPUs that are not to be had, gives way to a place that works."""
    steps = []
    spare = [gpus_of(seat.member.place) for seat in seats if _free(seat, now) and not seat.member.looping]
    used = float_sum(gpus_of(seat.member.place) for seat in seats if seat.seated)
    for seat in seats:
        member, own = seat.member, gpus_of(seat.member.place)
        if not seat.seated or member.state != "waiting":
            continue
        if member.looping and member.due > now:
            better = [gpus for gpus in spare if gpus <= own]
        else:
            better = [] if _fits(used, gap) else [gpus for gpus in spare if gpus < own]
        if better:
            spare.remove(better[0])
            used += better[0] - own
            seat.seated, seat.leaving = False, True
            steps.append(FleetStep("swap", member, member.role))
    return steps


def _restarts(seats: Sequence[_Seat], gap: Gap, now: float) -> list[FleetStep]:
    steps = []
    used = float_sum(gpus_of(seat.member.place) for seat in seats if seat.live)
    for seat in seats:
        gpus = gpus_of(seat.member.place)
        if seat.seated and seat.member.state == "waiting" and seat.member.due <= now and _fits(used + gpus, gap):
            used += gpus
            seat.live = True
            steps.append(FleetStep("again", seat.member, seat.role))
    return steps


def _starts(seats: Sequence[_Seat], gap: Gap, now: float) -> list[FleetStep]:
    steps: list[FleetStep] = []
    excess = _excess(seats, gap.wanted)
    if min(excess.values()) >= 0:
        return steps
    free = {seat.member.name: seat for seat in seats if _free(seat, now)}
    board = Board(
        (seat.member.place for seat in free.values()),
        ((seat.member.place, seat.role) for seat in seats if seat.seated),
    )
    loops = {name for name, seat in free.items() if seat.member.looping}
    used = float_sum(gpus_of(seat.member.place) for seat in seats if seat.live or seat.seated)
    while (role := _neediest(excess, gap.wanted)) is not None:
        left_gpus = gap.budget - used + 1e-9
        place = board.choose(role, left_gpus, loops) or board.choose(role, left_gpus)
        if place is None:
            break
        board.take(place, role)
        used += gpus_of(place)
        excess[role] += 1
        steps.append(FleetStep("start", free[place.name].member, role))
    return steps


def _free(seat: _Seat, now: float) -> bool:
    member = seat.member
    return member.state == "free" and not (seat.seated or seat.leaving or member.hopeless) and member.due <= now


def _fits(gpus: float, gap: Gap) -> bool:
    return gpus <= gap.budget + 1e-9


def _neediest(excess: Counts, wanted: Counts) -> Role | None:
    """The role that lacks the largest share of what is wanted; in role order."""
    short = [role for role in ROLES if excess[role] < 0]
    return min(short, key=lambda role: (excess[role] / wanted[role], ROLES.index(role)), default=None)
