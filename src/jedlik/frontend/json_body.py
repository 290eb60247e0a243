"""A request's body becomes a typed value, or a RequestError in plain words that names the field by its path.

A valid body is decoded at once. Only a body that the decoder refuses is looked at again, value by value: what asks for
nothing is taken (an unknown field at null, 5.0 for a whole number), and the first value that is wrong is named. The
second look is linear in the body, bounded, and matches no pattern over a client's text.

Decoding happens at once, so a large body is weighed before. Text costs a decoder next to nothing; objects, lists and
fields cost hundreds of nanoseconds each, items of lists tens. Where the plain counts are too high strings are left out,
so that text that talks about JSON counts as text.
"""

import json
import math
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import msgspec
from msgspec import inspect

from jedlik.core.errors import RequestError, did_you_mean
from jedlik.frontend.turns import Steps

T = TypeVar("T")
_Open = inspect.AnyType | inspect.CustomType  # a field typed `object`: anything
SMALL_BYTES = 128 << 10
"""A body of this size is decoded in some milliseconds, whatever it holds."""
MOST_FIELDS = 80_000
"""A body has at most so many objects, lists and fields."""
MOST_ITEMS = 1_000_000
"""A body has at most so many values: several times the token ids of the longest context."""
STRETCH_BYTES = 1 << 16
EXPLAINED_BYTES = 1 << 20
"""Text that is no JSON is looked at again up to this size, to say where it goes wrong."""
MOST_LOOKED_AT = 20_000
"""Objects, lists and their items that a second look visits: about 50 ms."""
MOST_NAME_CHARS = 64
MOST_DIGITS = 4000
TOO_DEEP = "The JSON is nested too deeply."


