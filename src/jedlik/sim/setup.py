"""What one simulation runs: the settings of `serve`, a fleet whose profiles have been looked up, and a seed.

Promises: a `Setup` that `build` made can be run: counts, times, shares and names in it make sense. What is wrong is
named by its key in the file (`fleet.pools[0].count`). Profiles are handed in: `sim` does not know where they are kept.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from typing import NamedTuple

import msgspec

from jedlik.core.config import (
    FaultConfig,
    FleetConfig,
    GatewayConfig,
    NetworkConfig,
    PlannerConfig,
    PoolConfig,
    Role,
    ServeConfig,
    WorkerConfig,
)
from jedlik.core.errors import ConfigError
from jedlik.core.moves import TIERS
from jedlik.core.sums import float_sum
from jedlik.perf.model import StepModel
from jedlik.perf.profile import Profile
from jedlik.perf.profile import model as step_model
from jedlik.routing.policies import named
from jedlik.routing.policy import Policy

PolicyMaker = Callable[[], Policy]
"""Makes a fresh one: policies keep state, and each gateway has its own."""


class Pool(msgspec.Struct, frozen=True):
    """Workers alike, with nothing left to look up."""

    name: str
    count: int
    profile: str
    """Its name, for reports."""
    model: StepModel
    gpus: float
    """Of one worker."""
    kv_tokens: int
    """Of one worker; a whole number of blocks."""
    start_s: float
    role: Role = "both"
    host: str | None = None
    """Of all its workers."""
    workers_per_host: int = 1
    """Where it names no host."""
    kv_token_bytes: int = 2
    kv_host_tokens: int = 0
    kv_disk_tokens: int = 0
    kv_object_tokens: int = 0
    places: int = 0
    """Room for so many, where a planner may start more."""

    @property
    def rooms(self) -> int:
        """Places in all."""
        return max(self.places, self.count)

    def host_of(self, number: int) -> str:
        """Of one of its workers; / keeps these names apart from those that users give."""
        return self.host or f"{self.name}/host{number // self.workers_per_host}"


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """One simulation, before it runs."""

    model: str
    """The name clients use."""
    pools: tuple[Pool, ...]
    worker: WorkerConfig = WorkerConfig()
    gateway: GatewayConfig = GatewayConfig()
    """Its SLOs are what the report calls good."""
    policy: PolicyMaker = named.make
    shadow: PolicyMaker | None = None
    gateways: int = 1
    network: NetworkConfig = NetworkConfig()
    faults: tuple[FaultConfig, ...] = ()
    """In order of time; `worker` names one of `workers`, or is None."""
    seed: int = 0
    duration_s: float | None = None
    """Simulated time at which the run is cut; None: until every request has ended."""
    max_model_len: int | None = None
    """None: what the KV cache of a worker holds."""
    step_by_step: bool = False
    handoffs: bool = False
    """Workers send each other KV."""
    planner: PlannerConfig = PlannerConfig()

    @property
    def hosts(self) -> list[str]:
        """By worker index."""
        return [pool.host_of(number) for pool in self.pools for number in range(pool.rooms)]

    @property
    def workers(self) -> list[str]:
        """Names of all places, by index: `pool/number`."""
        return [f"{pool.name}/{number}" for pool in self.pools for number in range(pool.rooms)]

    @property
    def pool_of(self) -> list[Pool]:
        """By worker index."""
        return [pool for pool in self.pools for _ in range(pool.rooms)]

    @property
    def begins(self) -> list[bool]:
        """By worker index: it is up when the run begins."""
        return [number < pool.count for pool in self.pools for number in range(pool.rooms)]

    @property
    def budget_gpus(self) -> float:
        """Of all workers together, at most."""
        initial = float_sum(pool.gpus * pool.count for pool in self.pools)
        return initial if self.planner.budget is None else self.planner.budget


class Problem(NamedTuple):
    """Something in a fleet that cannot be run."""

    key: str
    """As in the file, below `fleet`: pools[0].count."""
    text: str
    """What is wrong and what to do."""


def build(
    config: ServeConfig,
    fleet: FleetConfig,
    profiles: Mapping[str, Profile],
    seed: int = 0,
    duration_s: float | None = None,
    policies: tuple[PolicyMaker, PolicyMaker | None] = (named.make, None),
) -> Setup:
    """A setup. `profiles` has every pool's, by the name its pool gives; `policies` are what serves and what shadows.

    Raises ConfigError with a remedy.
    """
    for problem in problems(fleet):
        raise ConfigError(f"fleet.{problem.key}: {problem.text}")
    pools = tuple(
        _pool(pool_number, fleet, profiles, config.worker.block_size) for pool_number in range(len(fleet.pools))
    )
    setup = Setup(
        model=config.served_model_name or config.model,
        pools=pools,
        worker=config.worker,
        gateway=config.gateway,
        policy=policies[0],
        shadow=policies[1],
        gateways=fleet.gateways,
        network=fleet.network,
        seed=seed,
        duration_s=duration_s,
        max_model_len=config.max_model_len,
        step_by_step=fleet.step_by_step,
        handoffs=hands_off(fleet),
        planner=config.planner,
    )
    setup = msgspec.structs.replace(setup, pools=tuple(_roomy(pool, config.planner) for pool in pools))
    _within_budget(setup)
    names = [f"{pool.name}/{number}" for pool in pools for number in range(pool.count)]
    faults = [_settled(fault, names) for fault in fleet.faults]
    return msgspec.structs.replace(setup, faults=tuple(sorted(faults, key=lambda fault: fault.at_s)))


def problems(fleet: FleetConfig) -> Iterator[Problem]:
    """All that cannot be run, in the file's order."""
    if not fleet.pools:
        yield Problem("pools", "the fleet is empty: name at least one pool, as in {name: a, count: 8, profile: ...}")
    seen: set[str] = set()
    for number, pool in enumerate(fleet.pools):
        key = f"pools[{number}]"
        yield from _counts(
            key,
            {
                "count": pool.count,
                "kv_tokens": pool.kv_tokens,
                "workers_per_host": pool.workers_per_host,
                "kv_token_bytes": pool.kv_token_bytes,
            },
        )
        yield from _places(key, pool)
        if pool.gpus is not None and pool.gpus < 0:
            yield Problem(f"{key}.gpus", f"{pool.gpus}; 0 (a CPU) or more")
        yield from _times(key, {"start_s": pool.start_s})
        if not pool.name or "/" in pool.name or "@" in pool.name:
            yield Problem(f"{key}.name", f"{pool.name!r} cannot name a pool: use letters and digits, no / or @")
        if pool.name in seen:
            yield Problem(f"{key}.name", f"{pool.name!r} is taken by an earlier pool: give each a name of its own")
        seen.add(pool.name)
    yield from _counts("", {"gateways": fleet.gateways})
    yield from _roles(fleet)
    yield from _links(fleet.network)
    names = [f"{pool.name}/{number}" for pool in fleet.pools for number in range(max(pool.count, 0))]
    for number, fault in enumerate(fleet.faults):
        yield from _faulty(f"faults[{number}]", fault, names)


