"""The setup of one simulation: the settings of `serve`, pools whose profiles have been looked up, and a seed.

Promises: a `Setup` that `build` made can be run: counts, times, shares and names in it make sense. What is wrong is
named by its key in the file (`pools[0].count`). Profiles are handed in: `sim` does not know where they are kept.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from jedlik.core.config import (
    SHORTHAND,
    FaultConfig,
    GatewayConfig,
    NetworkConfig,
    PlannerConfig,
    PoolConfig,
    Role,
    ServeConfig,
    SimulationConfig,
    WorkerConfig,
)
from jedlik.core.errors import ConfigError
from jedlik.core.sums import float_sum
from jedlik.core.units import path_and_bytes
from jedlik.perf.model import StepModel
from jedlik.perf.profile import Profile
from jedlik.perf.profile import model as step_model
from jedlik.planning.planners import maker_of
from jedlik.planning.policy import PlannerMaker
from jedlik.routing.policies import named
from jedlik.routing.policy import Policy

PolicyMaker = Callable[[], Policy]
"""Makes a fresh one: policies keep state, and each gateway has its own."""


class SimPool(msgspec.Struct, frozen=True, kw_only=True):
    """Workers alike, with nothing left to look up."""

    name: str
    count: int
    profile: str
    """The profile's name, for reports."""
    model: StepModel
    gpus: float
    """GPUs of one worker."""
    kv_tokens: int
    """KV cache of one worker in tokens: a whole number of blocks."""
    start_s: float
    role: Role = "both"
    host: str | None = None
    """The host of all its workers."""
    workers_per_host: int = 1
    """Workers that share a host where none is named."""
    kv_token_bytes: int = 2
    kv_host_tokens: int = 0
    kv_disk_tokens: int = 0
    kv_object_tokens: int = 0
    places: int = 0
    """Room for so many, where a planner may start more."""
    worker: WorkerConfig | None = None
    """Settings of its workers, where they are not the file's."""

    @property
    def rooms(self) -> int:
        """The number of places."""
        return max(self.places, self.count)

    def host_of(self, number: int) -> str:
        """Return the host of one of its workers; / keeps these names apart from those that users give."""
        return self.host or f"{self.name}/host{number // self.workers_per_host}"


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """One simulation, before it runs."""

    model: str
    """The name clients use."""
    pools: tuple[SimPool, ...]
    worker: WorkerConfig = WorkerConfig()
    gateway: GatewayConfig = GatewayConfig()
    """The gateways' settings: reports count as good what keeps these SLOs."""
    policy: PolicyMaker = named.make
    shadow: PolicyMaker | None = None
    gateways: int = 1
    network: NetworkConfig = NetworkConfig()
    faults: tuple[FaultConfig, ...] = ()
    """The faults in order of time; `worker` names one of `workers`, or is None."""
    seed: int = 0
    duration_s: float | None = None
    """Simulated time at which the run is cut; None: until every request has ended."""
    max_model_len: int | None = None
    """Prompt plus output in tokens; None: what the KV cache of a worker holds."""
    step_by_step: bool = False
    handoffs: bool = False
    """Workers send each other KV."""
    planner: PlannerConfig = PlannerConfig()
    planner_maker: PlannerMaker = maker_of("jedlik")
    """A call that makes the planner which `planner.policy` names."""

    @property
    def hosts(self) -> list[str]:
        """The host of every worker, by index."""
        return [pool.host_of(number) for pool in self.pools for number in range(pool.rooms)]

    @property
    def workers(self) -> list[str]:
        """Names of all places, by index: `pool/number`."""
        return [f"{pool.name}/{number}" for pool in self.pools for number in range(pool.rooms)]

    @property
    def pool_of(self) -> list[SimPool]:
        """The pool of every worker, by index."""
        return [pool for pool in self.pools for _ in range(pool.rooms)]

    @property
    def begins(self) -> list[bool]:
        """Whether each worker is up when the run begins, by index."""
        return [number < pool.count for pool in self.pools for number in range(pool.rooms)]

    @property
    def budget_gpus(self) -> float:
        """The GPUs of all workers together, at most."""
        initial = float_sum(pool.gpus * pool.count for pool in self.pools)
        return initial if self.planner.budget is None else self.planner.budget


class Problem(NamedTuple):
    """Something in a fleet that cannot be run."""

    key: str
    """The key as in the file: pools[0].count."""
    text: str
    """The fault and its remedy, in words."""


