"""What planners see of a fleet and want of it: reports of gateways, places for workers, counts by role, reasons.

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
    """What is promised of an answer, None: nothing; and of how many that should hold."""

    ttft_s: float | None = None
    itl_s: float | None = None
    attainment: float | None = None

    def met(self, ttft_s: float | None, itl_s: float | None) -> bool:
        """By an answer that ended well. One without tokens has no first, one of a single token none between."""
        in_time = self.ttft_s is None or ttft_s is None or ttft_s <= self.ttft_s
        return in_time and (self.itl_s is None or itl_s is None or itl_s <= self.itl_s)


# --- what gateways see ----------------------------------------------------------------------------------------------


class Demand(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What clients asked of one gateway in one period, and what became of it."""

    arrived: int
    """Choices."""
    prompt_tokens: int
    """Of those that arrived."""
    prompts: dict[int, int]
    """Those that arrived, by `planning/lengths.bucket_of` the prompt's length."""
    answered: int
    """Ended well."""
    answered_prompt_tokens: int
    cached_tokens: int
    """Of those, found in a cache."""
    output_tokens: int
    """Of answers that ended well."""
    outputs: dict[int, int]
    """Those answers, by bucket of their length."""
    refused: int
    """For load (429)."""
    failed: int
    """Ended otherwise, clients that left not counted."""
    met: int
    """Of `answered`: within the SLOs; all of them where there are none."""
    missed_alone: int
    """Of `answered` and `refused`: could not have kept `slo_ttft_s` on an idle worker with its prefix cached."""
    ttft_sum_s: float
    """Over `answered`."""
    itl_sum_s: float
    """Over `itl_count` answers of two tokens and more."""
    itl_count: int

    @property
    def attainable(self) -> int:
        """Of those that ended: could have been kept."""
        return self.answered + self.refused + self.failed - self.missed_alone


class WorkerSeen(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One worker, as a gateway sees it."""

    worker: WorkerId
    name: str
    role: Role
    """What it is, or has been told to be."""
    draining: bool
    trusted: bool
    """False: suspect, it gets nothing new."""
    age_s: float
    """Since its last load report."""
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
    """Of their prompts."""
    in_flight: int
    workers: list[WorkerSeen]
    slo_ttft_s: float | None = None
    slo_itl_s: float | None = None


# --- where workers can be -------------------------------------------------------------------------------------------


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Room for one worker: its name is the worker's, incarnation after incarnation."""

    name: str
    gpus: float = 0.0
    """That a worker here takes; 0: it runs on CPUs."""
    path: tuple[str, ...] = ()
    """Where it is, widest first: rack, host, NVLink domain or NUMA node, device. Neighbours share its beginning."""
    processes: int = 1
    """Of the worker (a gang): it serves when all are up, and is ended and started as a whole."""
    role: Role | None = None
    """What it is meant for, where that matters; another role goes here only when there is no other room."""


# --- what is wanted -------------------------------------------------------------------------------------------------

Cause = Literal["asked", "crashed", "killed", "hopeless", "late"]
"""How a member ended: as it was told; by itself; by somebody's signal; saying that another start can't help; it was
still not ready, or not drained, when its time was over."""


class Reason(msgspec.Struct, frozen=True, array_like=True):
    """One number that led to a decision."""

    name: str
    value: float | None
    """None: unknown."""
    unit: str = ""


class Wish(msgspec.Struct, frozen=True):
    """What a planner wants now."""

    counts: dict[Role, int]
    """Workers serving or starting, by role; roles not named: none."""
    why: str = ""
    """One sentence."""
    reasons: tuple[Reason, ...] = ()
    flips: bool = True
    """A role may be changed instead of ending one worker and starting another."""