def hands_off(fleet: FleetConfig) -> bool:
    """Whether workers send each other KV."""
    return any(pool.role != "both" for pool in fleet.pools) if fleet.handoffs is None else fleet.handoffs


def _places(key: str, pool: PoolConfig) -> Iterator[Problem]:
    """Hosts and tiers of a pool."""
    if pool.host is not None and (not pool.host or "/" in pool.host):
        yield Problem(f"{key}.host", f"{pool.host!r} cannot name a host: use letters and digits, no /")
    if pool.host is not None and pool.workers_per_host != 1:
        yield Problem(
            f"{key}.workers_per_host", "all workers of this pool are on the host it names: say one of the two"
        )
    for name, tokens in _tiers(pool):
        if tokens < 0:
            yield Problem(f"{key}.{name}", f"{tokens}; 0 (no such tier) or more")


def _roles(fleet: FleetConfig) -> Iterator[Problem]:
    """Somebody must decode, and prefill workers must be able to hand off."""
    roles = [pool.role for pool in fleet.pools]
    if roles and "decode" not in roles and "both" not in roles:
        yield Problem("pools", "all workers only prefill: give a pool the role decode or both")
    if "decode" in roles and "prefill" not in roles and "both" not in roles:
        yield Problem("pools", "all workers only decode: give a pool the role prefill or both")
    if fleet.handoffs is False and set(roles) - {"both"}:
        yield Problem("handoffs", "false, but a pool has a role of its own: its workers must hand off")


def _links(network: NetworkConfig) -> Iterator[Problem]:
    for name in NetworkConfig.__struct_fields__:
        value = getattr(network, name)
        if name.endswith("bandwidth_bytes_s"):
            if not value > 0 or not isfinite(value):
                yield Problem(f"network.{name}", f"{value}: a link must carry something")
        else:
            yield from _times("network", {name: value})


def worker_index(named: int | str, names: Sequence[str]) -> int | None:
    """Which worker a fault means: an index, or `pool/number`; None: there is no such worker."""
    if isinstance(named, int):
        return named if 0 <= named < len(names) else None
    if named in names:
        return names.index(named)
    return worker_index(int(named), names) if named.isdecimal() else None


