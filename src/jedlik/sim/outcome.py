"""The results of a simulation: a record per request, samples over time, totals. Reports are made from these."""

import msgspec

from jedlik.core.facts import Planned
from jedlik.sim.choices import Choices
from jedlik.sim.movement import MovementCounts


class Outcome(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The outcome of one request."""

    arrived_s: float
    ttft_s: float | None
    """Time to first token in seconds; None: no token came."""
    ended_s: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    """Tokens that were delivered."""
    outcome: str
    """"length" and "stop" ended well; else a fault's kind: "overloaded" is shed (429)."""
    worker: int
    """Index of the worker that gave the first token; -1: none."""
    attempts: int
    session: str = ""

    @property
    def ok(self) -> bool:
        return self.outcome in ("length", "stop")

    @property
    def itl_s(self) -> float | None:
        """(last token - first token) / (tokens - 1); None where there are fewer than two."""
        if self.ttft_s is None or self.output_tokens < 2:
            return None
        return (self.ended_s - self.arrived_s - self.ttft_s) / (self.output_tokens - 1)


class FleetSample(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The fleet at one moment; one number per worker, in their order."""

    at_s: float
    running: list[int]
    waiting: list[int]
    context_tokens: list[int]
    cached_blocks: list[int]


class Action(msgspec.Struct, frozen=True, array_like=True):
    """Something that happened to the fleet: a fault, a start, a kick."""

    at_s: float
    kind: str
    worker: str
    detail: str = ""


class Staff(msgspec.Struct, frozen=True, array_like=True):
    """Workers by role, from a moment on."""

    at_s: float
    serving: dict[str, int]
    starting: dict[str, int]
    """Ordered, and not yet up: they take GPUs."""
    draining: dict[str, int]


class Missed(msgspec.Struct, frozen=True, array_like=True):
    """A request that had not ended when the run was cut."""

    arrived_s: float
    attainable: bool


class PlanningRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The actions of a planner in a run."""

    planner: str
    budget: float
    """GPUs, over all workers; workers where they take none."""
    actions: list[Action]
    """The actions that it ordered: starts, retirements, ends and changes of role; not those at the beginning, nor
    starts in place of what crashed."""
    decisions: list[Planned]
    """The last ones, where there are very many."""


class SimulationRun(msgspec.Struct, kw_only=True):
    """All of one simulation."""

    outcomes: list[Outcome]
    samples: list[FleetSample]
    actions: list[Action]
    workers: list[str]
    """Names of workers, by index."""
    gpus: list[float]
    """GPUs, by worker index."""
    gpu_s: float
    """GPU time of workers from start to end of the run, start-up included."""
    duration_s: float
    """Simulated time in seconds."""
    cpu_s: float
    """CPU the simulation took."""
    wall_s: float
    events: int
    """Events that nodes handled."""
    offered: int
    """Requests sent by clients; those unfinished at the end of a limited run count as missed."""
    speed: float = 1.0
    roles: list[str] = []
    """Roles of the workers' pools, by worker index; empty: all do both."""
    busy_s: list[float] = []
    """Seconds in steps, by worker index; empty: not known."""
    up_s: list[float] = []
    """Seconds from order to end, by worker index; empty: not known."""
    block_size: int = 1
    movement: MovementCounts = msgspec.field(default_factory=MovementCounts)
    choices: Choices = msgspec.field(default_factory=Choices)
    attainable: list[bool] = []
    """Whether each outcome's prefill alone, on an idle worker with everything cached, keeps the SLO; empty: all do."""
    unended: list[Missed] = []
    """Offered, and not ended when the run was cut."""
    staff: list[Staff] = []
    planning: PlanningRecord | None = None
    """The planner's part; None: there were as many workers as at the beginning."""