class Reader(Generic[T]):
    """Reads bodies of one type."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decoder = msgspec.json.Decoder(kind)
        self._type = inspect.type_info(kind)

    def read(self, raw: bytes | bytearray) -> T:
        """Return the decoded body. Raises RequestError."""
        try:
            return self._decoder.decode(raw)
        except msgspec.ValidationError:
            return self._again(raw)
        except RecursionError as error:
            raise _not_json(TOO_DEEP) from error
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise _unreadable(raw) from error

    def steps(self, raw: bytes) -> Steps[T]:
        """Do what `read` does. A large body is weighed first; an invalid one is looked at again in a thread.

        Raises RequestError, also for a body that holds too much to be decoded at once.
        """
        if len(raw) <= SMALL_BYTES:
            return self.read(raw)
        if (yield from _is_heavy(_stretches(raw))) and (yield from _is_heavy(_outside_strings(raw))):
            raise RequestError(
                f"The body holds more than {MOST_FIELDS} objects, lists and fields, or more than {MOST_ITEMS} values; "
                "send it in parts.",
                code="body_too_complex",
            )
        try:
            return self._decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            body: T = yield lambda: self.read(raw)
            return body

    def _again(self, raw: bytes | bytearray) -> T:
        try:
            value = msgspec.json.decode(raw)
        except RecursionError as error:
            raise _not_json(TOO_DEEP) from error
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise _unreadable(raw) from error
        settled = _SecondLook().settle(value, self._type, "")
        try:
            return msgspec.convert(settled, self._kind)
        except msgspec.ValidationError as error:
            raise _invalid("The body is not as this endpoint expects it.", None) from error


class _SecondLook:
    """Settles what is almost right, and names what is wrong first."""

    def __init__(self) -> None:
        self._budget = MOST_LOOKED_AT

    def settle(self, value: object, kind: inspect.Type, path: str) -> object:
        """The value as the decoder takes it. Raises RequestError."""
        self._budget -= 1
        if self._budget < 0:
            raise _invalid("The body has a value of a wrong type, and too many values to say which.", None)
        found = next((member for member in _members(kind) if _accepts(member, value)), None)
        if found is None:
            raise _wrong(path, f"must be {_wanted(kind)}, not {_described(value)}")
        if isinstance(found, inspect.StructType) and isinstance(value, dict):
            return self._struct(value, found, path)
        if isinstance(found, inspect.DictType) and isinstance(value, dict):
            return self._dict(value, found, path)
        if isinstance(found, inspect.ListType) and isinstance(value, list):
            return self._list(value, found, path)
        if isinstance(found, inspect.IntType | inspect.FloatType) and isinstance(value, int | float):
            return _number(value, found, path)
        return value

    def _struct(self, value: dict[str, object], kind: inspect.StructType, path: str) -> object:
        known = {field.encode_name: field for field in kind.fields}
        settled = {}
        for name, item in value.items():
            field = known.get(name)
            if field is not None:
                settled[name] = self.settle(item, field.type, _join(path, name))
            elif item is not None:
                at = _join(path, name)
                what = f"{at} is not supported{did_you_mean(name[:MOST_NAME_CHARS], known) or '.'}"
                raise RequestError(what, param=at, code="unknown_parameter")
        for name, field in known.items():
            if field.required and name not in settled:
                at = _join(path, name)
                raise RequestError(f"{at} is missing.", param=at, code="missing_parameter")
        return settled

    def _dict(self, value: dict[str, object], kind: inspect.DictType, path: str) -> object:
        if _plain(value.values(), kind.value_type):
            return value
        return {name: self.settle(item, kind.value_type, _join(path, name)) for name, item in value.items()}

    def _list(self, value: list[object], kind: inspect.ListType, path: str) -> object:
        if _plain(value, kind.item_type):
            return value
        return [self.settle(item, kind.item_type, f"{path}[{at}]") for at, item in enumerate(value)]


def _join(path: str, name: str) -> str:
    shown = name[:MOST_NAME_CHARS] or '""'
    return f"{path}.{shown}" if path else shown


def _members(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    return kind.types if isinstance(kind, inspect.UnionType) else (kind,)


_TAKEN: dict[type[inspect.Type], tuple[type, ...]] = {
    inspect.NoneType: (type(None),), inspect.BoolType: (bool,), inspect.IntType: (int,), inspect.StrType: (str,),
    inspect.FloatType: (int, float), inspect.ListType: (list,), inspect.DictType: (dict,), inspect.StructType: (dict,),
}  # fmt: skip
_NAMED: dict[type[inspect.Type], str] = {
    inspect.BoolType: "true or false", inspect.IntType: "a whole number", inspect.FloatType: "a number",
    inspect.StrType: "a string", inspect.ListType: "a list", inspect.DictType: "an object",
    inspect.StructType: "an object",
}  # fmt: skip


def _accepts(kind: inspect.Type, value: object) -> bool:
    """Whether a value is of this type, as far as its outermost level says."""
    if isinstance(kind, _Open):
        return True
    if isinstance(kind, inspect.LiteralType):
        return isinstance(value, str) and value in kind.values
    if isinstance(kind, inspect.IntType) and isinstance(value, float):
        return value.is_integer()
    return type(value) in _TAKEN[type(kind)]


_ATOMS: dict[type[inspect.Type], type] = {
    inspect.NoneType: type(None), inspect.BoolType: bool, inspect.IntType: int, inspect.FloatType: float,
    inspect.StrType: str,
}  # fmt: skip


def _plain(values: Iterable[object], kind: inspect.Type) -> bool:
    """Whether nothing has to be settled: a list of token ids may have a million."""
    members = _members(kind)
    atoms = {_ATOMS[type(each)] for each in members if type(each) in _ATOMS}
    return any(isinstance(each, _Open) for each in members) or set(map(type, values)) <= atoms


def _bounds(kind: inspect.Type) -> tuple[float | None, float | None]:
    return (kind.ge, kind.le) if isinstance(kind, inspect.IntType | inspect.FloatType) else (None, None)


def _number(value: float, kind: inspect.IntType | inspect.FloatType, path: str) -> float:
    try:
        number: float = int(value) if isinstance(kind, inspect.IntType) else float(value)
    except OverflowError:
        raise _wrong(path, "is too large a number") from None
    low, high = _bounds(kind)
    if (low is not None and number < low) or (high is not None and number > high):
        raise _wrong(path, f"must be between {low} and {high}")
    return number


def _wanted(kind: inspect.Type) -> str:
    """What a field takes, in words. Null is taken by nearly all of them and not worth a word."""
    names = []
    for each in _members(kind):
        if isinstance(each, inspect.LiteralType):
            names += [repr(value) for value in each.values]
        elif not isinstance(each, inspect.NoneType):
            names.append(_NAMED[type(each)])
    return " or ".join(dict.fromkeys(names))


def _described(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return f"{value:g}" if abs(value) < 1e15 else "so large a number"
    return "a string" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def _invalid(message: str, param: str | None) -> RequestError:
    return RequestError(message, param=param, code="invalid_value")


def _wrong(path: str, why: str) -> RequestError:
    return _invalid(f"{path or 'The body'} {why}.", path or None)


def _not_json(message: str, param: str | None = None) -> RequestError:
    return RequestError(message, param=param, code="invalid_json")


# --- what no decoder takes ---


def _unreadable(raw: bytes | bytearray) -> RequestError:
    """Why a body is no JSON, or which value of it nothing can hold."""
    if not raw.strip():
        return _not_json("The body is empty: send a JSON object.")
    if len(raw) > EXPLAINED_BYTES:
        return _not_json("The body is not valid JSON.")
    try:
        value = json.loads(raw.decode(), parse_int=_whole)
    except UnicodeDecodeError as error:
        return _not_json(f"The body is not valid JSON: it is not UTF-8 at byte {error.start}.")
    except json.JSONDecodeError as error:
        rest = error.doc[error.pos : error.pos + 20]
        where = (
            f"it goes wrong at character {error.pos}, where {rest!r} stands" if rest.strip() else "it ends too early"
        )
        return _not_json(f"The body is not valid JSON: {where}.")
    except RecursionError:
        return _not_json(TOO_DEEP)
    for path, leaf in _leaves(value):
        if isinstance(leaf, str) and not _is_text(leaf):
            return _not_json(f"{path or 'The body'} has half of a surrogate pair, which is no character.", path or None)
        if isinstance(leaf, float) and not math.isfinite(leaf):
            return _not_json(f"{path or 'The body'} is too large a number, or none.", path or None)
    return _not_json("The body is not valid JSON.")


def _whole(digits: str) -> float:
    return int(digits) if len(digits) < MOST_DIGITS else math.inf


def _is_text(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _leaves(value: object) -> Iterator[tuple[str, object]]:
    """Names, strings and numbers in order, each with the path of its value."""
    pending: list[tuple[str, object]] = [("", value)]
    while pending:
        path, item = pending.pop()
        if isinstance(item, dict):
            for name in item:
                yield _join(path, name), name
            pending += [(_join(path, name), below) for name, below in reversed(item.items())]
        elif isinstance(item, list):
            pending += [(f"{path}[{at}]", below) for at, below in reversed(list(enumerate(item)))]
        else:
            yield path, item


# --- how much a body holds ---


def _is_heavy(stretches: Iterator[bytes]) -> Steps[bool]:
    fields = items = 0
    for stretch in stretches:
        fields += stretch.count(b"{") + stretch.count(b"[") + stretch.count(b":")
        items += stretch.count(b",")
        if fields > MOST_FIELDS or items > MOST_ITEMS:
            return True
        yield None
    return False


def _stretches(raw: bytes) -> Iterator[bytes]:
    for begin in range(0, len(raw), STRETCH_BYTES):
        yield raw[begin : begin + STRETCH_BYTES]


def _outside_strings(raw: bytes) -> Iterator[bytes]:
    """Bytes that belong to no string. Without escapes every quotation mark begins or ends one."""
    inside = 0
    for stretch in _stretches(raw.replace(rb"\\", b"").replace(rb"\"", b"")):
        parts = stretch.split(b'"')
        yield b"".join(parts[inside::2])
        inside = (inside + len(parts) - 1) % 2
