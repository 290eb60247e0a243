"""The leaves of the configuration schema: names, types, defaults and help, read from `core/config` itself.

Flags, environment variables and file keys are all made of these, so that a field added to the schema is everywhere.
Help is the string below a field in the source, the place where its meaning is kept.
"""

import ast
import inspect
import typing

import msgspec

from jedlik.core.config import ServeConfig
from jedlik.serve import values


class Field(msgspec.Struct, frozen=True):
    """One value of the configuration."""

    path: tuple[str, ...]
    """("port",) or ("worker", "block_size")."""
    type: object
    default: object
    """`msgspec.NODEFAULT` where one must be given."""
    help: str

    @property
    def key(self) -> str:
        """The name as in a message: worker.block_size."""
        return ".".join(self.path)

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        return "JEDLIK_" + "__".join(self.path).upper()


def fields(struct: type[msgspec.Struct] = ServeConfig, above: tuple[str, ...] = ()) -> list[Field]:
    """All leaves, in the schema's order, nested slices last."""
    helps = _helps(struct)
    own: list[Field] = []
    nested: list[Field] = []
    for info in msgspec.structs.fields(struct):
        if info.name == "pools":  # a list of records is no flag: serve/pools reads it
            continue
        path = (*above, info.name)
        if isinstance(info.type, type) and issubclass(info.type, msgspec.Struct):
            nested += fields(info.type, path)
        else:
            default = info.default_factory() if info.default_factory is not msgspec.NODEFAULT else info.default
            own.append(Field(path, info.type, default, helps.get(info.name, "")))
    return own + nested


def type_name(field: Field) -> str:
    """The name of a field's type for people: int, size, torch|simulated ..."""
    kind = values.taken_apart(field.type)[0]
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is dict:
        return values.PAIRS
    if typing.get_origin(kind) is tuple:
        return values.NAMES
    return "size" if field.path[-1].endswith("_bytes") else getattr(kind, "__name__", str(kind))


def _helps(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The strings below fields."""
    body = ast.parse(inspect.getsource(struct)).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, after in zip(body.body, [*body.body[1:], ast.Pass()], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = after.value if isinstance(after, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[field.target.id] = " ".join(text.value.split())
    return found
