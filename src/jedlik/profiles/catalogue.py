"""Profiles by name: shipped ones (MODEL/GPU/PARALLELISM), files that `jedlik profile` wrote, rooflines on demand.

`roofline:MODEL[-bf16|-fp8|-fp4]/GPU/tpN[epN]` takes MODEL from the shapes shipped here, or as a path to a Hugging Face
config.json or the directory that holds it.
"""

import json
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec

from jedlik.core.errors import ConfigError, did_you_mean
from jedlik.perf import roofline
from jedlik.perf.profile import Profile, from_json
from jedlik.perf.roofline import Gpu, ModelShape
from jedlik.profiles.shapes import shape

ROOFLINE = "roofline:"
PARALLEL = re.compile(r"tp([1-9]\d{0,3})(?:ep([1-9]\d{0,3}))?")
DTYPES = {"-bf16": "bfloat16", "-fp8": "fp8", "-fp4": "fp4"}


def names() -> list[str]:
    """Return the names of all shipped profiles, in order."""
    return sorted(_shipped())


def models() -> list[str]:
    """Return the models whose shapes are shipped, for rooflines."""
    return sorted(_shapes())


def gpus() -> list[str]:
    """Return the GPUs whose constants are shipped, for rooflines."""
    return sorted(_gpus())


def lookup(name: str) -> Profile:
    """Return a shipped profile, a roofline or a file's profile. Raises ConfigError with the nearest names."""
    if name.startswith(ROOFLINE):
        return _roofline(name)
    if name in _shipped():
        return _shipped()[name]
    path = Path(name).expanduser()
    if path.is_file():
        return from_json(path.read_bytes(), name)
    if name.endswith(".json") or name.startswith((".", "/", "~")):
        raise ConfigError(f"profile {name}: no such file; `jedlik profile MODEL --out {name}` writes one")
    raise ConfigError(
        f"unknown profile {name!r}{did_you_mean(name, _shipped())}{_instead(name)}; `jedlik profile --list` shows all"
    )


def _instead(name: str) -> str:
    """Return a hint at the roofline for a name without profile, where one can be computed."""
    try:
        _roofline(ROOFLINE + name)
    except ConfigError:
        return ""
    return f"; {ROOFLINE}{name} computes one"


def _roofline(name: str) -> Profile:
    parts = name.removeprefix(ROOFLINE).rsplit("/", 2)
    if len(parts) != 3 or not (parallel := PARALLEL.fullmatch(parts[2])):
        raise ConfigError(f"{name!r}: expected roofline:MODEL/GPU/tpN, as in roofline:llama-3.1-8b/h100/tp1")
    model, gpu, _ = parts
    if gpu not in _gpus():
        raise ConfigError(f"{name!r}: unknown GPU {gpu!r}{did_you_mean(gpu, _gpus())}; known are {', '.join(gpus())}")
    tp, ep = int(parallel[1]), int(parallel[2] or 1)
    if ep not in (1, tp):
        raise ConfigError(
            f"{name!r}: experts are divided over all {tp} GPUs of a worker or not at all: ep{tp} or nothing"
        )
    return msgspec.structs.replace(roofline.profile(_shape(model, name), _gpus()[gpu], tp, ep), name=name)


def _shape(model: str, name: str) -> ModelShape:
    """Return a model's shape; a suffix of its name is the dtype of its weights, where not as published."""
    if found := _resolve(model):
        return shape(*found, None, name)
    for suffix, dtype in DTYPES.items():
        if model.endswith(suffix) and (found := _resolve(model.removesuffix(suffix))):
            return shape(model, found[1], dtype, name)
    raise ConfigError(
        f"{name!r}: unknown model {model!r}{did_you_mean(model, _shapes())}; "
        f"known are {', '.join(models())}, or give the path of a config.json"
    )


def _resolve(model: str) -> tuple[str, dict[str, object]] | None:
    """Return name and configuration of a model; None: there is no such model."""
    if model in _shapes():
        return model, _shapes()[model]
    path = Path(model).expanduser()
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{file}: expected a JSON object, as in a Hugging Face config.json")
    return file.resolve().parent.name, config


@cache
def _shipped() -> dict[str, Profile]:
    lines = _data("profiles.jsonl").splitlines()
    return {profile.name: profile for profile in (from_json(line, "profiles.jsonl") for line in lines)}


@cache
def _gpus() -> dict[str, Gpu]:
    return {gpu.name: gpu for gpu in msgspec.json.decode(_data("gpus.json"), type=list[Gpu])}


@cache
def _shapes() -> dict[str, dict[str, object]]:
    return msgspec.json.decode(_data("models.json"), type=dict[str, dict[str, object]])


def _data(file: str) -> bytes:
    return (files("jedlik.profiles") / "data" / file).read_bytes()
