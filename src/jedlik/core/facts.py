"""Facts: what is worth knowing afterwards, for metrics, logs and `explain`. No decision reads a fact."""

import msgspec

from jedlik.core.config import Role
from jedlik.core.ids import RequestId, WorkerId
from jedlik.core.plans import Promise, Reason
from jedlik.core.trace import TraceContext


class Elsewhere(msgspec.Struct, frozen=True):
    """Another place where a candidate's prompt could have been prefilled, and what that would have cost."""

    worker: WorkerId | None
    """The worker that would have prefilled the prompt; None is the candidate itself."""
    compute: bool
    """False: the worker would only have sent what it has cached."""
    parts: dict[str, float]
    """The terms of the cost by name, in seconds, as in `Candidate.parts`."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One worker as the router saw it when it chose."""

    worker: WorkerId
    cost_s: float
    """The cost that was compared: seconds where a step model exists, else relative units (see `Routed.unit`)."""
    cached_tokens: int
    parts: dict[str, float]
    """The terms of the cost by name."""
    excluded: str | None = None
    """Why it could not be chosen, None if it could."""
    remote: WorkerId | None = None
    """The worker that would prefill for the candidate, or send it what it lacks. None: the candidate does all
    itself."""
    compute: bool = True
    """True: `remote` prefills what is lacking. False: it only sends what it has cached."""
    instead: Elsewhere | None = None
    """The best of the other places that were compared; None: there was no other, or nothing to compare by."""
    tier_tokens: int = 0
    """Tokens of the prompt, beyond `cached_tokens`, that are in the candidate's memory, disk or object storage."""


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """The choice that another policy would have made among the same workers."""

    policy: str
    chosen: WorkerId | None
    """The worker it would have chosen. None where the policy failed, or held the request back."""
    cost: float
    unit: str
    candidates: tuple[Candidate, ...]
    failure: str = ""
    deferred: str = ""
    """Why it would have chosen nobody now."""


class Routed(msgspec.Struct, frozen=True, kw_only=True, tag="routed"):
    """A choice of worker, with all that led to it. `cached_tokens` are the caller's own tenant's by construction."""

    request_id: RequestId
    attempt: int
    tenant: str
    at: float
    prompt_tokens: int
    chosen: WorkerId | None
    unit: str
    candidates: tuple[Candidate, ...]
    choice: int = 0
    policy: str = ""
    """The name of the policy that made the choice."""
    failure: str = ""
    """Why it was not the configured policy's."""
    predicted_ttft_s: float | None = None
    """Predicted seconds from this choice to the first token: wait and prefill there, corrected. None where no step
    model is known."""
    observed_ttft_s: float | None = None
    """The same, as it was. Only what is remembered for `explain` has it."""
    shadow: Shadow | None = None
    deferred: str = ""
    """Why nobody was chosen though workers could have been: it waits for a better moment, or is refused."""
    shed: str = ""
    """Set where it is refused for load: "late", "long", "harm", "deadline" or "policy"; docs/routing.md says when."""
    waited_s: float = 0.0
    """Seconds at the gateway from the request's arrival to this choice; 0 for all attempts but the first."""
    remote: WorkerId | None = None
    """The worker that prefills for the chosen one, or sends it what it lacks. None: there is none."""
    compute: bool = True
    """True: `remote` prefills. False: it only sends what it has cached."""


class Migrated(msgspec.Struct, frozen=True, tag="migrated"):
    """An attempt was given up and another begun."""

    request_id: RequestId
    attempt: int
    """The number of the new attempt."""
    delivered: int
    """Output tokens carried over."""
    reason: str


class FirstToken(msgspec.Struct, frozen=True, kw_only=True, tag="first_token"):
    """An attempt's first token came: how good the prediction was."""

    request_id: RequestId
    choice: int
    worker: WorkerId
    """The worker that prefilled, whose step model was tried."""
    predicted_s: float
    observed_s: float
    """Observed seconds from the choice of the worker to the first token."""
    ratio: float
    """Observed over predicted by the worker's step model alone, as lately averaged: its correction from now on."""


WELL = frozenset({"stop", "length", "cut"})
"""Outcomes of answers that ended as they should."""
NOT_OFFERED = frozenset({"abandoned", "invalid"})
"""The client's own doing: neither kept nor missed."""


