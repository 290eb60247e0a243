"""Events: what happens to nodes. A node's `handle(event, now)` takes one of these; `now` is in seconds on the world's
clock.

Messages of the worker protocol reach a node inside `FromWorker` / `FromClient`, which name the sender.
"""

import msgspec

from jedlik.core.config import Role
from jedlik.core.ids import ClientId, GatewayId, RequestId, StreamId, WorkerId
from jedlik.core.moves import Compared, Moved, PathsMeasured, Revoked, TierOpened
from jedlik.core.plans import Cause, Report
from jedlik.core.protocol import (
    Ack,
    AssumeRole,
    Cancel,
    Card,
    Facts,
    Goodbye,
    Granted,
    Load,
    Pushed,
    Released,
    Reserve,
    Resync,
    Snapshot,
    State,
    Submit,
    Tokens,
)
from jedlik.core.requests import Request
from jedlik.core.step import StepDone


class Woken(msgspec.Struct, frozen=True, tag="woken"):
    """A `Wake` came due. May come early or twice; a node looks at its own timetable."""


# --- gateway ---


class Arrived(msgspec.Struct, frozen=True, tag="arrived"):
    """The frontend has a valid request."""

    request: Request


class Abandoned(msgspec.Struct, frozen=True, tag="abandoned"):
    """The client went away: stop all choices and forget the request. Nothing more is delivered."""

    request_id: RequestId


class Cut(msgspec.Struct, frozen=True, tag="cut"):
    """The frontend ended one choice (stop string) after `position` output tokens: cancel its work, deliver no more."""

    stream: StreamId
    position: int


class Consumed(msgspec.Struct, frozen=True, tag="consumed"):
    """The client has taken a choice's tokens up to `position` (output tokens, absolute). Sent every few tokens."""

    stream: StreamId
    position: int


class WorkerJoined(msgspec.Struct, frozen=True, tag="worker_joined"):
    """A connection to a worker is up and it has shown its card."""

    card: Card


class WorkerLost(msgspec.Struct, frozen=True, tag="worker_lost"):
    """The connection to a worker is gone, or discovery says that it ended. Workers hear it of those they ask, too."""

    worker: WorkerId
    reason: str


WorkerMessage = State | Load | Facts | Snapshot | Tokens | Granted | Pushed | Released
"""The messages that a worker sends after its card. The last three go only to workers for which it prefills."""


class FromWorker(msgspec.Struct, frozen=True, tag="from_worker"):
    worker: WorkerId
    message: WorkerMessage


class Flip(msgspec.Struct, frozen=True, tag="flip"):
    """Somebody wants a worker to take another role. Whether it may, `GatewayNode.flip_refusal` says first."""

    worker: WorkerId
    role: Role


# --- worker ---


class ClientJoined(msgspec.Struct, frozen=True, tag="client_joined"):
    """A client has connected to this worker."""

    client: ClientId
    follows: bool = True
    """Whether the client wants cache facts and load reports."""


class ClientLost(msgspec.Struct, frozen=True, tag="client_lost"):
    """The connection to a client is gone: the attempts that it owned are cancelled."""

    client: ClientId


class FromClient(msgspec.Struct, frozen=True, tag="from_client"):
    """A client has sent a message to this worker."""

    client: ClientId
    message: Submit | Reserve | Cancel | Ack | Resync | AssumeRole | Goodbye


class StepEnded(msgspec.Struct, frozen=True, tag="step_ended"):
    done: StepDone


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Admit no more, finish what runs."""

    cut: bool = False
    """The time for that is over: a gateway ends what still runs with an error."""


# --- planner ---


class Reported(msgspec.Struct, frozen=True, tag="reported"):
    """A gateway says what it saw."""

    report: Report


class GatewayGone(msgspec.Struct, frozen=True, tag="gateway_gone"):
    """A gateway has ended: it will report no more, and what it last said is no longer waited for."""

    gateway: GatewayId


class MemberReady(msgspec.Struct, frozen=True, tag="member_ready"):
    """A process of a worker is up; of a gang, the one of this rank. The worker serves when all are."""

    name: str
    start: int
    worker: WorkerId
    rank: int = 0


class MemberEnded(msgspec.Struct, frozen=True, tag="member_ended"):
    """A process of a worker has ended."""

    name: str
    start: int
    cause: Cause
    rank: int = 0


class Adopted(msgspec.Struct, frozen=True, tag="adopted"):
    """Found running when the planner began: it is kept. `MemberReady` follows if and when it serves."""

    name: str
    start: int
    role: Role


class Scale(msgspec.Struct, frozen=True, tag="scale"):
    """Somebody wants these counts, whatever the planner thinks; None: the planner decides again."""

    counts: dict[Role, int] | None


class Hold(msgspec.Struct, frozen=True, tag="hold"):
    """Somebody wants no worker at this place (drain it, start none), or wants one there again."""

    name: str
    active: bool


PlannerEvent = Woken | Reported | GatewayGone | MemberReady | MemberEnded | Adopted | Scale | Hold
GatewayEvent = Woken | Arrived | Abandoned | Cut | Consumed | WorkerJoined | WorkerLost | FromWorker | Flip | Drain
WorkerEvent = (
    Woken
    | ClientJoined
    | ClientLost
    | FromClient
    | StepEnded
    | FromWorker
    | WorkerLost
    | Moved
    | Compared
    | Revoked
    | TierOpened
    | PathsMeasured
    | Drain
)
