"""Flags, environment, file and defaults become one `ServeConfig`, in this order of precedence, parsed once.

Promises: an unknown key or variable stops the start and names where it stood and the nearest match; every value knows
its source (`jedlik config explain`). Sizes may be written 2GiB; a value of `none` clears an optional one.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml

from jedlik.cli import fleet as fleets
from jedlik.cli import tiers
from jedlik.cli.fields import Field, fields, type_name
from jedlik.cli.units import size_bytes
from jedlik.core.config import FleetConfig, ServeConfig
from jedlik.core.errors import ConfigError
from jedlik.core.nearest import nearest

OTHER_VARIABLES = {"JEDLIK_HOME", "JEDLIK_CONFIG", "JEDLIK_API_KEY"}
T = TypeVar("T")


class Value(msgspec.Struct, frozen=True):
    """A value before conversion, and where it was said."""

    raw: object
    source: str


class Settings(msgspec.Struct, frozen=True):
    config: ServeConfig
    sources: dict[str, str]
    """By key, for every field."""
    fleet: FleetConfig | None = None
    """The file's `fleet:` section, for `jedlik simulate`."""


def settle(
    flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None, simulated: bool = False
) -> Settings:
    """The configuration. `flags` maps keys (worker.block_size) to what was given. `simulated`: a fleet that names no
    model serves its first pool's profile. Raises ConfigError.
    """
    known = {field.key: field for field in fields()}
    read = from_file(file) if file else {}
    fleet = fleets.read(read.pop(fleets.SECTION), file) if file and fleets.SECTION in read else None
    said = leaves(read, file, known) if file else {}
    said |= from_environment(environ, known)
    said |= {
        key: Value(raw, "argument MODEL" if key == "model" else f"flag {known[key].flag}") for key, raw in flags.items()
    }
    tree: dict[str, object] = {}
    for key, value in said.items():
        plant(tree, known[key].path, convert(known[key], value))
    if "model" not in tree and simulated and fleet:
        tree["model"] = fleet.pools[0].profile
    if "model" not in tree:
        raise ConfigError("no model: say which, as in `jedlik serve smollm2-135m` (`jedlik model list` shows more)")
    config = msgspec.convert(tree, ServeConfig)
    check(config)
    return Settings(config, {key: said[key].source if key in said else "default" for key in known}, fleet)


def from_file(file: Path) -> dict[object, object]:
    """The file as a tree. Raises ConfigError."""
    try:
        tree = yaml.safe_load(file.read_text()) or {}
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file (given by --config)") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: expected a mapping of settings at the top, found {type(tree).__name__}")
    return tree


def leaves(tree: Mapping[object, object], file: Path, known: Mapping[str, Field]) -> dict[str, Value]:
    """What a file says, by key. Raises ConfigError for a key that nobody reads."""
    found = dict(_leaves(tree, (), known))
    for key in found:
        if key not in known:
            raise ConfigError(f"{file}: unknown key {key!r}{nearest(key, [*known, fleets.SECTION])}")
    return {key: Value(raw, f"file {file}") for key, raw in found.items()}


def from_environment(environ: Mapping[str, str], known: Mapping[str, Field]) -> dict[str, Value]:
    keys = {field.variable: field.key for field in known.values()}
    found = {}
    for name in sorted(environ):
        if name in keys:
            found[keys[name]] = Value(environ[name], f"environment {name}")
        elif name.startswith("JEDLIK_") and name not in OTHER_VARIABLES:
            raise ConfigError(f"environment: unknown variable {name}{nearest(name, keys)}")
    return found


def convert(field: Field, value: Value) -> object:
    """To the field's type. Raises ConfigError naming the key and its source."""
    raw = value.raw
    try:
        if isinstance(raw, str):
            if raw.lower() in ("none", "null") and _optional(field.type):
                return None
            if field.path[-1].endswith("_bytes"):
                raw = size_bytes(raw)
            elif type_name(field.type) == "key=tenant,...":
                raw = pairs(raw)
            elif field.type is bool:
                raw = {"yes": "true", "no": "false", "on": "true", "off": "false"}.get(raw.lower(), raw)
        return msgspec.convert(raw, field.type, strict=not isinstance(value.raw, str))  # type: ignore[call-overload,unused-ignore]
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"{value.source}: {field.key} = {value.raw!r}: {error}") from error


def pairs(text: str) -> dict[str, str]:
    """`key=tenant,key=tenant`; a key alone has the tenant "default". Raises ValueError."""
    found = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, _, tenant = part.partition("=")
        if not key:
            raise ValueError("expected key=tenant,key=tenant")
        found[key] = tenant or "default"
    return found


def check(config: ServeConfig) -> None:
    """What types can't say. Raises ConfigError."""
    limits: list[tuple[str, float, float]] = [
        ("workers", config.workers or 0, 0),
        ("prefill", config.prefill, 0),
        ("decode", config.decode, 0),
        ("kv_host_bytes", config.kv_host_bytes or 0, 0),
        ("worker.block_size", config.worker.block_size, 1),
        ("worker.max_sequences", config.worker.max_sequences, 1),
        ("worker.max_step_tokens", config.worker.max_step_tokens, 1),
        ("gateway.max_attempts", config.gateway.max_attempts, 1),
        ("drain_s", config.drain_s, 0),
        ("orphan_s", config.orphan_s or 0, 0),
        ("planner.budget", 1 if config.planner.budget is None else config.planner.budget, 1),
        ("planner.min_workers", config.planner.min_workers, 0),
        ("planner.min_prefill", config.planner.min_prefill, 0),
        ("planner.min_decode", config.planner.min_decode, 0),
        ("planner.start_s", config.planner.start_s or 0, 0),
        ("planner.drain_s", config.planner.drain_s, 0),
        ("planner.gpu_hour_cost", config.planner.gpu_hour_cost or 0, 0),
        ("gateway.report_s", config.gateway.report_s, 0),
    ]
    for key, value, least in limits:
        if value < least:
            raise ConfigError(f"{key} is {value}; at least {least} is needed")
    if not 0 <= config.port <= 65535:
        raise ConfigError(f"port is {config.port}; ports are 0 (any free one) to 65535")
    tiers.check(config)
    if set(config.roles) == {"prefill"}:
        raise ConfigError("prefill workers alone answer nothing: add --decode 1, or --workers 1")
    if set(config.roles) == {"decode"}:
        raise ConfigError("decode workers alone have nobody who prefills: add --prefill 1, or use --workers instead")
    check_planner(config)
    if config.orphan_s and config.run_dir is None:
        raise ConfigError("orphan_s needs run_dir: a new server finds what was left running by its --run-dir")
    if config.speedup <= 0:
        raise ConfigError(f"speedup is {config.speedup}; it must be more than 0")
    if not loopback(config.host) and not config.api_keys and not config.allow_open:
        raise ConfigError(
            f"host {config.host} can be reached from other machines and no API key is set: "
            "set --api-keys KEY=TENANT, or say --allow-open if everybody who reaches the port may use it"
        )


def check_planner(config: ServeConfig) -> None:
    """Raises ConfigError."""
    planner = config.planner
    if not 0 < planner.attainment < 1:
        raise ConfigError(f"planner.attainment is {planner.attainment}; it is a share: more than 0 and less than 1")
    if planner.tick_s <= 0:
        raise ConfigError(f"planner.tick_s is {planner.tick_s}; it must be more than 0")
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


def value_of(config: ServeConfig, field: Field) -> object:
    """What a field came out as."""
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
        else:
            yield key, value


def _optional(kind: object) -> bool:
    return "None" in str(kind)