class Answered(msgspec.Struct, frozen=True, kw_only=True, tag="answered"):
    """A choice ended, well or not."""

    request_id: RequestId
    choice: int
    outcome: str
    """"stop", "length", "cut" (stop string), "abandoned", or a fault's kind."""
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    attempts: int
    queued_s: float | None
    ttft_s: float | None
    duration_s: float
    tenant: str = ""
    """The tenant on whose behalf the request was made."""
    model: str = ""
    """The model that the request named."""
    worker: WorkerId | None = None
    """The worker of the last attempt; None: no worker was chosen."""
    pool: str = ""
    """The pool of that worker; empty: there is no worker, or it belongs to no pool."""
    trace: TraceContext | None = None
    """The trace context of the request."""

    @property
    def well(self) -> bool:
        return self.outcome in WELL

    @property
    def offered(self) -> bool:
        """Return whether the answer counts as one that met or missed its SLOs."""
        return self.outcome not in NOT_OFFERED

    @property
    def itl_s(self) -> float | None:
        """Mean time between its tokens; None where there are fewer than two."""
        if self.ttft_s is None or self.output_tokens < 2:
            return None
        return (self.duration_s - self.ttft_s) / (self.output_tokens - 1)

    def met(self, promise: Promise) -> bool:
        """Return whether the answer ended well, and in time."""
        return self.well and promise.met(self.ttft_s, self.itl_s)


class StepRan(msgspec.Struct, frozen=True, kw_only=True, tag="step_ran"):
    """One engine step, as the worker saw it."""

    step_id: int
    elapsed_s: float
    prefill_tokens: int
    decode_sequences: int
    preempted: int
    steps: int = 1
    """More than one: a leap."""


class Suspected(msgspec.Struct, frozen=True, tag="suspected"):
    """A worker's health changed in the eyes of a gateway."""

    worker: WorkerId
    health: str
    """"ok", "suspect", "fenced", "gone"."""
    reason: str


class HandedOff(msgspec.Struct, frozen=True, kw_only=True, tag="handed_off"):
    """A hand-off is over, well or not, at the worker that decodes."""

    request_id: RequestId
    choice: int
    worker: WorkerId
    """The worker that prefilled, or sent what it had."""
    compute: bool
    tokens: int
    """Tokens whose KV came from there."""
    blocks: int
    wanted: int
    """Tokens that were asked for."""
    cause: str
    """"" where all went well, else why the rest is computed here: "refused", "late", "gone", "memory", "cancelled"."""
    elapsed_s: float


class Fetched(msgspec.Struct, frozen=True, kw_only=True, tag="fetched"):
    """Blocks were wanted from a tier of this worker."""

    request_id: RequestId
    tier: str
    wanted: int
    """Blocks that were asked for."""
    blocks: int
    """Blocks that came, whole and verified."""
    cause: str
    """"" if all came, else of the first that did not (core/moves.Cause); "shadow" where they are only compared."""
    elapsed_s: float


class Offloaded(msgspec.Struct, frozen=True, kw_only=True, tag="offloaded"):
    """Blocks were to be copied to a tier of this worker."""

    tier: str
    wanted: int
    """Blocks that were to be copied."""
    blocks: int
    cause: str
    """A cause as in `Fetched`; "full" where no room could be made, "dropped" where memory was needed before it
    began."""
    elapsed_s: float


class Verified(msgspec.Struct, frozen=True, tag="verified"):
    """Blocks that a tier gave back were computed as well, and compared."""

    tier: str
    blocks: int
    differing: int


class Carried(msgspec.Struct, frozen=True, kw_only=True, tag="carried"):
    """One move of blocks has ended."""

    source: str
    """Tier; of another worker with its id: "device of worker-1@x"."""
    target: str
    path: str
    blocks: int
    size_bytes: int
    cause: str
    queued_s: float
    elapsed_s: float


class Planned(msgspec.Struct, frozen=True, kw_only=True, tag="planned"):
    """A planner has decided, and why. Said when the wish changed or something was done about it, and now and then."""

    at: float
    planner: str
    """The planner's name; "hand" where an operator set the counts."""
    serving: dict[Role, int]
    starting: dict[Role, int]
    draining: dict[Role, int]
    wanted: dict[Role, int]
    done: tuple[str, ...]
    """The actions taken now: "start worker-2 (decode)", "drain worker-0", "worker-1: prefill to decode"."""
    why: str
    reasons: tuple[Reason, ...]
    advice: bool = False
    """Nothing was done: the mode is `advise`."""


class MemberMoved(msgspec.Struct, frozen=True, kw_only=True, tag="member_moved"):
    """A worker of the fleet is in another state: starting, serving, draining, ending (told to leave at once), ended,
    waiting (to be started again), held (nobody may be started there); or has another role."""

    at: float
    name: str
    start: int
    state: str
    role: Role
    why: str


Fact = (
    Routed
    | Migrated
    | FirstToken
    | Answered
    | StepRan
    | Suspected
    | HandedOff
    | Fetched
    | Offloaded
    | Verified
    | Carried
    | Planned
    | MemberMoved
)
