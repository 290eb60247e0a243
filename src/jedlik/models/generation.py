"""The sampling that a model's author recommends where a request has none: `generation_config.json`.

The keys are those that vLLM and SGLang read; the rest of the file (`do_sample`, `max_length`, beams) is not read.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from jedlik.core.errors import ConfigError
from jedlik.core.requests import OPENAI, RANGES, Defaults
from jedlik.models.reading import json_object

FILE = "generation_config.json"
LARGEST = float(2**31 - 1)
READ: dict[str, tuple[float, float, bool]] = {
    **{name: (*RANGES[name], False) for name in ("temperature", "top_p", "min_p", "repetition_penalty")},
    "top_k": (-1.0, LARGEST, True),
    "max_new_tokens": (1.0, LARGEST, True),
}
"""The values that are read: the smallest, the largest, and whether it must be a whole number."""


def read(folder: Path) -> Defaults:
    """Return the defaults in a model directory; neutral ones where there is no such file. Raises ConfigError."""
    path = folder / FILE
    return parsed(json_object(path), str(path)) if path.exists() else OPENAI


def parsed(values: Mapping[str, object], where: str) -> Defaults:
    """Return the defaults in the values of a `generation_config.json`; null stands for nothing. Raises ConfigError."""
    found = {
        name: _number(values[name], f"{where}: {name}", *READ[name]) for name in READ if values.get(name) is not None
    }
    limit, top_k = found.pop("max_new_tokens", None), max(0.0, found.pop("top_k", 0.0))
    return Defaults(**found, top_k=int(top_k), max_tokens=None if limit is None else int(limit))


def complete(folder: Path, recommended: Mapping[str, object]) -> None:
    """Add recommended values to a model's file, where the file has none of its own. Raises OSError."""
    path = folder / FILE
    written = json_object(path) if path.exists() else {}
    wanted = {**recommended, **written}
    if wanted != written:
        aside = path.with_suffix(f".{os.getpid()}.tmp")
        aside.write_text(json.dumps(wanted, indent=2))
        aside.replace(path)


def _number(value: object, what: str, low: float, high: float, whole: bool = False) -> float:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if number is not None and low <= number <= high and (not whole or number == int(number)):  # NaN is in no range
        return float(number)
    wanted = f"at least {low:g}" if high == LARGEST else f"between {low:g} and {high:g}"
    kind = "whole number" if whole else "number"
    raise ConfigError(
        f"{what} is {json.dumps(value)[:40]}, and must be a {kind} {wanted}: correct the file, or ignore its values "
        "with --generation-config none"
    )
