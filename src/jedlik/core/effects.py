"""Effects: what nodes want done. They are performed in order, by `live/` on the real world or by `sim/` on a heap."""

import msgspec

from jedlik.core.config import Role
from jedlik.core.errors import Fault
from jedlik.core.facts import Fact
from jedlik.core.ids import ClientId, StreamId, WorkerId
from jedlik.core.moves import Order
from jedlik.core.plans import Report
from jedlik.core.protocol import (
    Ack,
    AssumeRole,
    Cancel,
    Facts,
    FinishReason,
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
from jedlik.core.step import Step, TokenLogprobs


class Wake(msgspec.Struct, frozen=True, tag="wake"):
    """Call me with `Woken` at `at` seconds. A node has one wake: a later effect replaces an earlier one."""

    at: float


class ToWorkerEffect(msgspec.Struct, frozen=True, tag="to_worker"):
    """Send a message to a worker: from a gateway, or from a worker that has another one prefill for it.

    To a worker that can't be reached nothing is sent; then `WorkerLost` follows.
    """

    worker: WorkerId
    message: Submit | Reserve | Cancel | Ack | Resync | AssumeRole


# --- gateway ---


class StreamStarted(msgspec.Struct, frozen=True, array_like=True):
    """The first attempt's first token is in this delivery."""

    stream: StreamId
    worker: WorkerId
    cached_tokens: int
    prompt_logprobs: list[TokenLogprobs] | None = None


class StreamEnded(msgspec.Struct, frozen=True, array_like=True):
    """The last thing said of a stream. With a fault the answer is incomplete (or, for a first thing, refused)."""

    stream: StreamId
    reason: FinishReason
    stop_token: int | None = None
    fault: Fault | None = None


class Deliver(msgspec.Struct, frozen=True, kw_only=True, tag="deliver"):
    """Deliver tokens to the frontend, once for each `Tokens` message or decision: columns over streams.

    Read started, tokens, ended, in this order.
    """

    streams: list[StreamId]
    tokens: list[int]
    started: list[StreamStarted] = []
    ended: list[StreamEnded] = []
    logprobs: list[tuple[StreamId, TokenLogprobs]] = []


class Kick(msgspec.Struct, frozen=True, tag="kick"):
    """This worker has hung or lies: cut the connection, and have whoever supervises it kill and restart it."""

    worker: WorkerId
    reason: str


class ToPlanner(msgspec.Struct, frozen=True, tag="to_planner"):
    """Send the planner a report of what this gateway saw in the period that ends now."""

    report: Report


# --- worker ---


class ToClient(msgspec.Struct, frozen=True, tag="to_client"):
    """Send a message to a client of this worker."""

    client: ClientId
    message: State | Load | Facts | Snapshot | Tokens | Granted | Pushed | Released


class RunStep(msgspec.Struct, frozen=True, tag="run_step"):
    """Hand this step to the engine, behind the one that may be running."""

    step: Step


class EndLeap(msgspec.Struct, frozen=True, tag="end_leap"):
    """Something came up: end this leap with the step that is running (its first, if none is)."""

    step_id: int


class Drained(msgspec.Struct, frozen=True, tag="drained"):
    """Nothing is left to do after `Drain`: the process may leave."""


class Note(msgspec.Struct, frozen=True, tag="note"):
    """A fact for telemetry and the event log; changes nothing."""

    fact: Fact


# --- planner ---


class Launch(msgspec.Struct, frozen=True, tag="launch"):
    """Start a worker at a place. `MemberReady` follows when it serves, or `MemberEnded`."""

    name: str
    """The place's, and so the worker's."""
    start: int
    """Counts the starts at this place, from 1."""
    role: Role


class Retire(msgspec.Struct, frozen=True, tag="retire"):
    """Have a worker finish what it has and leave; `MemberEnded` follows. It gets nothing new from now on."""

    name: str
    start: int
    budget_s: float
    """Then it is ended (by `End`, which the node sends itself): its streams go on elsewhere."""


class End(msgspec.Struct, frozen=True, tag="end"):
    """End all of a member's processes now."""

    name: str
    start: int


class ChangeRole(msgspec.Struct, frozen=True, tag="change_role"):
    """Have a gateway tell a worker to take another role."""

    worker: WorkerId
    role: Role


PlannerEffect = Wake | Launch | Retire | End | ChangeRole | Note
GatewayEffect = Wake | ToWorkerEffect | Deliver | Kick | ToPlanner | Drained | Note
WorkerEffect = Wake | ToClient | ToWorkerEffect | RunStep | EndLeap | Order | Drained | Note
