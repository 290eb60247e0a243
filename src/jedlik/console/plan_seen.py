"""The answer of GET /plan, read leniently: a key that is missing is unknown, never zero."""

import msgspec

from jedlik.core.errors import ConfigError
from jedlik.core.plans import ROLES, Reason
from jedlik.net.http_client import get, message

ABSENT = ("free", "ended")
"""States of members that are places where nobody works."""
NO_PLANNER = "this server has no planner"


class FleetMember(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as the fleet knows it, connected or not."""

    name: str = ""
    start: int | None = None
    """The number of times that it has been started."""
    role: str | None = None
    state: str | None = None
    """starting, serving, draining, ended, waiting (to be started again)."""
    since_s: float | None = None
    """The seconds that it has been in this state."""
    why: str | None = None
    quick_ends: int | None = None
    """The number of times in a row that it ended soon after its start."""
    hopeless: bool | None = None
    """Whether it reported that another start can't help."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A decision of the planner. Its fields are those of `core.facts.Planned`."""

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


class PlanAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer of GET /plan."""

    mode: str | None = None
    planner: str | None = None
    budget: float | None = None
    wanted: dict[str, int] | None = None
    by_hand: object = None
    """This is true, or the counts, where an operator set them."""
    advice: dict[str, int] | None = None
    """The counts that the planner asks for. They equal `wanted`, unless an operator decides."""
    trouble: str | None = None
    """The reason why the planner can't decide, or can't do what it decided."""
    stale: object = None
    """Whether reports of gateways are missing."""
    why: str | None = None
    """One sentence that explains `wanted`."""
    members: tuple[FleetMember, ...] = ()
    decisions: tuple[Decision, ...] = ()
    """The last decisions, newest first."""
    start_s: float | None = None
    """The expected seconds from an order to start until the worker serves."""
    now: float | None = None
    """The server's time, on the clock of `Decision.at`."""

    @property
    def followed(self) -> bool:
        """Whether the planner's counts are acted on."""
        return self.mode == "on" and self.by_hand in (None, False)

    def counted(self, *states: str) -> dict[str, int]:
        """Return the number of members in these states, by role."""
        found: dict[str, int] = {}
        for member in self.members:
            if member.state in states and member.role is not None:
                found[member.role] = found.get(member.role, 0) + 1
        return found

    def roles(self) -> list[str]:
        """Return the roles that have members or wanted counts, in the order of `core.plans.ROLES`."""
        named = [member.role for member in self.members if member.role and member.state not in ABSENT]
        named += [role for counts in (self.wanted, self.advice) for role, count in (counts or {}).items() if count]
        order: dict[str, int] = {role: at for at, role in enumerate(ROLES)}
        return sorted(set(named), key=lambda role: (order.get(role, len(ROLES)), role))


def fetch_plan(url: str, api_key: str | None, timeout_s: float = 10.0) -> PlanAnswer | None:
    """Ask a server for its plan. None means that it has no planner. Raises ConfigError with a remedy."""
    reply = get(url, "/plan", api_key, timeout_s)
    if reply.status == 404:
        return None
    if reply.status in (401, 403):
        raise ConfigError(f"{url}/plan: {message(reply.body)} (give the key with --api-key)")
    if reply.status != 200:
        raise ConfigError(f"{url}/plan: {message(reply.body)}")
    return read_plan(reply.body)


def read_plan(body: bytes) -> PlanAnswer:
    """Decode an answer of GET /plan. Raises ConfigError."""
    try:
        return msgspec.json.decode(body, type=PlanAnswer)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"/plan is not as this release of jedlik says it: {error}") from error


def ago_s(plan: PlanAnswer, decision: Decision) -> float | None:
    """Return the age of a decision in seconds."""
    return None if plan.now is None or decision.at is None else max(0.0, plan.now - decision.at)


def gap(one: Decision) -> str:
    """Return the steps from what was there to what is wanted: start 2 decode, drain 1 prefill."""
    steps = []
    for role in dict.fromkeys([*one.serving, *one.starting, *one.wanted]):
        more = one.wanted.get(role, 0) - one.serving.get(role, 0) - one.starting.get(role, 0)
        if more:
            steps.append(f"{'start' if more > 0 else 'drain'} {abs(more)} {role}")
    return ", ".join(steps) or "nothing"
