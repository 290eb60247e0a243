"""Texts that somebody wrote become values of the schema's types and ranges, or are refused in our words.

Flags, environment and files all come here as text (a file's lists and mappings as such). Numbers are read strictly: no
underscores, blanks or signs that Python's own `int` would take, nothing infinite, no octal.
"""

import math
import re
import types
import typing
from collections.abc import Callable, Mapping

import msgspec

from jedlik.core.errors import ConfigError, did_you_mean
from jedlik.core.units import size_bytes

WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
NUMBER = re.compile(r"-?([0-9]{1,300}(\.[0-9]{0,300})?|\.[0-9]{1,300})([eE][+-]?[0-9]{1,3})?")
TRUTH = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
NOTHING = ("none", "null")
PAIRS = "key=tenant,..."
NAMES = "name,..."
"""The form of lists of texts where there is one line for them; none: an empty list."""


class WrongValue(ValueError):
    """A value that can't be. `key` says where below what was read it stood: pools[0].count; empty: it itself."""

    def __init__(self, text: str, key: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.key = key


def read(kind: object, raw: object, key: str = "") -> object:
    """`raw` as a `kind`: a struct, a tuple, a choice, a number, a text. Raises WrongValue."""
    bare, ranges, optional = taken_apart(kind)
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        return _struct(bare, raw, key)
    if raw is None or (optional and isinstance(raw, str) and raw.lower() in NOTHING):
        if optional:
            return None
        raise WrongValue(f"{_expected(bare)} is missing" if raw is None else "can't be none", key)
    origin = typing.get_origin(bare)
    if origin is tuple:
        return _list(bare, raw, key)
    if origin is typing.Literal:
        return _choice(bare, raw, key)
    if origin in (types.UnionType, typing.Union):
        return _either(bare, raw, key)
    try:
        if origin is dict:
            return _pairs(raw)
        return _ranged(_plain(bare, raw, is_size=key.endswith("_bytes")), ranges)
    except ValueError as error:
        raise WrongValue(str(error), key) from None


def taken_apart(kind: object) -> tuple[object, msgspec.Meta | None, bool]:
    """A type without its range and None; its range; whether it may be None."""
    optional = False
    arms = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else ()
    if type(None) in arms:
        others = [arm for arm in arms if arm is not type(None)]
        kind, optional = (others[0] if len(others) == 1 else typing.Union[tuple(others)]), True  # noqa: UP007
    if typing.get_origin(kind) is typing.Annotated:
        bare, *notes = typing.get_args(kind)
        return bare, next((note for note in notes if isinstance(note, msgspec.Meta)), None), optional
    return kind, None, optional


def range_text(ranges: msgspec.Meta) -> str:
    """A range in words for people: at least 1; more than 0 and less than 1."""
    limits = {"at least": ranges.ge, "more than": ranges.gt, "at most": ranges.le, "less than": ranges.lt}
    return " and ".join(f"{words} {limit:.15g}" for words, limit in limits.items() if limit is not None)


def _struct(kind: type[msgspec.Struct], raw: object, key: str) -> msgspec.Struct:
    if not isinstance(raw, Mapping):
        raise WrongValue(f"expected a mapping of {', '.join(kind.__struct_fields__)}; found {_shown(raw)}", key)
    infos = {info.name: info for info in msgspec.structs.fields(kind)}
    found: dict[str, object] = {}
    for name, value in raw.items():
        below = f"{key}.{name}".lstrip(".")
        if name not in infos:
            raise WrongValue(f"unknown key {str(name)!r}{did_you_mean(str(name), infos)}", below)
        found[name] = read(infos[name].type, value, below)
    for info in infos.values():
        if info.required and info.name not in found:
            raise WrongValue(f"{info.name} is missing: it must be given", key)
    return kind(**found)


def _list(kind: object, raw: object, key: str) -> tuple[object, ...]:
    each = typing.get_args(kind)[0]
    if each is str and isinstance(raw, str):
        raw = [] if raw.lower() in NOTHING else [name.strip() for name in raw.split(",")]
    if not isinstance(raw, (list, tuple)):
        raise WrongValue(f"expected a list, each entry behind a dash; found {_shown(raw)}", key)
    return tuple(read(each, value, f"{key}[{number}]") for number, value in enumerate(raw))


def _choice(kind: object, raw: object, key: str) -> object:
    choices = typing.get_args(kind)
    if raw in choices:
        return raw
    raise WrongValue(f"{_shown(raw)} is none of the choices, which are {', '.join(map(str, choices))}", key)


def _either(kind: object, raw: object, key: str) -> object:
    """The first type that fits."""
    *first, last = typing.get_args(kind)
    for arm in first:
        try:
            return read(arm, raw, key)
        except WrongValue:
            pass
    return read(last, raw, key)


def _plain(kind: object, raw: object, *, is_size: bool) -> object:
    if isinstance(raw, str):
        return _READ[typing.cast(type, kind)](raw) if not is_size or kind is str else size_bytes(raw)
    if type(raw) is kind or (kind is float and type(raw) is int):
        return float(raw) if kind is float and isinstance(raw, (int, float)) else raw
    raise ValueError(f"expected {_expected(kind)}; found {_shown(raw)}")


def whole(text: str) -> int:
    """Plain digits: Python's int() takes underscores, blanks and digits of other scripts too. Raises ValueError."""
    if not WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a whole number such as 8, in plain digits")
    return int(text)


def number(text: str) -> float:
    """Parse a decimal number, as `whole` parses a whole one."""
    if not NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number such as 0.5 or 1e9")
    return float(text)


def ascending(flag: str, text: str) -> tuple[int, ...]:
    """Return the numbers of a list such as 16,64,256. Raises ConfigError."""
    try:
        found = sorted({whole(part.strip()) for part in text.split(",")})
    except ValueError:
        found = [0]
    if found[0] < 1:
        raise ConfigError(f"--{flag} {text}: expected whole numbers above 0 with commas between, as in 64,256")
    return tuple(found)


def _truth(text: str) -> bool:
    if text.lower() not in TRUTH:
        raise ValueError(f"{text!r} is neither yes nor no")
    return TRUTH[text.lower()]


def _text(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("it is empty" if not text else "it has characters that can't be printed")
    return text


_READ: dict[type, Callable[[str], object]] = {bool: _truth, int: whole, float: number, str: _text}


def _ranged(value: object, ranges: msgspec.Meta | None) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no finite number")
    if ranges is not None and isinstance(value, (int, float)):
        low = (ranges.ge is not None and value < ranges.ge) or (ranges.gt is not None and value <= ranges.gt)
        high = (ranges.le is not None and value > ranges.le) or (ranges.lt is not None and value >= ranges.lt)
        if low or high:
            raise ValueError(f"{value:.15g} is out of range: {range_text(ranges)} is needed")
    return value


def _pairs(raw: object) -> dict[str, str]:
    """`key=tenant,key=tenant`; a key alone has the tenant "default". What is wrong is told without the keys."""
    if isinstance(raw, Mapping):
        parts = [(str(key), str(tenant or "")) for key, tenant in raw.items()]
    elif isinstance(raw, str):
        parts = [(key, tenant) for key, _, tenant in (part.strip().partition("=") for part in raw.split(",") if part)]
    else:
        raise ValueError(f"expected {PAIRS}")
    found: dict[str, str] = {}
    for key, tenant in parts:
        if not key or key in found:
            raise ValueError("one key is there twice" if key else f"a key is empty: write {PAIRS}")
        found[key] = tenant or "default"
    return found


def _expected(kind: object) -> str:
    names = {bool: "yes or no", int: "a whole number", float: "a number", str: "a text"}
    return names.get(typing.cast(type, kind), "a value")


def _shown(raw: object) -> str:
    if isinstance(raw, (list, tuple)):
        return "a list"
    return "a mapping" if isinstance(raw, Mapping) else "nothing" if raw is None else repr(raw)[:80]
