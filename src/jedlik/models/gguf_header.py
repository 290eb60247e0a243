"""Reads the header of a GGUF file: architecture, tokenizer, tensors, and whether it is whole.

A file is magic, version, counts, keys with values, tensors with types and offsets, then their data (GGUF 2 and 3).
"""

import math
import mmap
import struct
from pathlib import Path
from typing import NamedTuple

from jedlik.core.errors import ConfigError
from jedlik.models import known
from jedlik.models.pretokenizer import RULES
from jedlik.models.reading import cut_short, refuse_pointer, unreadable

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
TYPES: dict[int, tuple[int, int]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 16: (256, 66), 17: (256, 74), 18: (256, 98),
    19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36),
}  # fmt: skip
"""The types of tensors that can be converted, by number: so many values in so many bytes."""
SPELT = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "gpt-oss": "gpt_oss", "minimax-m2": "minimax_m2"}
"""The architectures that transformers spells in another way."""

SAMPLING = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_p": "top_p",
    "general.sampling.top_k": "top_k",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}


class _Ends(Exception):
    """The file ends before its header does."""


class GgufHeader(NamedTuple):
    """The parts of a GGUF file's header that matter here."""

    values: dict[str, object]
    """The numbers and texts by key; arrays are omitted."""
    types: set[int]
    """The types of the file's tensors."""
    size: int
    """The size of the whole file in bytes, according to the header."""


def check(path: Path) -> GgufHeader:
    """Return a file's header. Raises ConfigError for a file that can't be converted to a model directory."""
    found = read(path)
    size = path.stat().st_size
    if size < found.size:
        raise cut_short(path, size, found.size)
    values = found.values
    architecture = str(values.get("general.architecture"))
    supported = known.gguf_architectures()
    if supported is not None and SPELT.get(architecture, architecture) not in supported:
        raise ConfigError(f"{path} has the architecture {architecture!r}, which {known.release()} does not convert")
    if values.get("general.type", "model") != "model":
        raise ConfigError(f"{path} is of the type {values['general.type']!r}; only whole models can be served")
    parts = values.get("split.count")
    if isinstance(parts, int) and parts > 1:
        raise ConfigError(f"{path} is one of {parts} parts: join them with llama.cpp's `gguf-split --merge` first")
    if strange := found.types - TYPES.keys():
        raise ConfigError(f"{path} has tensors of type {min(strange)}, which can't be converted: take another file")
    if not found.types:
        raise ConfigError(f"{path} holds no tensors: take another file")
    if "tokenizer.ggml.tokens" not in values:
        raise ConfigError(f"{path} holds no tokenizer: take another file")
    rule = values.get("tokenizer.ggml.pre")
    if values.get("tokenizer.ggml.model") == "gpt2" and rule is not None and rule not in RULES:
        raise ConfigError(unknown_rule(path, str(rule)))
    return found


def sampling(found: GgufHeader) -> dict[str, object]:
    """Return the sampling that a file recommends, as in `generation_config.json`."""
    read = {SAMPLING[name]: value for name, value in found.values.items() if name in SAMPLING}
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in read.items()}


def unknown_rule(path: Path, rule: str) -> str:
    """Return the message for a tokenizer whose ids would be wrong."""
    return (
        f"{path.name} splits text by the rule {rule!r}, which is not known here: its token ids would be wrong. "
        "Serve the model's Hugging Face directory instead"
    )


def read(path: Path) -> GgufHeader:
    """Read a header. Raises ConfigError for what is no GGUF file, or ends in the middle of its header."""
    try:
        with open(path, "rb") as file:
            first = file.read(64)
            refuse_pointer(path, first)
            if first[:4] != MAGIC:
                raise ConfigError(
                    f"{path} is not a GGUF file (it begins with {first[:4]!r}): give one, or the directory of a model"
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data, path).header()
    except OSError as error:
        raise unreadable(path, error) from None
    except _Ends:
        raise ConfigError(f"{path} ends in the middle of its header, or the header is damaged: copy it again") from None


class _Reader:
    """Reads values one after the other. Raises _Ends where the file is over."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self._path = path
        self._at = len(MAGIC)

    def header(self) -> GgufHeader:
        version = self._number("I")
        if version not in VERSIONS:
            raise ConfigError(f"{self._path} is GGUF version {version}; versions 2 and 3, little endian, can be read")
        tensors, keys = int(self._number("Q")), int(self._number("Q"))
        values: dict[str, object] = {}
        for _ in range(keys):
            name = self._text()
            values[name] = self._value(int(self._number("I")))
        found = [self._tensor() for _ in range(tensors)]
        alignment = values.get("general.alignment", ALIGNMENT)
        step = alignment if isinstance(alignment, int) and alignment > 0 else ALIGNMENT
        data_at = -(-self._at // step) * step
        size = data_at + max(end for _, end in found) if found else self._at
        return GgufHeader(values, {kind for kind, _ in found}, size)

    def _tensor(self) -> tuple[int, int]:
        """Read a tensor's entry: (type, end of its data)."""
        self._text()
        shape = [int(self._number("Q")) for _ in range(int(self._number("I")))]
        kind, begins = int(self._number("I")), int(self._number("Q"))
        values, size = TYPES.get(kind, (1, 0))
        return kind, begins + math.prod(shape) // values * size

    def _value(self, kind: int) -> object:
        if kind in NUMBERS:
            return self._number(NUMBERS[kind])
        if kind == TEXT:
            return self._text()
        if kind != ARRAY:
            raise _Ends
        item, count = int(self._number("I")), int(self._number("Q"))
        if item in NUMBERS:
            self._skip(count * struct.calcsize(NUMBERS[item]))
        elif item == TEXT:
            for _ in range(count):
                self._skip(int(self._number("Q")))
        else:
            raise _Ends
        return None

    def _number(self, form: str) -> float:
        at = self._at
        self._skip(struct.calcsize(form))
        number: float = struct.unpack_from("<" + form, self._data, at)[0]
        return number

    def _text(self) -> str:
        length = int(self._number("Q"))
        self._skip(length)
        return self._data[self._at - length : self._at].decode(errors="replace")

    def _skip(self, count: int) -> None:
        if self._at + count > len(self._data):
            raise _Ends
        self._at += count
