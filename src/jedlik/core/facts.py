"""What is worth knowing afterwards: facts for metrics, logs and `explain`. Nobody decides on a fact."""

import msgspec

from jedlik.core.ids import RequestId, WorkerId


class Candidate(msgspec.Struct, frozen=True):
    """One worker as the router saw it when it chose."""

    worker: WorkerId
    cost_s: float
    """What was compared: seconds where a performance model exists, else relative units (see `Routed.unit`)."""
    cached_tokens: int
    parts: dict[str, float]
    """The terms of the cost by name."""
    excluded: str | None = None
    """Why it could not be chosen, None if it could."""


class Routed(msgspec.Struct, frozen=True, tag="routed"):
    """A choice of worker, with all that led to it. `cached_tokens` are the caller's own tenant's by construction."""

    request_id: RequestId
    attempt: int
    tenant: str
    at: float
    prompt_tokens: int
    chosen: WorkerId | None
    unit: str
    candidates: tuple[Candidate, ...]


class Migrated(msgspec.Struct, frozen=True, tag="migrated"):
    """An attempt was given up and another begun."""

    request_id: RequestId
    attempt: int
    """Of the new one."""
    delivered: int
    """Output tokens carried over."""
    reason: str


class Answered(msgspec.Struct, frozen=True, tag="answered"):
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


class StepRan(msgspec.Struct, frozen=True, tag="step_ran"):
    """One engine step, as the worker saw it."""

    step_id: int
    elapsed_s: float
    prefill_tokens: int
    decode_sequences: int
    preempted: int


class Suspected(msgspec.Struct, frozen=True, tag="suspected"):
    """A worker's health changed in the eyes of a gateway."""

    worker: WorkerId
    health: str
    """"ok", "suspect", "fenced", "gone"."""
    reason: str


Fact = Routed | Migrated | Answered | StepRan | Suspected
