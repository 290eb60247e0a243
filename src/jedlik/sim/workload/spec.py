"""Generators by name: `poisson:rate=5,input=1000,output=100,duration=600` becomes a value that makes a workload."""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec

from jedlik.core.errors import ConfigError, did_you_mean
from jedlik.sim.workload.offered import Workload
from jedlik.sim.workload.options import WorkloadOptions

Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0)]
Whole = Annotated[int, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Generator(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a subclass are the keys of its spec."""

    def workload(self, options: WorkloadOptions, seed: int) -> Workload:
        raise NotImplementedError


def split(source: str) -> tuple[str, str]:
    """The name before the first colon, if it looks like one, and the rest; "" and all of it if it does not."""
    name, colon, rest = source.partition(":")
    return (name, rest) if name.isidentifier() and (colon or not rest) else ("", source)


def parse(source: str, known: Mapping[str, type[Generator]]) -> Generator:
    """Raises ConfigError that names the generator, the key and the nearest match."""
    name, rest = split(source)
    if name not in known:
        raise ConfigError(
            f"{source}: no such file and no such generator{did_you_mean(name, known)}; known: {', '.join(known)}"
        )
    kind, values = known[name], dict(pairs(name, rest))
    for key in values:
        if key not in kind.__struct_fields__:
            raise ConfigError(
                f"{name}: unknown key {key!r}{did_you_mean(key, kind.__struct_fields__)}; "
                f"known: {', '.join(kind.__struct_fields__)}"
            )
    try:
        made = msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}; give key=value pairs, as in {name}:rate=5") from None
    for key in kind.__struct_fields__:
        value = getattr(made, key)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name}: {key} is {value}; give a finite number")
    return made


def pairs(name: str, text: str) -> Iterable[tuple[str, str]]:
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise ConfigError(f"{name}: {part!r} is not key=value; separate pairs by commas")
        yield key.strip(), value.strip()