def build(
    config: ServeConfig,
    simulation: SimulationConfig,
    profiles: Mapping[str, Profile],
    seed: int = 0,
    duration_s: float | None = None,
    policies: tuple[PolicyMaker, PolicyMaker | None] = (named.make, None),
    planner: PlannerMaker | None = None,
) -> Setup:
    """Return a setup. `profiles` has every pool's, by the name that its pool gives; `policies` are what serves and what
    shadows. `planner` makes the planner; without it, `planner.policy` names one of jedlik's own.

    Raises ConfigError with a remedy.
    """
    configured = config.worker_pools
    for problem in (*pool_problems(config), *simulation_problems(configured, simulation)):
        raise ConfigError(f"{problem.key}: {problem.text}")
    moves = hands_off(configured, simulation)
    pools = tuple(_pool(number, configured, profiles, config, moves) for number in range(len(configured)))
    setup = Setup(
        model=config.served_model_name or config.model,
        pools=pools,
        worker=config.worker,
        gateway=config.gateway,
        policy=policies[0],
        shadow=policies[1],
        gateways=simulation.gateways,
        network=simulation.network,
        seed=seed,
        duration_s=duration_s,
        max_model_len=config.max_model_len,
        step_by_step=simulation.step_by_step,
        handoffs=moves,
        planner=config.planner,
        planner_maker=planner or maker_of(config.planner.policy),
    )
    _within_budget(setup)
    names = [f"{pool.name}/{number}" for pool in pools for number in range(pool.count)]
    faults = [_settled(fault, names) for fault in simulation.faults]
    return msgspec.structs.replace(setup, faults=tuple(sorted(faults, key=lambda fault: fault.at_s)))


def pool_problems(config: ServeConfig) -> Iterator[Problem]:
    """Everything that is wrong with pools in any world, in the file's order."""
    seen: set[str] = set()
    for number, pool in enumerate(config.pools):
        key = f"pools[{number}]"
        if not pool.name or "/" in pool.name or "@" in pool.name:
            yield Problem(f"{key}.name", f"{pool.name!r} cannot name a pool: use letters and digits, no / or @")
        if pool.name in seen:
            yield Problem(f"{key}.name", f"{pool.name!r} is taken by an earlier pool: give each a name of its own")
        seen.add(pool.name)
        if pool.host is not None and (not pool.host or "/" in pool.host):
            yield Problem(f"{key}.host", f"{pool.host!r} cannot name a host: use letters and digits, no /")
        if pool.host is not None and pool.workers_per_host != 1:
            yield Problem(
                f"{key}.workers_per_host", "all workers are on the host that the pool names: say one of the two"
            )
        if not (pool.min or 0) <= pool.replicas <= (pool.replicas if pool.max is None else pool.max):
            yield Problem(f"{key}.count", f"{pool.replicas} is not between the pool's min and max")
        if pool.worker is not None and pool.worker.block_size != config.worker.block_size:
            yield Problem(f"{key}.worker.block_size", "workers that share prefixes have one: set worker.block_size")
    roles = [pool.role for pool in config.pools]
    for name, role in SHORTHAND:
        if config.pools and getattr(config, name) and roles.count(role) != 1:
            yield Problem("pools", f"--{name} counts the only pool with the role {role}, and there are "
                          f"{roles.count(role)}: set pools[0].count instead")  # fmt: skip
    if roles and "decode" not in roles and "both" not in roles:
        yield Problem("pools", "all workers only prefill: give a pool the role decode or both")
    if "decode" in roles and "prefill" not in roles and "both" not in roles:
        yield Problem("pools", "all workers only decode: give a pool the role prefill or both")


def simulation_problems(pools: Sequence[PoolConfig], simulation: SimulationConfig) -> Iterator[Problem]:
    """Everything that is wrong with the simulated world around pools, in the file's order."""
    if len({pool.model for pool in pools}) > 1:
        yield Problem("pools", "they serve several models: simulate one model at a time")
    for number, pool in enumerate(pools):
        if pool.replicas < 1:
            yield Problem(f"pools[{number}].count", f"{pool.replicas}; a simulated pool begins with 1 worker or more")
    if simulation.handoffs is False and {pool.role for pool in pools} - {"both"}:
        yield Problem("simulation.handoffs", "false, but a pool has a role of its own: its workers must hand off")
    names = [f"{pool.name}/{number}" for pool in pools for number in range(pool.replicas)]
    for number, fault in enumerate(simulation.faults):
        yield from _fault_problems(f"simulation.faults[{number}]", fault, names)


def hands_off(pools: Sequence[PoolConfig], simulation: SimulationConfig) -> bool:
    """Return whether workers send each other KV."""
    return any(pool.role != "both" for pool in pools) if simulation.handoffs is None else simulation.handoffs


def worker_index(named: int | str, names: Sequence[str]) -> int | None:
    """Return the index of the worker that a fault means: an index, or `pool/number`; None: there is no such worker."""
    if isinstance(named, int):
        return named if 0 <= named < len(names) else None
    if named in names:
        return names.index(named)
    return worker_index(int(named), names) if named.isdecimal() else None


