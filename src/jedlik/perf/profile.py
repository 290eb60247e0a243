"""A profile: what one engine on one device can do, as a value that router, planner and simulator share.

Made by `jedlik profile`, shipped in `profiles`, or computed by `perf/roofline`. As JSON it is one object; what is not
known (a capacity seen from outside) is absent, not zero.
"""

from collections.abc import Iterator
from itertools import pairwise
from math import isfinite

import msgspec

from jedlik.core.errors import ConfigError
from jedlik.perf.linear import PhaseCosts, PhaseModel
from jedlik.perf.model import StepModel
from jedlik.perf.table import Table, TableModel


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One engine: a model, on a device, by a backend, at one degree of parallelism."""

    name: str
    """MODEL/DEVICE/PARALLELISM[-BACKEND], or what its maker called it."""
    model: str
    device: str
    """h100, h200, b200, gb200, cpu, cuda ... or `endpoint`, measured from outside."""
    backend: str
    """trtllm, vllm, torch, roofline, openai ..."""
    tp: int = 1
    """GPUs that share each layer."""
    ep: int = 1
    """GPUs that share the experts."""
    gpus: int = 1
    """GPUs of one worker; 0 on a CPU."""
    costs: PhaseCosts
    table: Table | None = None
    """Finer than `costs`, where there is one."""
    kv_bytes_per_token: int | None = None
    """Bytes of one token's KV, over all of a worker's GPUs."""
    kv_tokens: int | None = None
    """KV cache of one worker."""
    measured: bool = False
    """True: the figures were measured on the device. False: they were computed."""
    error: float | None = None
    """Mean absolute relative error of the model over the points it was made from."""
    source: str = ""
    """The origin of the numbers, for people."""


def model(profile: Profile) -> StepModel:
    """Return the step model of an engine with this profile."""
    return PhaseModel(profile.costs) if profile.table is None else TableModel(profile.table)


def to_json(profile: Profile) -> bytes:
    """Return a profile as an indented JSON file."""
    return msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n"


def from_json(raw: bytes, where: str) -> Profile:
    """Raises ConfigError naming `where` and what is wrong with it."""
    try:
        profile = msgspec.json.decode(raw, type=Profile)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{where}: no profile: {error}; `jedlik profile MODEL --out FILE` writes one") from error
    for problem in problems(profile):
        raise ConfigError(f"{where}: {problem}")
    return profile


def problems(profile: Profile) -> Iterator[str]:
    """The problems of a profile that its types don't exclude."""
    for field in PhaseCosts.__struct_fields__:
        value = getattr(profile.costs, field)
        if not (isfinite(value) and value >= 0):
            yield f"costs.{field} is {value}: a time is 0 s or more"
    if not profile.costs.decode_base_s + profile.costs.decode_sequence_s > 0:
        yield "costs: a step that decodes would take no time; decode_base_s or decode_sequence_s must be more than 0"
    for field, least in (("tp", 1), ("ep", 1), ("gpus", 0), ("kv_bytes_per_token", 1), ("kv_tokens", 1)):
        value = getattr(profile, field)
        if value is not None and value < least:
            yield f"{field} is {value}: at least {least} is needed"
    if profile.table is not None:
        yield from _table_problems(profile.table)


def _table_problems(table: Table) -> Iterator[str]:
    for knots, *columns in (("prefill_tokens", "prefill_s"), ("batches", "decode_s", "context_token_s")):
        at = getattr(table, knots)
        if not at or at[0] < 1 or any(b <= a for a, b in pairwise(at)):
            yield f"table.{knots} must be positive and ascend"
        for column in columns:
            values = getattr(table, column)
            if len(values) != len(at):
                yield f"table.{column} has {len(values)} values for {len(at)} {knots}"
            if not all(isfinite(value) and value >= 0 for value in values):
                yield f"table.{column} holds a time below 0 s"
    if table.decode_s and not table.decode_s[0] > 0:
        yield "table.decode_s[0] is 0: a step takes time"
    for field in ("prefill_pair_s", "mixed_sequence_s"):
        value = getattr(table, field)
        if not (isfinite(value) and value >= 0):
            yield f"table.{field} is {value}: a time is 0 s or more"
