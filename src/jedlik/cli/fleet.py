"""The `fleet:` section of a configuration file: what `jedlik simulate` runs, read as strictly as everything else.

A list of pools can't be a flag or a variable, so it has no leaf in `fields`. What is wrong is named with file, line,
key and the nearest match.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, get_args, get_type_hints

import msgspec
import yaml

from jedlik.core.config import FaultConfig, FleetConfig
from jedlik.core.errors import ConfigError
from jedlik.core.nearest import nearest
from jedlik.perf.profile import Profile
from jedlik.profiles.catalogue import lookup
from jedlik.sim.setup import problems

SECTION = "fleet"
STEP = re.compile(r"[^.\[\]]+")


class Unknown(msgspec.Struct, frozen=True):
    """A key that the schema does not have."""

    key: str
    """pools[0].cout"""
    known: tuple[str, ...]


def read(tree: object, file: Path) -> FleetConfig:
    """The section, checked. Raises ConfigError."""
    for unknown in unknown_keys(tree, FleetConfig):
        name = unknown.key.rpartition(".")[2]
        refuse(file, unknown.key, f"unknown key {name!r}{nearest(name, unknown.known)}")
    try:
        fleet = msgspec.convert(tree, FleetConfig, strict=False)  # 1.25e9 is text to YAML 1.1
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$")
        refuse(file, where.rstrip("`").lstrip("."), plain(text))
    for problem in problems(fleet):
        refuse(file, problem.key, problem.text)
    return fleet


def plain(text: str) -> str:
    """msgspec's words in ours."""
    for theirs, ours in (("`", ""), ("Expected object", "expected a mapping"), ("Object missing", "missing")):
        text = text.replace(theirs, ours)
    kinds = get_args(get_type_hints(FaultConfig)["kind"])
    return f"{text}: it is one of {', '.join(kinds)}" if text.startswith("Invalid enum") else text


def priced(fleet: FleetConfig, file: Path) -> dict[str, Profile]:
    """Every pool's profile, by the name it gives. Raises ConfigError."""
    found: dict[str, Profile] = {}
    for number, pool in enumerate(fleet.pools):
        try:
            found[pool.profile] = lookup(pool.profile)
        except ConfigError as error:
            refuse(file, f"pools[{number}].profile", str(error))
    return found


def refuse(file: Path, key: str, text: str) -> NoReturn:
    """Raise ConfigError for a key below `fleet`, with its line."""
    full = f"{SECTION}.{key}".rstrip(".")
    raise ConfigError(f"{file}:{line_of(file.read_text(), full)}: {full}: {text}")


def unknown_keys(tree: object, kind: object, key: str = "") -> Iterator[Unknown]:
    """Of a tree that should become a `kind`: a struct, or a tuple of structs."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if isinstance(tree, dict):
            types = {info.name: info.type for info in msgspec.structs.fields(kind)}
            for name, value in tree.items():
                path = f"{key}.{name}".lstrip(".")
                if name in types:
                    yield from unknown_keys(value, types[name], path)
                else:
                    yield Unknown(path, tuple(types))
    elif isinstance(tree, list) and get_args(kind):
        for number, value in enumerate(tree):
            yield from unknown_keys(value, get_args(kind)[0], f"{key}[{number}]")


def line_of(text: str, key: str) -> int:
    """Of fleet.pools[0].count, from 1; of the nearest that exists, where it does not."""
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
