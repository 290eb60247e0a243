"""The sections `pools:` and `simulation:` of a configuration file, read as strictly as everything else.

A list of pools can't be a flag or a variable, so it has no leaf in `fields`. What is wrong is named with file, line,
key and the nearest match.
"""

import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import msgspec
import yaml

from jedlik.core.config import INHERITED, PoolConfig, ServeConfig, SimulationConfig, WorkerConfig
from jedlik.core.errors import ConfigError
from jedlik.perf.profile import Profile
from jedlik.profiles.catalogue import lookup
from jedlik.serve import values
from jedlik.sim.setup import pool_problems, simulation_problems

POOLS, SIMULATION = "pools", "simulation"
STEP = re.compile(r"[^.\[\]]+")


def read_pools(tree: object, file: Path) -> tuple[PoolConfig, ...]:
    """Return the pools as a file has them. Raises ConfigError."""
    return typing.cast(tuple[PoolConfig, ...], _read(tuple[PoolConfig, ...], tree, POOLS, file))


def read_simulation(tree: object, file: Path) -> SimulationConfig:
    """Return the section of the simulated world. Raises ConfigError."""
    return typing.cast(SimulationConfig, _read(SimulationConfig, tree, SIMULATION, file))


def with_worker_settings(pools: tuple[PoolConfig, ...], tree: object, above: WorkerConfig) -> tuple[PoolConfig, ...]:
    """Return pools whose `worker` has the file's settings where the pool's own, in `tree`, leaves them out."""
    found = []
    for pool, raw in zip(pools, typing.cast(list[Mapping[str, Mapping[str, object]]], tree), strict=True):
        if pool.worker is not None:
            own = {name: getattr(pool.worker, name) for name in raw["worker"]}
            pool = msgspec.structs.replace(pool, worker=msgspec.structs.replace(above, **own))
        found.append(pool)
    return tuple(found)


def pooled(config: ServeConfig, pools: tuple[PoolConfig, ...]) -> ServeConfig:
    """Return the settings with these pools: the planner keeps at least the sum of their `min`."""
    least = {role: sum(pool.min or 0 for pool in pools if pool.role == role) for role in ("prefill", "decode", "both")}
    planner = config.planner
    planner = msgspec.structs.replace(
        planner,
        min_workers=max(planner.min_workers, sum(least.values())),
        min_prefill=max(planner.min_prefill, least["prefill"]),
        min_decode=max(planner.min_decode, least["decode"]),
    )
    return msgspec.structs.replace(config, pools=pools, planner=planner)


def check(config: ServeConfig, simulation: SimulationConfig | None, file: Path) -> None:
    """Raise ConfigError for what no field of the two sections can say alone."""
    for problem in pool_problems(config):
        refuse(file, problem.key, problem.text)
    for problem in simulation_problems(config.worker_pools, simulation) if simulation is not None else ():
        refuse(file, problem.key, problem.text)


def served(config: ServeConfig, file: Path) -> ServeConfig:
    """Return the settings of a server, whose pools may differ where nobody scales. Raises ConfigError with a line."""
    first, *others = config.worker_pools
    for number, pool in enumerate((first, *others)):
        roles = {other.role for other in (first, *others) if other.model == pool.model}
        if len(roles) == 1 and pool.role != "both":
            lacks = "prefill" if pool.role == "decode" else "decode"
            refuse(
                file, f"{POOLS}[{number}].role", f"all workers of {pool.model} only {pool.role}: add a pool of {lacks}"
            )
    if config.planner.budget is None and config.planner.acts == "off":
        return config
    for number, pool in enumerate(others, 1):
        for name in INHERITED:
            if getattr(pool, name) != getattr(first, name):
                differs = (
                    "differs from the first pool's, and a planner moves workers of one model and one configuration"
                )
                refuse(file, f"{POOLS}[{number}].{name}", f"{differs}: set planner.mode off and no planner.budget")
    return msgspec.structs.replace(config, **{name: getattr(first, name) for name in INHERITED})


def pool_configs(config: ServeConfig) -> dict[str, ServeConfig]:
    """Return the configuration of each pool's workers, by the pool's name."""
    return {
        pool.name: msgspec.structs.replace(config, **{name: getattr(pool, name) for name in INHERITED})
        for pool in config.worker_pools
    }


def priced(pools: tuple[PoolConfig, ...], file: Path) -> dict[str, Profile]:
    """Return the profile of every pool, by the name that the pool gives. Raises ConfigError."""
    found: dict[str, Profile] = {}
    for number, pool in enumerate(pools):
        if pool.profile is None:
            refuse(file, f"{POOLS}[{number}].profile", "is missing: a simulation needs the time of steps")
        try:
            found[pool.profile] = lookup(pool.profile)
        except ConfigError as error:
            refuse(file, f"{POOLS}[{number}].profile", str(error))
    return found


def refuse(file: Path, key: str, text: str) -> NoReturn:
    """Raise ConfigError for a key of the file, with its line."""
    raise ConfigError(f"{file}:{line_of(file.read_text('utf-8-sig'), key)}: {key}: {text}")


def _read(kind: object, tree: object, section: str, file: Path) -> object:
    try:
        return values.read(kind, tree, section)
    except values.WrongValue as error:
        refuse(file, error.key or section, error.text)


def line_of(text: str, key: str) -> int:
    """Return the line of a key such as pools[0].count, from 1; of the nearest that exists where it does not."""
    node, line = yaml.compose(text, Loader=yaml.SafeLoader), 1
    for step in STEP.findall(key):
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == step), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and step.isdigit() and int(step) < len(node.value):
            node = node.value[int(step)]
            line = node.start_mark.line + 1
        else:
            break
    return line
