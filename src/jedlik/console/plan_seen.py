"""What a server's GET /plan says, read leniently: a key that is not there is unknown, never zero."""

import msgspec

from jedlik.core.errors import ConfigError
from jedlik.core.plans import ROLES, Reason
from jedlik.net.http_client import get, message

ABSENT = ("free", "ended")
"""States of members that are places where nobody works."""
NO_PLANNER = "this server has no planner"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as the fleet has it, connected or not."""

    name: str = ""
    start: int | None = None
    """How often it has been started."""
    role: str | None = None
    state: str | None = None
    """starting, serving, draining, ended, waiting (to be started again)."""
    since_s: float | None = None
    """For how long it has been in that state."""
    why: str | None = None
    quick_ends: int | None = None
    """In a row."""
    hopeless: bool | None = None
    """It said that another start can't help."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """As of `core.facts.Planned`."""

    at: float | None = None
    planner: str = ""
    serving: dict[str, int] = {}
    starting: dict[str, int] = {}
    draining: dict[str, int] = {}
    wanted: dict[str, int] = {}
    done: tuple[str, ...] = ()
    why: str = ""
    reasons: tuple[Reason, ...] = ()
    advice: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer."""

    mode: str | None = None
    planner: str | None = None
    budget: float | None = None
    wanted: dict[str, int] | None = None
    by_hand: object = None
    """True, or the counts, where somebody set them."""
    advice: dict[str, int] | None = None
    """What the planner would want; it is `wanted`, unless somebody else decides."""
    trouble: str | None = None
    """Why it can't decide, or do what it decided."""
    stale: object = None
    """Gateways that should have reported and have not."""
    why: str | None = None
    """What is wanted now: one sentence."""
    members: tuple[Member, ...] = ()
    decisions: tuple[Decision, ...] = ()
    """Newest first."""
    start_s: float | None = None
    """Expected from an order to start until it serves."""
    now: float | None = None
    """On the clock of `Decision.at`."""

    @property
    def followed(self) -> bool:
        """What the planner wants is done."""
        return self.mode == "on" and self.by_hand in (None, False)

    def counted(self, *states: str) -> dict[str, int]:
        """Members in these states by role."""
        found: dict[str, int] = {}
        for member in self.members:
            if member.state in states and member.role is not None:
                found[member.role] = found.get(member.role, 0) + 1
        return found

    def roles(self) -> list[str]:
        """All there is anything to say of, in the order of `core.plans.ROLES`."""
        named = [member.role for member in self.members if member.role and member.state not in ABSENT]
        named += [role for counts in (self.wanted, self.advice) for role, count in (counts or {}).items() if count]
        order: dict[str, int] = {role: at for at, role in enumerate(ROLES)}
        return sorted(set(named), key=lambda role: (order.get(role, len(ROLES)), role))


def fetch_plan(url: str, api_key: str | None, timeout_s: float = 10.0) -> Plan | None:
    """None: this server has no planner. Raises ConfigError with a remedy."""
    reply = get(url, "/plan", api_key, timeout_s)
    if reply.status == 404:
        return None
    if reply.status in (401, 403):
        raise ConfigError(f"{url}/plan: {message(reply.body)} (give the key with --api-key)")
    if reply.status != 200:
        raise ConfigError(f"{url}/plan: {message(reply.body)}")
    return read_plan(reply.body)


def read_plan(body: bytes) -> Plan:
    """Raises ConfigError."""
    try:
        return msgspec.json.decode(body, type=Plan)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"/plan is not as this release of jedlik says it: {error}") from error


def ago_s(plan: Plan, decision: Decision) -> float | None:
    """How long ago it was taken."""
    return None if plan.now is None or decision.at is None else max(0.0, plan.now - decision.at)


def gap(one: Decision) -> str:
    """What would have to be done, where nobody says it: start 2 decode, drain 1 prefill."""
    steps = []
    for role in dict.fromkeys([*one.serving, *one.starting, *one.wanted]):
        more = one.wanted.get(role, 0) - one.serving.get(role, 0) - one.starting.get(role, 0)
        if more:
            steps.append(f"{'start' if more > 0 else 'drain'} {abs(more)} {role}")
    return ", ".join(steps) or "nothing"
