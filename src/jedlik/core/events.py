"""What happens to nodes. A node's `handle(event, now)` takes one of these; `now` is in seconds on the world's clock.

Messages of the worker protocol reach a node inside `FromWorker` / `FromGateway`, which name the sender.
"""

import msgspec

from jedlik.core.ids import GatewayId, RequestId, StreamId, WorkerId
from jedlik.core.protocol import Ack, Cancel, Card, Facts, Goodbye, Load, Resync, Role, Snapshot, State, Submit, Tokens
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
    """The connection to a worker is gone, or discovery says that it ended."""

    worker: WorkerId
    reason: str


class FromWorker(msgspec.Struct, frozen=True, tag="from_worker"):
    worker: WorkerId
    message: State | Load | Facts | Snapshot | Tokens


# --- worker ---


class GatewayJoined(msgspec.Struct, frozen=True, tag="gateway_joined"):
    gateway: GatewayId


class GatewayLost(msgspec.Struct, frozen=True, tag="gateway_lost"):
    """The connection is gone: what this gateway owned is cancelled."""

    gateway: GatewayId


class FromGateway(msgspec.Struct, frozen=True, tag="from_gateway"):
    gateway: GatewayId
    message: Submit | Cancel | Ack | Resync | Goodbye


class StepEnded(msgspec.Struct, frozen=True, tag="step_ended"):
    done: StepDone


class SetRole(msgspec.Struct, frozen=True, tag="set_role"):
    role: Role


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Admit no more, finish what runs."""

    cut: bool = False
    """The time for that is over: a gateway ends what still runs with an error."""


GatewayEvent = Woken | Arrived | Abandoned | Cut | Consumed | WorkerJoined | WorkerLost | FromWorker | Drain
WorkerEvent = Woken | GatewayJoined | GatewayLost | FromGateway | StepEnded | SetRole | Drain
