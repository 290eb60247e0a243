"""The values that planners see and return: reports of gateways, places for workers, counts by role, reasons.

A gateway reports once a period, whatever happened in it; a report that does not come says nothing, and nothing is not
zero. Counts are of workers; a worker is a replica of the model, however many GPUs or processes it takes.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from jedlik.core.config import Role
from jedlik.core.ids import GatewayId, WorkerId
from jedlik.core.protocol import StepCosts

ROLES: tuple[Role, ...] = ("prefill", "decode", "both")
Counts = Mapping[Role, int]
"""Workers by role; a role that is not there: none."""

BUCKET_RATIO = 1.25
"""Buckets of lengths: `bucket_of(tokens)` is floor(log(tokens) / log(BUCKET_RATIO))."""


class Promise(NamedTuple):
    """The SLOs of an answer, None where there is none, and the share of answers that should meet them."""

    ttft_s: float | None = None
    itl_s: float | None = None
    attainment: float | None = None

    def met(self, ttft_s: float | None, itl_s: float | None) -> bool:
        """Return whether an answer that ended well met the SLOs. An answer without tokens has no time to first token,
        and one of a single token has no time between tokens."""
        in_time = self.ttft_s is None or ttft_s is None or ttft_s <= self.ttft_s
        return in_time and (self.itl_s is None or itl_s is None or itl_s <= self.itl_s)


# --- what gateways see ----------------------------------------------------------------------------------------------


class Demand(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The requests that clients sent to one gateway in one period, and what became of them."""

    arrived: int
    """The number of choices that arrived."""
    prompt_tokens: int
    """Prompt tokens of the choices that arrived."""
    prompts: dict[int, int]
    """Choices that arrived, by `planning/lengths.bucket_of` of the prompt's length."""
    answered: int
    """Answers that ended well."""
    answered_prompt_tokens: int
    cached_tokens: int
    """Prompt tokens of those answers that were found in a cache."""
    output_tokens: int
    """Tokens of answers that ended well."""
    outputs: dict[int, int]
    """Answers that ended well, by bucket of their length."""
    refused: int
    """Choices that were refused for load (429)."""
    failed: int
    """Ended otherwise, clients that left not counted."""
    met: int
    """Answers of `answered` within the SLOs; all of them where there are no SLOs."""
    missed_alone: int
    """Choices of `answered` and `refused` that could not have met `slo_ttft_s` on an idle worker with its prefix
    cached."""
    ttft_sum_s: float
    """The sum of times to first token over `answered`."""
    itl_sum_s: float
    """The sum of mean times between tokens over `itl_count` answers of two tokens and more."""
    itl_count: int

    @property
    def attainable(self) -> int:
        """Choices that ended and could have met the SLOs."""
        return self.answered + self.refused + self.failed - self.missed_alone


class WorkerSeen(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One worker, as a gateway sees it."""

    worker: WorkerId
    name: str
    role: Role
    """The role that the worker has, or has been given."""
    draining: bool
    trusted: bool
    """False: suspect, it gets nothing new."""
    age_s: float
    """Seconds since the worker's last load report."""
    running: int
    waiting: int
    waiting_tokens: int
    context_tokens: int
    held_blocks: int
    total_blocks: int
    block_size: int
    max_sequences: int
    max_step_tokens: int
    step_s: float | None
    costs: StepCosts | None
    """The worker's step model; None while it is not known."""
    correction: float
    """Times to first token as observed over those its step model predicts; 1 where nothing is known."""
    hit_tokens: int
    """Prompt tokens found in its cache by what was answered in this period."""


class Report(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="report"):
    """A period of one gateway."""

    gateway: GatewayId
    at: float
    """The end of the period, on the gateway's clock (processes of one host share it)."""
    period_s: float
    demand: Demand
    waiting: int
    """Choices held back at the gateway now, and those that wait for any worker at all."""
    waiting_tokens: int
    """Prompt tokens of the choices that wait."""
    in_flight: int
    workers: list[WorkerSeen]
    slo_ttft_s: float | None = None
    slo_itl_s: float | None = None


# --- where workers can be -------------------------------------------------------------------------------------------


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Room for one worker: its name is the worker's, incarnation after incarnation."""

    name: str
    gpus: float = 0.0
    """GPUs that a worker here takes; 0: it runs on CPUs."""
    path: tuple[str, ...] = ()
    """The location, widest first: rack, host, NVLink domain or NUMA node, device. Neighbours share its beginning."""
    processes: int = 1
    """Processes of the worker (a gang). It serves when all are up, and is ended and started as a whole."""
    role: Role | None = None
    """The role that the place is meant for, if any. Another role goes here only when there is no other room."""


# --- what is wanted -------------------------------------------------------------------------------------------------

Cause = Literal["asked", "crashed", "killed", "hopeless", "late"]
"""The cause of a member's end. asked: it was told to; crashed: by itself; killed: by a signal; hopeless: it reported
that another start can't help; late: it was not ready, or not drained, in time."""


class Reason(msgspec.Struct, frozen=True, array_like=True):
    """One number that led to a decision."""

    name: str
    value: float | None
    """The number; None where it is unknown."""
    unit: str = ""


class Wish(msgspec.Struct, frozen=True):
    """The counts that a planner wants now."""

    counts: dict[Role, int]
    """Workers serving or starting, by role; roles not named: none."""
    why: str = ""
    """One sentence for people."""
    reasons: tuple[Reason, ...] = ()
    flips: bool = True
    """A role may be changed instead of ending one worker and starting another."""