def _pool(number: int, fleet: FleetConfig, profiles: Mapping[str, Profile], block_size: int) -> Pool:
    pool = fleet.pools[number]
    profile = profiles[pool.profile]
    kv_tokens = pool.kv_tokens or profile.kv_tokens
    if kv_tokens is None:
        raise ConfigError(
            f"fleet.pools[{number}].kv_tokens: profile {pool.profile} does not say how large the KV cache is: set it"
        )
    if kv_tokens < block_size:
        raise ConfigError(
            f"fleet.pools[{number}].kv_tokens: {kv_tokens} tokens hold no block of {block_size}: "
            "raise it, or lower worker.block_size"
        )
    token_bytes = pool.kv_token_bytes or profile.kv_bytes_per_token
    moves = hands_off(fleet) or any(tokens for _, tokens in _tiers(pool))
    if token_bytes is None and moves:
        raise ConfigError(
            f"fleet.pools[{number}].kv_token_bytes: profile {pool.profile} does not say how large a token's KV is: "
            "set it (layers x 2 x KV heads x head dimension x bytes per number)"
        )
    _hold_a_block(number, pool, block_size)
    return Pool(
        name=pool.name,
        count=pool.count,
        profile=pool.profile,
        model=step_model(profile),
        gpus=profile.gpus if pool.gpus is None else pool.gpus,
        kv_tokens=kv_tokens // block_size * block_size,
        start_s=pool.start_s,
        role=pool.role,
        host=pool.host,
        workers_per_host=pool.workers_per_host,
        kv_token_bytes=token_bytes or 2,
        kv_host_tokens=pool.kv_host_tokens,
        kv_disk_tokens=pool.kv_disk_tokens,
        kv_object_tokens=pool.kv_object_tokens,
    )


def _roomy(pool: Pool, planner: PlannerConfig) -> Pool:
    """With room for as many workers as the budget allows, where there is one."""
    if planner.budget is None or not _limited(planner):
        return pool
    return msgspec.structs.replace(pool, places=int(planner.budget // (pool.gpus or 1)))


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
            "or lower the counts of fleet.pools (--workers)"
        )


def _limited(planner: PlannerConfig) -> bool:
    """A planner may start workers, as far as its budget goes."""
    return planner.acts != "off" and planner.budget is not None


def _tiers(pool: PoolConfig) -> Iterator[tuple[str, int]]:
    """What is kept where, by key."""
    for tier in TIERS[1:]:
        name = f"kv_{tier}_tokens"
        yield name, getattr(pool, name)


def _hold_a_block(number: int, pool: PoolConfig, block_size: int) -> None:
    for name, tokens in _tiers(pool):
        if 0 < tokens < block_size:
            raise ConfigError(
                f"fleet.pools[{number}].{name}: {tokens} tokens hold no block of {block_size}: "
                "raise it, leave it out, or lower worker.block_size"
            )


def _settled(fault: FaultConfig, names: Sequence[str]) -> FaultConfig:
    """With its workers by name."""
    indices = [None if one is None else worker_index(one, names) for one in (fault.worker, fault.peer)]
    worker, peer = (None if index is None else names[index] for index in indices)
    return msgspec.structs.replace(fault, worker=worker, peer=peer)


def _faulty(key: str, fault: FaultConfig, names: Sequence[str]) -> Iterator[Problem]:
    yield from _times(key, {"at_s": fault.at_s, "for_s": fault.for_s, "delay_s": fault.delay_s})
    if fault.for_s == 0:
        yield Problem(f"{key}.for_s", "0: a fault that lasts no time; leave it out for one that lasts for good")
    if not fault.factor > 0 or not isfinite(fault.factor):
        yield Problem(f"{key}.factor", f"{fault.factor}: step times are multiplied by it, so it must be more than 0")
    if not 0 <= fault.share <= 1:
        yield Problem(f"{key}.share", f"{fault.share}: a share is between 0 and 1")
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


def _counts(key: str, values: Mapping[str, float | None]) -> Iterator[Problem]:
    for name, value in values.items():
        if value is not None and value < 1:
            yield Problem(f"{key}.{name}".lstrip("."), f"{value}; at least 1 is needed")


def _times(key: str, values: Mapping[str, float | None]) -> Iterator[Problem]:
    for name, value in values.items():
        if value is not None and (value < 0 or not isfinite(value)):
            yield Problem(f"{key}.{name}", f"{value}; a time is 0 or more seconds")
