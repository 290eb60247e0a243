"""The candidates of `jedlik plan`: profiles named or found by model, each with what its GPU costs in an hour.

Candidates are the pools of the file, or --profiles (names, wildcards), or all profiles of --model.
"""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from jedlik.core.config import PoolConfig, ServeConfig
from jedlik.core.errors import ConfigError, did_you_mean
from jedlik.perf.profile import Profile
from jedlik.profiles import catalogue
from jedlik.serve.pools import priced
from jedlik.serve.values import number
from jedlik.sim.sizing import SizedEngine

GPU_HOUR_USD: Mapping[str, float] = {
    "h100": 1.30,
    "h200": 1.41,
    "b200": 1.95,
    "b300": 2.34,
    "gb200": 2.21,
    "gb300": 2.65,
}
"""Total cost of ownership per GPU and hour, as SemiAnalysis uses it."""
PRICES_FROM = "SemiAnalysis (total cost of ownership)"


def pools(
    config: ServeConfig, file: Path | None, profiles: str | None, model: str | None
) -> list[tuple[PoolConfig, Profile]]:
    """Return the pools that may be taken, each profile once. Raises ConfigError."""
    if profiles or model:
        names = _named(profiles) if profiles else _of_model(model or "")
        found = [(PoolConfig(name="any", count=1, profile=name), catalogue.lookup(name)) for name in names]
        start_s = (config.pools or [found[0][0]])[0].start_s
        return [(msgspec.structs.replace(pool, start_s=start_s), profile) for pool, profile in found]
    if not config.pools or file is None:
        raise ConfigError(
            "nothing to choose from: name profiles with --profiles qwen3-32b-fp8/h100/*,qwen3-32b-fp8/h200/tp2 or a "
            "model with --model qwen3-32b-fp8 (`jedlik profile --list` shows them), or a --config with `pools:`"
        )
    by_name = priced(config.worker_pools, file)
    named = [msgspec.structs.replace(pool, profile=pool.profile or config.profile) for pool in config.pools]
    kinds = dict.fromkeys(map(_kind, named))
    return [(pool, by_name[pool.profile or ""]) for pool in kinds]


def engines(found: Sequence[tuple[PoolConfig, Profile]], stated: Mapping[str, float]) -> tuple[SizedEngine, ...]:
    """Return the candidates as engines, with labels that differ, and prices. Raises ConfigError."""
    labels = _labels([profile for _, profile in found])
    made = []
    for label, (pool, profile) in zip(labels, found, strict=True):
        engine = SizedEngine(label=label, profile=profile, pool=pool, gpu_hour_usd=_price(profile.device, stated))
        if not engine.kv_tokens:
            raise ConfigError(
                f"profile {pool.profile} does not say how large its KV cache is: name it in a pool with "
                "kv_cache_bytes in the `pools:` of --config"
            )
        made.append(engine)
    return tuple(made)


def _labels(profiles: Sequence[Profile]) -> list[str]:
    """Device and parallelism; then backend, model and a number, where it takes them to tell candidates apart."""
    labels = [f"{p.device} tp{p.tp}" + (f"ep{p.ep}" if p.ep > 1 else "") for p in profiles]
    kinds = {(label, profile.backend) for label, profile in zip(labels, profiles, strict=True)}
    several = {label for label in labels if sum(kind[0] == label for kind in kinds) > 1}
    labels = [f"{a} {p.backend}" if a in several else a for a, p in zip(labels, profiles, strict=True)]
    models = len({profile.model for profile in profiles})
    if models > 1:
        labels = [a if labels.count(a) == 1 else f"{a} {p.model}" for a, p in zip(labels, profiles, strict=True)]
    return [a if labels.count(a) == 1 else f"{a} no. {labels[: n + 1].count(a)}" for n, a in enumerate(labels)]


def prices(stated: Sequence[str]) -> dict[str, float]:
    """NAME=USD, as --cost says them. Raises ConfigError."""
    found = {}
    for text in stated:
        for part in text.split(","):
            name, _, value = part.partition("=")
            try:
                found[name.strip().lower()] = usd = number(value.strip())
            except ValueError:
                usd = -1.0
            if not 0 < usd < 1e6 or not name.strip():
                raise ConfigError(f"--cost {text}: expected DEVICE=USD per GPU and hour, as in --cost h100=1.30")
    return found


def _price(device: str, stated: Mapping[str, float]) -> float:
    price = stated.get(device.lower(), GPU_HOUR_USD.get(device.lower()))
    if price is None:
        raise ConfigError(
            f"what a {device} costs in an hour is not known: say --cost {device}=USD "
            f"(known are {', '.join(GPU_HOUR_USD)})"
        )
    return price


def _kind(pool: PoolConfig) -> PoolConfig:
    """Pools that differ only in this are one candidate."""
    return msgspec.structs.replace(pool, name="any", count=1, min=None, max=None, role="both", host=None)


def _named(text: str) -> list[str]:
    names = [name for part in text.split(",") if part.strip() for name in _matching(part.strip())]
    if not names:
        raise ConfigError("--profiles names nothing: as in --profiles qwen3-32b-fp8/h100/*,qwen3-32b-fp8/h200/tp2")
    return list(dict.fromkeys(names))


def _matching(pattern: str) -> Iterator[str]:
    if not any(sign in pattern for sign in "*?["):
        yield pattern
        return
    found = [name for name in catalogue.names() if fnmatchcase(name, pattern)]
    if not found:
        raise ConfigError(f"no profile is like {pattern!r}; `jedlik profile --list` shows all")
    yield from found


def _of_model(model: str) -> list[str]:
    found = [name for name in catalogue.names() if catalogue.lookup(name).model == model]
    if not found:
        known = sorted({catalogue.lookup(name).model for name in catalogue.names()})
        raise ConfigError(
            f"there are no profiles of model {model!r}{did_you_mean(model, known)}; known are {', '.join(known)}; "
            "rooflines and files can be named with --profiles"
        )
    return found
