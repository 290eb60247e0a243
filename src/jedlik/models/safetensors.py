"""Reads the headers of safetensors files: names, types and shapes, and whether each file is whole.

A file is the length of its header (8 bytes, little endian), the header as JSON, and the tensors one after another.
"""

import json
import math
import os
from pathlib import Path
from typing import NamedTuple

from jedlik.core.errors import ConfigError
from jedlik.models.reading import cut_short, json_object, refuse_pointer, unreadable

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MOST_HEADER_BYTES = 100 << 20
ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
}  # fmt: skip
AGAIN = "copy it again"


class Tensor(NamedTuple):
    """A tensor in a file: its type and its shape."""

    dtype: str
    shape: tuple[int, ...]


def files(folder: Path) -> list[Path]:
    """Return the files of a model's weights, as transformers would choose them; empty where there are none."""
    if (folder / WHOLE).exists() or (folder / WHOLE).is_symlink():
        return [folder / WHOLE]
    if not (folder / INDEX).exists():
        return []
    return [folder / name for name in sorted(set(_index(folder).values()))]


def tensors(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a model by name. Raises ConfigError for a file that is missing, cut short or damaged."""
    found: dict[str, Tensor] = {}
    for path in files(folder):
        found |= header(path)
    if (folder / WHOLE).exists():
        return found
    for name, file in _index(folder).items():
        if name not in found:
            raise ConfigError(f"{folder / file} lacks the tensor {name}, which {INDEX} expects there: {AGAIN}")
    return found


def header(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one file. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(8)
            length = int.from_bytes(first, "little")
            refuse_pointer(path, first + file.read(32))
            file.seek(8)
            raw = file.read(length) if length <= MOST_HEADER_BYTES else b""
    except OSError as error:
        raise unreadable(path, error) from None
    if size < 8:
        raise ConfigError(f"{path} has {size} bytes and holds no tensors: {AGAIN}")
    if length > MOST_HEADER_BYTES:
        raise ConfigError(f"{path} is no safetensors file: it does not begin with the length of a header")
    if len(raw) < length:
        raise ConfigError(f"{path} ends in the middle of its header, after {size} bytes: {AGAIN}")
    found, data = _parsed(path, raw)
    if size - 8 - length < data:
        raise cut_short(path, size, 8 + length + data)
    return found


def _parsed(path: Path, raw: bytes) -> tuple[dict[str, Tensor], int]:
    """Return the tensors in a header, and how many bytes follow it."""
    found: dict[str, Tensor] = {}
    end = 0
    try:
        for name, about in json.loads(raw).items():
            if name == "__metadata__":
                continue
            tensor = Tensor(about["dtype"], tuple(about["shape"]))
            begins, ends = about["data_offsets"]
            bits = ITEM_BITS.get(tensor.dtype)
            if bits is not None and (ends - begins) * 8 != math.prod(tensor.shape) * bits:
                raise ConfigError(f"{path}: the header is damaged: {name} has not the size of its shape: {AGAIN}")
            found[name] = tensor
            end = max(end, ends)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ConfigError(f"{path}: the header is damaged, or this is no safetensors file: {AGAIN}") from None
    return found, end


def _index(folder: Path) -> dict[str, str]:
    """Return the file of each tensor."""
    path = folder / INDEX
    names = json_object(path).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise ConfigError(f"{path} has no weight_map that names a file for each tensor: {AGAIN}")
    return names
