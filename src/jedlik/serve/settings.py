"""Flags, environment, file and defaults become one `ServeConfig`, in this order of precedence, parsed once.

Promises: an unknown key or variable stops the start and names where it stood and the nearest match; every value knows
its source (`jedlik config explain`) and is within its field's range. Sizes may be written 2GiB; a value of `none`
clears an optional one. What only several settings together can get wrong is checked here, once.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import yaml

from jedlik.core.config import ServeConfig, SimulationConfig
from jedlik.core.errors import ConfigError, did_you_mean
from jedlik.serve import access, pools, tiers, values
from jedlik.serve.engines import kind_of
from jedlik.serve.fields import Field, fields

OTHER_VARIABLES = {"JEDLIK_HOME", "JEDLIK_CONFIG", "JEDLIK_API_KEY"}
SECRET = {"api_keys"}
"""Never shown, in messages neither."""


class Value(msgspec.Struct, frozen=True):
    """A value before conversion, and where it was said."""

    raw: object
    source: str


class Settings(msgspec.Struct, frozen=True):
    config: ServeConfig
    sources: dict[str, str]
    """The source of every field, by key."""
    simulation: SimulationConfig = SimulationConfig()
    """The file's `simulation:` section, for `jedlik simulate`."""


def settle(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    file: Path | None,
    simulated: bool = False,
    unnamed: str | None = None,
) -> Settings:
    """The configuration. `flags` maps keys (worker.block_size) to what was given. `simulated`: pools may differ, and
    without a model they serve the first one's profile. `unnamed`: the model where nobody names one. Raises ConfigError.
    """
    known = {field.key: field for field in fields()}
    read = from_file(file) if file else {}
    listed = read.pop(pools.POOLS) if pools.POOLS in read else ()
    configured = pools.read_pools(listed, file) if file else ()
    simulation = SimulationConfig()
    if file and pools.SIMULATION in read:
        simulation = pools.read_simulation(read.pop(pools.SIMULATION), file)
    found = leaves(read, file, known) if file else {}
    found |= from_environment(environ, known)
    found |= {
        key: Value(raw, "argument MODEL" if key == "model" else f"flag {known[key].flag}") for key, raw in flags.items()
    }
    tree: dict[str, object] = {}
    for key, value in found.items():
        plant(tree, known[key].path, convert(known[key], value))
    named = [pool.model or (pool.profile if simulated else None) for pool in configured[:1]]
    tree.setdefault("model", next(filter(None, named), unnamed))
    if tree["model"] is None:
        raise ConfigError("no model: say which, as in `jedlik serve smollm2-135m` (`jedlik model list` shows more)")
    config = msgspec.convert(tree, ServeConfig)
    if configured and file:
        config = pools.pooled(config, pools.with_worker_settings(configured, listed, config.worker))
        several = len({pool.model for pool in config.worker_pools}) > 1
        pools.check(config, None if several and not simulated else simulation, file)
        config = config if simulated else pools.served(config, file)
    check(msgspec.structs.replace(config, pools=()) if simulated else config)  # sim/setup knows what a worker takes
    return Settings(config, {key: found[key].source if key in found else "default" for key in known}, simulation)


class _Texts(yaml.SafeLoader):
    """Scalars stay texts, but for null: `values` alone says what is a number. A key may stand once."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [pair for pair in known if pair[0].endswith((":null", ":merge"))]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        lines: dict[object, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in lines and key.tag != "tag:yaml.org,2002:merge":
                raise _Twice(f"{line}: {key.value!r} is there twice, first on line {lines[key.value]}: remove one")
            lines[key.value] = line
        return super().construct_mapping(node, deep=deep)


class _Twice(Exception):
    """A key is there twice."""


def from_file(file: Path) -> dict[object, object]:
    """The file as a tree of texts. Raises ConfigError."""
    try:
        tree = yaml.load(file.read_text("utf-8-sig"), _Texts) or {}  # noqa: S506
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file (given by --config)") from None
    except _Twice as error:
        raise ConfigError(f"{file}:{error}") from None
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"{error.problem_mark.line + 1}:"
        raise ConfigError(f"{file}:{line} cannot be read as YAML: {error.problem}") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: expected a mapping of settings at the top, such as `port: 8000`")
    return tree


def leaves(tree: Mapping[object, object], file: Path, known: Mapping[str, Field]) -> dict[str, Value]:
    """Return the values of a file, by key. Raises ConfigError for a key that nobody reads."""
    found = dict(_leaves(tree, (), known))
    for key in found:
        if key not in known:
            raise ConfigError(
                f"{file}: unknown key {key!r}{did_you_mean(key, [*known, pools.POOLS, pools.SIMULATION])}"
            )
    return {key: Value(raw, f"file {file}") for key, raw in found.items()}


def from_environment(environ: Mapping[str, str], known: Mapping[str, Field]) -> dict[str, Value]:
    keys = {field.variable: field.key for field in known.values()}
    found = {}
    for name in sorted(environ):
        if name in keys:
            found[keys[name]] = Value(environ[name], f"environment {name}")
        elif name.startswith("JEDLIK_") and name not in OTHER_VARIABLES:
            raise ConfigError(f"environment: unknown variable {name}{did_you_mean(name, keys)}")
    return found


def convert(field: Field, value: Value) -> object:
    """Return a value in the field's type and range. Raises ConfigError naming the key and its source."""
    try:
        return values.read(field.type, value.raw, field.key)
    except values.WrongValue as error:
        raw = "..." if field.key in SECRET else repr(value.raw)[:80]
        raise ConfigError(f"{value.source}: {field.key} = {raw}: {error.text}") from None


