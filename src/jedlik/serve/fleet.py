"""The `fleet:` section of a configuration file: what `jedlik simulate` runs, read as strictly as everything else.

A list of pools can't be a flag or a variable, so it has no leaf in `fields`. What is wrong is named with file, line,
key and the nearest match.
"""

import re
import typing
from pathlib import Path
from typing import NoReturn

import yaml

from jedlik.core.config import FleetConfig
from jedlik.core.errors import ConfigError
from jedlik.perf.profile import Profile
from jedlik.profiles.catalogue import lookup
from jedlik.serve import values
from jedlik.sim.setup import problems

SECTION = "fleet"
STEP = re.compile(r"[^.\[\]]+")


def read(tree: object, file: Path) -> FleetConfig:
    """The section, checked. Raises ConfigError."""
    try:
        fleet = typing.cast(FleetConfig, values.read(FleetConfig, tree))
    except values.WrongValue as error:
        refuse(file, error.key, error.text)
    for problem in problems(fleet):
        refuse(file, problem.key, problem.text)
    return fleet


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


def line_of(text: str, key: str) -> int:
    """Return the line, from 1, of a key such as fleet.pools[0].count, or of the nearest that exists."""
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
