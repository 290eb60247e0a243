"""The fleets that sizing chooses from, and what a simulation of one says.

An engine is a profile with a price; a shape is a kind of fleet (engine, chunk, prefill apart or not); a fleet is a
shape and a number of workers. Counts are of workers, prices of GPUs; a worker that takes no GPU counts as one process.
"""

from typing import Literal

import msgspec

from jedlik.core.config import PoolConfig, ServeConfig, SimulationConfig, WorkerConfig
from jedlik.perf.profile import Profile

Part = Literal["sample", "trace"]
"""The part that was simulated: pieces of the trace, or all of it that is simulated at all."""


class SizedEngine(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate for workers."""

    label: str
    """The engine's name for people, such as h200 tp2."""
    profile: Profile
    pool: PoolConfig
    """Everything of a pool but its name, count and role."""
    gpu_hour_usd: float

    @property
    def profile_name(self) -> str:
        """The profile's name as the pool gives it."""
        return self.pool.profile or self.profile.name

    @property
    def gpus(self) -> float:
        """GPUs of one worker."""
        return (self.profile.gpus if self.pool.gpus is None else self.pool.gpus) or 1

    @property
    def kv_tokens(self) -> int:
        """KV cache of one worker, in tokens; 0: not known."""
        token_bytes = self.pool.kv_token_bytes or self.profile.kv_bytes_per_token
        if self.pool.kv_cache_bytes is not None and token_bytes:
            return self.pool.kv_cache_bytes // token_bytes
        return self.profile.kv_tokens or 0

    @property
    def hour_usd(self) -> float:
        """The price of one worker in an hour."""
        return self.gpus * self.gpu_hour_usd


class Shape(msgspec.Struct, frozen=True):
    """A kind of fleet: everything but how many workers."""

    engine: SizedEngine
    chunk_tokens: int
    prefill_share: float = 0.0
    """The share of workers that only prefill, the others then only decode; 0: all do both."""

    @property
    def apart(self) -> bool:
        return self.prefill_share > 0

    @property
    def least(self) -> int:
        """The least number of workers."""
        return 2 if self.apart else 1

    def most(self, budget: float) -> int:
        """Workers within so many GPUs; 0: not even one fleet of this shape."""
        workers = int((budget + 1e-9) // self.engine.gpus)
        return workers if workers >= self.least else 0

    def prefill(self, workers: int) -> int:
        """Return how many of so many workers only prefill."""
        return min(max(round(self.prefill_share * workers), 1), workers - 1) if self.apart else 0


class SizedFleet(msgspec.Struct, frozen=True):
    """Something that can be simulated and served."""

    shape: Shape
    workers: int

    @property
    def prefill(self) -> int:
        return self.shape.prefill(self.workers)

    @property
    def gpus(self) -> float:
        return self.workers * self.shape.engine.gpus

    @property
    def hour_usd(self) -> float:
        return self.workers * self.shape.engine.hour_usd

    @property
    def name(self) -> str:
        """8 × h200 tp2, or 3 + 5 × h200 tp2 where prefill is apart; then the chunk."""
        count = f"{self.prefill} + {self.workers - self.prefill}" if self.shape.apart else str(self.workers)
        return f"{count} × {self.shape.engine.label}, chunk {self.shape.chunk_tokens}"

    @property
    def order(self) -> tuple[float, float, bool, str]:
        """Cheapest first; of two that cost the same the one of fewer GPUs, then the simpler one."""
        return self.hour_usd, self.gpus, self.shape.apart, self.name


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one simulation; latencies in seconds, over requests that ended well."""

    requests: int
    """Requests that were judged."""
    good: int
    """Judged requests that were answered within the SLOs."""
    slo_attainment: float | None
    """The attainment as `jedlik simulate` reports it for this fleet: over the requests that this very fleet could serve
    in time."""
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    itl_p50_s: float | None
    itl_p99_s: float | None
    hit_rate: float | None
    output_tokens: float
    """Delivered, to those that were judged."""
    duration_s: float
    """The duration of all that was simulated, in seconds."""
    choices: int = 0
    """The number of choices that the policy was asked for."""
    failures: int = 0
    """The number of choices in which the policy failed, so that the default chose."""
    cause: str = ""
    """The most frequent cause of these failures."""


class Trial(msgspec.Struct, frozen=True):
    """A simulation to be run."""

    fleet: SizedFleet
    part: Part


def pools(fleet: SizedFleet) -> tuple[PoolConfig, ...]:
    """The fleet as a file says it."""
    shape = fleet.shape
    name = shape.engine.label.replace(".", "").replace(" ", "-")
    own = shape.engine.pool.worker
    worker = own and msgspec.structs.replace(own, max_step_tokens=shape.chunk_tokens)
    pool = msgspec.structs.replace(shape.engine.pool, name=name, count=fleet.workers, worker=worker)
    if not shape.apart:
        return (pool,)
    prefill = msgspec.structs.replace(pool, name=f"{name}-prefill", count=fleet.prefill, role="prefill")
    decode = msgspec.structs.replace(pool, name=f"{name}-decode", count=fleet.workers - fleet.prefill, role="decode")
    return prefill, decode


def settings(base: tuple[ServeConfig, SimulationConfig], fleet: SizedFleet) -> tuple[ServeConfig, SimulationConfig]:
    """Return what is simulated, and written for `jedlik simulate` and `jedlik serve`: `base` with this fleet in it.

    The planner is off: it is this very fleet that is judged. Faults of the base are left out: they name its workers.
    A base that names no model serves the profile, as a file does that names none.
    """
    config, around = base
    worker: WorkerConfig = msgspec.structs.replace(config.worker, max_step_tokens=fleet.shape.chunk_tokens)
    planner = msgspec.structs.replace(config.planner, mode="off")
    chosen = msgspec.structs.replace(around, faults=(), handoffs=None)
    model = config.model or fleet.shape.engine.profile_name
    changes = {"workers": None, "prefill": 0, "decode": 0}
    config = msgspec.structs.replace(config, model=model, worker=worker, planner=planner, pools=pools(fleet), **changes)
    return config, chosen
