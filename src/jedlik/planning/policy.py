"""The contract of planners: what they see at each tick, and what they answer. `nodes/planner` asks, `fleet` does.

A planner may keep state between calls; it is one fleet's alone. It never sees a clock, a process or a place.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from jedlik.core.config import Role
from jedlik.core.plans import Counts, Demand, Wish, WorkerSeen
from jedlik.perf.model import StepModel


class Pool(NamedTuple):
    """Workers of one role, as they are committed."""

    serving: int = 0
    starting: tuple[float, ...] = ()
    """Expected seconds until each serves, ascending; 0: any moment."""
    draining: int = 0

    @property
    def committed(self) -> int:
        return self.serving + len(self.starting)


class Situation(NamedTuple):
    """The situation of a fleet at one tick. All figures are since the last tick or of now."""

    now: float
    period_s: float
    """Seconds that `demand` covers; 0: nothing was reported, which is not the same as no demand."""
    demand: Demand
    """The demand, summed over gateways."""
    waiting: int
    """Choices that wait at gateways now."""
    waiting_tokens: int
    workers: tuple[WorkerSeen, ...]
    """Workers by id, each as the freshest report of any gateway has it."""
    pools: dict[Role, Pool]
    split: bool
    """Prefill and decode are apart in this fleet: counts are of those two roles; else all are `both`."""
    stale: bool
    """A gateway that should have reported has not: what is seen may be wrong."""
    start_s: float
    """Expected from an order to start until it serves."""
    slo_ttft_s: float | None
    slo_itl_s: float | None


class Limits(NamedTuple):
    """The limits of a planner, which the node enforces whatever it answers."""

    most: int
    """Workers, all roles together (the budget in workers)."""
    least: int
    """The least workers, all roles together."""
    least_prefill: int
    least_decode: int


class Planner(Protocol):
    """One way to decide."""

    @property
    def name(self) -> str: ...

    @property
    def tick_s(self) -> float:
        """Seconds between two calls; the node may also ask between (when a backlog can't wait)."""

    def decide(self, situation: Situation) -> Wish: ...


class Terms(NamedTuple):
    """The terms that a planner is made with."""

    limits: Limits
    attainment: float
    tick_s: float
    model: StepModel | None
    """The step model of a worker, where a profile has it; None: workers' reports have it."""
    worker_kv_tokens: int | None
    """KV cache of one worker, where it is known beforehand."""


PlannerMaker = Callable[[Counts, Terms], Planner]
"""A call that makes the planner of one fleet from the workers at start, by role, and the terms."""