def check(config: ServeConfig) -> None:
    """Raise ConfigError for what several settings together get wrong."""
    kind_of(config)
    tiers.check(config)
    access.check(config)
    if not config.roles and config.planner.acts != "on":
        raise ConfigError("there would be no worker and nobody to answer: set --workers 1 or more")
    if set(config.roles) == {"prefill"}:
        raise ConfigError("prefill workers alone answer nothing: add --decode 1, or --workers 1")
    if set(config.roles) == {"decode"}:
        raise ConfigError("decode workers alone have nobody who prefills: add --prefill 1, or use --workers instead")
    check_planner(config)
    if config.orphan_s and config.run_dir is None:
        raise ConfigError("orphan_s needs run_dir: a new server finds what was left running by its --run-dir")
    if config.gateway.silent_fence_s < config.gateway.silent_suspect_s:
        raise ConfigError(
            f"gateway.silent_fence_s is {config.gateway.silent_fence_s:g}, less than gateway.silent_suspect_s "
            f"({config.gateway.silent_suspect_s:g}): a worker is suspect first, and cut off later"
        )
    if not loopback(config.host) and not config.api_keys and not config.allow_open:
        raise ConfigError(
            f"host {config.host} can be reached from other machines and no API key is set: "
            "set --api-keys KEY=TENANT, or say --allow-open if everybody who reaches the port may use it"
        )


def check_planner(config: ServeConfig) -> None:
    """Raise ConfigError for settings of the planner that can't be."""
    planner = config.planner
    if planner.acts != "off" and config.gateway.report_s == 0:
        raise ConfigError(
            "gateway.report_s is 0: gateways would tell the planner nothing; set it, or --planner.mode off"
        )
    if planner.budget is None:
        return
    wanted = {"workers at start": len(config.roles), "planner.min_workers": planner.min_workers}
    if set(config.roles) != {"both"}:
        wanted["planner.min_prefill and planner.min_decode together"] = planner.min_prefill + planner.min_decode
    for what, count in wanted.items():
        if count > planner.budget:
            raise ConfigError(
                f"{what}: {count}; planner.budget has room for {planner.budget:g}: raise it, or ask for less"
            )


def loopback(host: str) -> bool:
    return host in ("localhost", "::1") or bool(re.fullmatch(r"127(\.\d{1,3}){3}", host))


def explained(settings: Settings) -> Iterable[str]:
    """Every setting, its value and where it came from; secrets as stars."""
    for field in fields():
        value = value_of(settings.config, field)
        value = ",".join(value) if isinstance(value, tuple) else value
        shown = ("***" if value else "none") if field.key in SECRET else "none" if value in (None, "") else value
        yield f"{field.key:32} {shown!s:24} {settings.sources[field.key]}"


def value_of(config: ServeConfig, field: Field) -> object:
    """Return the value of a field."""
    value: object = config
    for part in field.path:
        value = getattr(value, part)
    return value


def plant(tree: dict[str, object], path: tuple[str, ...], value: object) -> None:
    for part in path[:-1]:
        below = tree.setdefault(part, {})
        assert isinstance(below, dict)
        tree = below
    tree[path[-1]] = value


def _leaves(
    tree: Mapping[object, object], above: tuple[str, ...], known: Mapping[str, Field]
) -> Iterable[tuple[str, object]]:
    for name, value in tree.items():
        path = (*above, str(name))
        key = ".".join(path)
        if isinstance(value, dict) and key not in known:
            yield from _leaves(value, path, known)
        elif value is None and any(name.startswith(f"{key}.") for name in known):
            continue  # a heading with nothing below it
        else:
            yield key, value