def _pool(
    number: int, pools: Sequence[PoolConfig], profiles: Mapping[str, Profile], config: ServeConfig, moves: bool
) -> SimPool:
    pool, key = pools[number], f"pools[{number}]"
    if pool.profile is None:
        raise ConfigError(f"{key}.profile: is missing: a simulation needs the time of steps")
    profile = profiles[pool.profile]
    token_bytes = pool.kv_token_bytes or profile.kv_bytes_per_token
    sized = pool.kv_cache_bytes or pool.kv_host_bytes or pool.kv_disk or pool.kv_object_bytes
    if token_bytes is None and (moves or sized):
        raise ConfigError(
            f"{key}.kv_token_bytes: profile {pool.profile} does not say how large a token's KV is: "
            "set it (layers x 2 x KV heads x head dimension x bytes per number)"
        )
    token_bytes = token_bytes or 2
    kv_tokens = profile.kv_tokens if pool.kv_cache_bytes is None else pool.kv_cache_bytes // token_bytes
    if kv_tokens is None:
        raise ConfigError(
            f"{key}.kv_cache_bytes: profile {pool.profile} does not say how large the KV cache is: set it"
        )
    gpus = profile.gpus if pool.gpus is None else pool.gpus
    sizes = {
        "kv_cache_bytes": kv_tokens,
        "kv_host_bytes": (pool.kv_host_bytes or 0) // token_bytes,
        "kv_disk": _disk_bytes(number, pools) // token_bytes,
        "kv_object_bytes": pool.kv_object_bytes // token_bytes,
    }
    block_size = config.worker.block_size
    for name, tokens in sizes.items():
        if tokens < block_size and (name == "kv_cache_bytes" or getattr(pool, name)):
            text = f"{tokens} tokens hold no block of {block_size}: raise it, or lower worker.block_size"
            raise ConfigError(f"{key}.{name}: {text}")
    return SimPool(
        name=pool.name,
        count=pool.replicas,
        profile=pool.profile,
        model=step_model(profile),
        gpus=gpus,
        kv_tokens=kv_tokens // block_size * block_size,
        start_s=pool.start_s,
        role=pool.role,
        host=pool.host,
        workers_per_host=pool.workers_per_host,
        kv_token_bytes=token_bytes,
        kv_host_tokens=sizes["kv_host_bytes"],
        kv_disk_tokens=sizes["kv_disk"],
        kv_object_tokens=sizes["kv_object_bytes"],
        places=_places(pool, gpus, config.planner),
        worker=pool.worker,
    )


def _disk_bytes(number: int, pools: Sequence[PoolConfig]) -> int:
    """Bytes of one worker: its share of what the workers of its host have together."""
    pool = pools[number]
    if pool.kv_disk is None:
        return 0
    try:
        _, size = path_and_bytes(pool.kv_disk)
    except ValueError as error:
        raise ConfigError(f"pools[{number}].kv_disk: {error}; write PATH:BYTES") from error
    if pool.host is None:
        return size // pool.workers_per_host
    return size // sum(one.max or one.replicas for one in pools if (one.host, one.kv_disk) == (pool.host, pool.kv_disk))


def _places(pool: PoolConfig, gpus: float, planner: PlannerConfig) -> int:
    """Room for workers: as many as the budget and the pool allow, where a planner may start some."""
    if planner.budget is None or not _limited(planner):
        return 0
    room = int(planner.budget // (gpus or 1))
    return room if pool.max is None else min(room, pool.max)


def _within_budget(setup: Setup) -> None:
    """Raises ConfigError if the budget is too small for what there is at the beginning."""
    budget = setup.planner.budget
    if budget is None or not _limited(setup.planner):
        return
    for pool in setup.pools:
        if not pool.places:
            raise ConfigError(
                f"planner.budget: {budget:g} GPUs are too few for a worker of pool {pool.name}, "
                f"which takes {pool.gpus:g}: raise it"
            )
    begin = float_sum((pool.gpus or 1) * pool.count for pool in setup.pools)
    if begin > budget:
        raise ConfigError(
            f"planner.budget: {budget:g} GPUs, and the fleet begins with {begin:g}: raise it, "
            "or lower the counts of its pools (--workers)"
        )


def _limited(planner: PlannerConfig) -> bool:
    """A planner may start workers, as far as its budget goes."""
    return planner.acts != "off" and planner.budget is not None


def _settled(fault: FaultConfig, names: Sequence[str]) -> FaultConfig:
    """With its workers by name."""
    indices = [None if one is None else worker_index(one, names) for one in (fault.worker, fault.peer)]
    worker, peer = (None if index is None else names[index] for index in indices)
    return msgspec.structs.replace(fault, worker=worker, peer=peer)


def _fault_problems(key: str, fault: FaultConfig, names: Sequence[str]) -> Iterator[Problem]:
    for name, one in (("worker", fault.worker), ("peer", fault.peer)):
        if one is not None and worker_index(one, names) is None:
            yield Problem(f"{key}.{name}", _no_worker(one, names))
    if fault.kind != "cut":
        if fault.peer is not None:
            yield Problem(f"{key}.peer", f"only a cut has another end; leave it out for {fault.kind}")
    elif fault.worker is None or fault.peer is None:
        yield Problem(f"{key}.peer", "a cut is between two workers: name both, worker and peer")
    elif worker_index(fault.worker, names) == worker_index(fault.peer, names) is not None:
        yield Problem(f"{key}.peer", f"{fault.peer!r} has no link to itself: name another worker")


def _no_worker(named: int | str, names: Sequence[str]) -> str:
    if isinstance(named, int) or not names:
        return f"there is no worker {named}: the fleet has {len(names)}, numbered from 0"
    near = difflib.get_close_matches(named, names, n=1, cutoff=0.0)[0]
    return f"there is no worker {named!r} (pool/number, from 0); did you mean {near!r}?"
